"""SimCore in Random City: beliefs that hold the map (Gregor et al. 2019, §4, appendices F, G, H, K).

An agent walks among boxes of random size and colour and sees 64x64 frames. Its beliefs get neither the map nor its
position; probes measure how much of both they hold. Not specified: the world; see docs/envs.md.
"""

import dataclasses

from tfmem.envs.exploration import ExploringPolicy
from tfmem.validation import check_range

from . import comparison, settings
from .settings import WalkerConfig
from .simcore import SimCoreExperiment, World

PAPER, SIGNATURES = settings.PAPER, settings.SIGNATURES
DATASETS = ()
STATUS = "demo"
compare = comparison.compare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(WalkerConfig):
    speed: float = 0.5
    """Length of a move, in units of the world. Not specified; we use this."""
    num_boxes: int = 14
    """Most boxes of a city. Not specified; we use this."""
    side: int = 12
    """Side of the city, in units. Not specified; we use this."""

    def __post_init__(self):
        super().__post_init__()
        check_range("num_boxes", self.num_boxes, 0)
        check_range("side", self.side, 6)


_DEMO = Config(**settings.DEMO, look=0.3, num_boxes=4, side=6)
PRESETS = {
    "paper": Config(**settings.PAPER_UPDATES, **settings.LSTM),
    "paper_rma": Config(**settings.PAPER_UPDATES, **settings.RMA),
    "paper_kanerva": Config(**settings.PAPER_UPDATES, **settings.KANERVA),
    "demo": _DEMO,
    "demo_overshoot_1": dataclasses.replace(_DEMO, overshoot=1),
    "demo_generative": dataclasses.replace(_DEMO, model="generative"),
    "demo_rma": dataclasses.replace(_DEMO, **settings.DEMO_RMA),
    "demo_kanerva": dataclasses.replace(_DEMO, **settings.DEMO_KANERVA),
    "demo_untrained_core": dataclasses.replace(_DEMO, train_core=False),
    "smoke": Config(**settings.SMOKE, num_boxes=3, side=6),
}


class Experiment(SimCoreExperiment):
    name = "belief_states/random_city"

    def world(self):
        names = ("frame_size", "map_size", "speed", "num_headings", "field_of_view", "num_boxes", "side")
        arguments = {name: getattr(self.config, name) for name in names}
        return World("tfmem/RandomCity-v0", arguments, self.config.side, ExploringPolicy(self.config.look))
