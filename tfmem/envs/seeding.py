"""Random generators of several worlds at once."""

import numpy as np
from gymnasium.utils import seeding

from tfmem.validation import is_integer


def reseed(generators, seed):
    """Seed the random generators of several worlds in place.

    Args:
      generators: list of `np.random.Generator`s, or None where there is none yet.
      seed: s: s, s + 1, ...; a list: one for each; None: only what is None gets a generator, of a random seed.

    Raises:
      ValueError: a negative or other seed, or a list of another length.
    """
    if seed is None:
        seeds = [None] * len(generators)
    elif is_integer(seed, 0):
        seeds = [int(seed) + i for i in range(len(generators))]
    elif isinstance(seed, list | tuple | np.ndarray) and all(s is None or is_integer(s, 0) for s in seed):
        seeds = [None if s is None else int(s) for s in seed]
    else:
        raise ValueError(f"seed: {seed!r}, must be None, an integer of at least 0, or a list of them")
    if len(seeds) != len(generators):
        raise ValueError(f"seed: {len(seeds)} seeds, must be num_envs = {len(generators)}")
    for i, world_seed in enumerate(seeds):
        if world_seed is not None or generators[i] is None:
            generators[i], _ = seeding.np_random(world_seed)
