"""SimCore in Procedural Terrain: beliefs that hold a landscape (Gregor et al. 2019, Appendix I, Figures 11 and 12).

Like random_city, in a larger world with a slower agent, and with a ConvDRAW that samples maps given the belief. Paper:
trained with reinforcement learning as well. Here a policy explores (tfmem.envs.exploration), and only the model's loss
shapes the beliefs.
"""

import dataclasses

from tfmem.envs.exploration import ExploringPolicy
from tfmem.validation import check_range

from . import comparison, settings
from .settings import WalkerConfig
from .simcore import SimCoreExperiment, World

PAPER, SIGNATURES = settings.PAPER, settings.SIGNATURES
DATASETS = ()
STATUS = "-"
compare = comparison.compare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(WalkerConfig):
    map_size: int = 64
    """Side of the map. Not specified; we use a pixel for a point of the terrain."""
    map_samples: bool = True
    """Train a ConvDRAW to sample maps given the belief. Paper: yes (I). Not specified at which steps; we use N_t steps
    of each trajectory."""
    speed: float = 0.4
    """Length of a move, in units of the world. Paper: slower than in the city (App. I). Not specified; we use this."""
    size: int = 64
    """Points of a side of the height map. Paper: 64 (I)."""
    num_blocks: int = 20
    """Yellow blocks. Paper: 20 (I)."""

    def __post_init__(self):
        super().__post_init__()
        check_range("size", self.size, 16)
        check_range("num_blocks", self.num_blocks, 1)


PRESETS = {
    "paper": Config(**settings.PAPER_UPDATES, **settings.LSTM),
    "paper_rma": Config(**settings.PAPER_UPDATES, **settings.RMA),
    "paper_kanerva": Config(**settings.PAPER_UPDATES, **settings.KANERVA),
    "demo": Config(**settings.DEMO, look=0.2, size=20, num_blocks=6),
    "smoke": Config(**settings.SMOKE, size=16, num_blocks=2),
}


class Experiment(SimCoreExperiment):
    name = "belief_states/terrain"

    def world(self):
        names = ("frame_size", "map_size", "speed", "num_headings", "field_of_view", "size", "num_blocks")
        arguments = {name: getattr(self.config, name) for name in names}
        return World("tfmem/Terrain-v0", arguments, self.config.size - 1, ExploringPolicy(self.config.look))
