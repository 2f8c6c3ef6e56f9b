"""The papers' experiments: one folder per paper, one module per experiment.

An experiment module has

    a docstring            its first line is the experiment's title
    Config                 frozen dataclass, a tfmem.training.RunConfig; the text below each field names its source
    PRESETS                {"paper": Config(...), "demo": ..., "smoke": ...}
    PAPER                  {metric: (the paper's number or None, where it stands)}
    DATASETS               names of the data sets it needs, for `reproduce list`
    Experiment             a tfmem.training.Experiment, made from a Config
    SIGNATURES             of its SavedModel, where they are not {"step", "sequence"}

Modules whose names begin with an underscore are helpers of their paper's experiments.
"""

import importlib
from pathlib import Path


def experiment_modules():
    """`{"<paper>/<experiment>": module name}` of all experiments, found by walking this folder; imports none."""
    here = Path(__file__).parent
    return {
        f"{path.parent.name}/{path.stem}": f"{__name__}.{path.parent.name}.{path.stem}"
        for path in sorted(here.glob("*/*.py"))
        if not path.stem.startswith("_")
    }


def load_experiment(name, modules=None):
    """The module of an experiment.

    Args:
      name: "<paper>/<experiment>".
      modules: as from `experiment_modules` (the default).

    Raises:
      ValueError: there is no experiment of that name.
    """
    modules = experiment_modules() if modules is None else modules
    if name not in modules:
        raise ValueError(f"experiment: {name!r}, must be one of {', '.join(modules)}")
    return importlib.import_module(modules[name])
