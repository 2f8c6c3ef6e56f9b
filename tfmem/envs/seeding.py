"""Random generators of several worlds at once."""

import numpy as np
from gymnasium.utils import seeding


def reseed(generators, seed):
    """Seed the random generators of several worlds in place.

    Args:
      generators: list of `np.random.Generator`s, or None where there is none yet.
      seed: s: s, s + 1, ...; a list: one for each; None: only what is None gets a generator, of a random seed.

    Raises:
      ValueError: a list of another length.
    """
    seeds = [seed] * len(generators) if seed is None else seed
    if isinstance(seeds, int | np.integer):
        seeds = [int(seed) + i for i in range(len(generators))]
    if len(seeds) != len(generators):
        raise ValueError(f"seed: {len(seeds)} seeds, must be num_envs = {len(generators)}")
    for i, world_seed in enumerate(seeds):
        if world_seed is not None or generators[i] is None:
            generators[i], _ = seeding.np_random(world_seed)
