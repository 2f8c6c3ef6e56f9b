"""A scripted policy that explores the worlds, and `collect`, which makes trajectories by such a policy.

How the data of Random City were collected: not specified (Gregor et al. 2019); we use `ExploringPolicy`. A policy's
`start(rngs, world)` returns a walker for such worlds, which is called once a step with the environment's `infos`,

    actions = walker(infos, resets)

and draws for environment i from `rngs[i]` alone. So a trajectory follows from its own seed, not from the batch.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tfmem.envs.worlds import BACKWARD, FORWARD, TURN_LEFT, TURN_RIGHT, WorldVectorEnv
from tfmem.validation import check_range

_POLICY_STREAM = 20190621  # keeps a policy's draws apart from those of the world with the same seed


@dataclasses.dataclass(frozen=True)
class ExploringPolicy:
    """A walk to random places, one after the other, that looks around on the way and turns away from obstacles.

    The agent is blocked if its last step covered less than half of a free step. It then may step back, makes two to
    four turns to one side and one to three steps, and continues, to another place with probability 1/2. The policy
    reads the position, which a learning agent does not see.

    Args:
        look: probability, at each step on the way, of one to three turns to one side; from 0 to 1.

    Raises:
        ValueError: an argument out of its range.
    """

    look: float = 0.05

    def __post_init__(self):
        check_range("look", self.look, 0, 1)

    def start(self, rngs, world):
        """Return `walker(infos, resets)`, which gives all environments' actions; `rngs`, `world`: see `collect`."""
        num_envs, half_turn = len(rngs), np.pi / world.num_headings
        plans, goals, places = [[] for _ in rngs], np.zeros([num_envs, 2]), np.zeros([num_envs, 2])
        walked = np.zeros(num_envs, bool)

        def detour(rng, turns, steps, back=False):
            side = TURN_LEFT if rng.random() < 0.5 else TURN_RIGHT
            return [BACKWARD] * back + [side] * int(rng.integers(*turns)) + [FORWARD] * steps

        def choose(i, rng, place, heading, reset):
            """The action of environment i."""
            blocked = walked[i] and not reset and np.hypot(*(place - places[i])) < world.speed / 2
            if reset or np.hypot(*(goals[i] - place)) < 2 * world.speed or (blocked and rng.random() < 0.5):
                goals[i] = rng.uniform(-0.45, 0.45, 2) * world.side
            if reset:
                plans[i] = []
            if blocked:
                plans[i] = detour(rng, (2, 5), int(rng.integers(1, 4)), back=rng.random() < 0.5)
            elif not plans[i] and rng.random() < self.look:
                plans[i] = detour(rng, (1, 4), 0)
            if plans[i]:
                return plans[i].pop(0)
            east, north = goals[i] - place
            aside = (np.arctan2(north, east) - heading + np.pi) % (2 * np.pi) - np.pi
            return FORWARD if abs(aside) <= 1.01 * half_turn else TURN_LEFT if aside > 0 else TURN_RIGHT

        def walker(infos, resets):
            position, heading = infos["position"].astype(float), infos["heading"].astype(float)
            actions = [choose(i, rngs[i], position[i], heading[i], resets[i]) for i in range(num_envs)]
            places[:], walked[:] = position, np.equal(actions, FORWARD)
            return np.array(actions, np.int32)

        return walker


class Trajectories(NamedTuple):
    """Time-major arrays of `steps` = T actions in B environments; see `collect`."""

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    maps: np.ndarray
    positions: np.ndarray
    headings: np.ndarray
    resets: np.ndarray


def collect(env, policy, steps, seed):
    """Trajectories of a policy: `actions[t]` leads from `frames[t]` to `frames[t + 1]` and earns `rewards[t]`.

    Args:
        env: a vector environment of this package with B worlds; it is reset first.
        policy: `ExploringPolicy`, or another with its `start`.
        steps: T, at least 1.
        seed: s: the environments have s, s + 1, ...; or B seeds. Not negative.

    Returns:
        `Trajectories`: frames uint8 [T + 1, B, S, S, 3]; actions int32 [T, B]; rewards float32 [T, B]; the ground truth
        at every frame: maps uint8 [T + 1, B, M, M, 3], positions float32 [T + 1, B, 2], headings float32 [T + 1, B];
        resets bool [T + 1, B], True at the first frame of an episode. The action before such a frame was ignored.

    Raises:
        ValueError: an argument of another kind, or out of its range.
    """
    if not isinstance(env, WorldVectorEnv):
        raise ValueError(f"env: {env}, must be a vector environment of tfmem.envs")
    check_range("steps", steps, 1)
    seeds = [seed + i for i in range(env.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
    if len(seeds) != env.num_envs or min(seeds) < 0:
        raise ValueError(f"seed: {seed}, must be at least 0, or {env.num_envs} such numbers")
    frame, infos = env.reset(seed=[int(s) for s in seeds])
    walker = policy.start([np.random.default_rng([_POLICY_STREAM, s]) for s in seeds], env.worlds[0])
    result = Trajectories(
        frames=np.empty([steps + 1, *frame.shape], np.uint8),
        actions=np.empty([steps, env.num_envs], np.int32),
        rewards=np.empty([steps, env.num_envs], np.float32),
        maps=np.empty([steps + 1, *infos["map"].shape], np.uint8),
        positions=np.empty([steps + 1, env.num_envs, 2], np.float32),
        headings=np.empty([steps + 1, env.num_envs], np.float32),
        resets=np.zeros([steps + 1, env.num_envs], bool),
    )
    result.resets[0] = True
    for t in range(steps + 1):
        result.frames[t], result.maps[t] = frame, infos["map"]
        result.positions[t], result.headings[t] = infos["position"], infos["heading"]
        if t < steps:
            result.actions[t] = walker(infos, result.resets[t])
            frame, result.rewards[t], terminated, truncated, infos = env.step(result.actions[t])
            if t + 2 <= steps:
                result.resets[t + 2] = terminated | truncated
    return result
