"""SimCore in building levels: beliefs that hold what the agent builds (Gregor et al. 2019, Appendix J, Figure 13).

Like random_city, in a voxel world where the agent picks up blocks, places them and climbs. Paper: closed levels, and an
agent that learns in them; we use levels designed for tfmem (tfmem.envs.building). A scripted builder acts
(tfmem.envs.builder), and only the model's loss shapes the beliefs. Figure 13 is rollouts.png.
"""

import dataclasses

from tfmem.envs.builder import BuildingPolicy
from tfmem.envs.building import Building
from tfmem.validation import check_range

from . import comparison, settings
from .settings import SimCoreConfig
from .simcore import SimCoreExperiment, World

PAPER, SIGNATURES = settings.PAPER, settings.SIGNATURES
DATASETS = ()
STATUS = "demo"
compare = comparison.compare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SimCoreConfig):
    map_size: int = 36
    """Side of the map. Not specified; we use four pixels for a cell."""
    field_of_view: float = 100.0
    """Field of view of the agent, degrees. Not specified; we use a wide one: what it builds is near."""
    size: int = 9
    """Cells of a side. Not specified; we use this."""
    cliff: int = 3
    """Height of the cliff; 0: there is none. Paper: "a higher version of the cliff" (J). Not specified; we use this."""
    num_food: int = 2
    """Pieces of food on the cliff, or without one on the ground. Not specified; we use this."""
    pillars: tuple[int, ...] = ()
    """Heights of pillars with food on them. Paper: "food placed in an even higher level locations" (J). Not specified;
    presets choose them."""
    num_blocks: int | None = None
    """Loose blocks; None: as many as the stairs need. Not specified; we use these."""
    num_walls: int = 0
    """Columns of wall. Not specified; we use none."""
    random: float = 0.1
    """Probability per step of a random action of the builder. Not specified; we use this."""

    def __post_init__(self):
        super().__post_init__()
        check_range("random", self.random, 0, 1)
        Building(**self.arguments())

    def arguments(self):
        """Arguments of the world."""
        names = ("frame_size", "map_size", "field_of_view", "size", "cliff", "num_food", "pillars", "num_blocks")
        return {name: getattr(self, name) for name in (*names, "num_walls")}


_HIGH_FOOD = {"cliff": 0, "num_food": 0, "pillars": (1, 2)}
_TOWER = {"cliff": 0, "num_food": 0, "pillars": (3,)}
_DEMO = {"model": "generative", "map_size": 20, "num_episodes": 4_000, "num_updates": 2_500}
PRESETS = {
    "paper": Config(**settings.PAPER_UPDATES, **settings.LSTM),
    "paper_rma": Config(**settings.PAPER_UPDATES, **settings.RMA),
    "paper_kanerva": Config(**settings.PAPER_UPDATES, **settings.KANERVA),
    "paper_high_food": Config(**settings.PAPER_UPDATES, **settings.LSTM, **_HIGH_FOOD),
    "paper_tower": Config(**settings.PAPER_UPDATES, **settings.LSTM, **_TOWER),
    "demo": Config(**(settings.DEMO | _DEMO), size=5, cliff=2, num_blocks=2),
    "smoke": Config(**settings.SMOKE, size=5, cliff=2),
}


class Experiment(SimCoreExperiment):
    name = "belief_states/building"
    rollouts_at = 0.2  # the stairs are still to be built

    def world(self):
        policy = BuildingPolicy(self.config.random, last_food=False)
        return World("tfmem/Building-v0", self.config.arguments(), self.config.size, policy, len(Building.actions))
