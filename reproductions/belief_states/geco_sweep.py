"""Effect of GECO's threshold on beliefs: random_city for several kappa (Gregor et al. 2019, App. G, Figure 9).

Random City with one preset for each kappa. Paper: the best is about 1e-3; the others are not readable. Not specified;
we use half decades.
"""

import dataclasses

from . import random_city

Config, PAPER, SIGNATURES = random_city.Config, random_city.PAPER, random_city.SIGNATURES
compare = random_city.compare
DATASETS = ()
STATUS = "-"
KAPPAS = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2")
_DEMO = random_city.PRESETS["demo_generative"]
PRESETS = {
    "paper": random_city.PRESETS["paper"],
    **{f"paper_{k}": dataclasses.replace(random_city.PRESETS["paper"], kappa=float(k)) for k in KAPPAS if k != "1e-3"},
    "demo": dataclasses.replace(_DEMO, kappa=1e-2),
    **{f"demo_{k}": dataclasses.replace(_DEMO, kappa=float(k)) for k in KAPPAS if k != "1e-2"},
    "smoke": random_city.PRESETS["smoke"],
}


class Experiment(random_city.Experiment):
    name = "belief_states/geco_sweep"
