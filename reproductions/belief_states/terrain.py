"""SimCore in Procedural Terrain: beliefs that hold a landscape (Gregor et al. 2019, Appendix I, Figures 11 and 12).

As random_city, in a larger world with a slower agent, and with a ConvDRAW that samples maps given the belief. The paper
trains here by reinforcement as well; here, a policy explores (tfmem.envs.exploration) and the model's loss alone shapes
the beliefs.
"""

import dataclasses

from reproductions.belief_states import comparison, simcore
from reproductions.belief_states.simcore import SimCoreConfig, SimCoreExperiment, World
from tfmem.training import check_range

PAPER, SIGNATURES = simcore.PAPER, simcore.SIGNATURES
DATASETS = ()
STATUS = "-"
compare = comparison.compare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SimCoreConfig):
    map_size: int = 64
    """Side of the map. Not specified; we use a pixel for a point of the terrain."""
    map_samples: bool = True
    """Whether a ConvDRAW learns to sample maps given the belief (I), at N_t steps of each trajectory. Not specified
    where; we use these steps."""
    speed: float = 0.4
    """Length of a move, in units of the world. Paper: slower than in the city (App. I). Not specified; we use this."""
    size: int = 64
    """Points of a side of the height map; I."""
    num_blocks: int = 20
    """Yellow blocks; I."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "size", 16)
        check_range(self, "num_blocks", 1)


PRESETS = {
    "paper": Config(**simcore.PAPER_UPDATES, **simcore.LSTM),
    "paper_rma": Config(**simcore.PAPER_UPDATES, **simcore.RMA),
    "paper_kanerva": Config(**simcore.PAPER_UPDATES, **simcore.KANERVA),
    "demo": Config(**(simcore.DEMO | {"look": 0.2}), size=20, num_blocks=6, speed=0.75),
    "smoke": Config(**simcore.SMOKE, size=16, num_blocks=2),
}


class Experiment(SimCoreExperiment):
    name = "belief_states/terrain"

    def world(self):
        names = ("frame_size", "map_size", "speed", "num_headings", "field_of_view", "size", "num_blocks")
        arguments = {name: getattr(self.config, name) for name in names}
        return World("tfmem/Terrain-v0", arguments, self.config.size - 1)
