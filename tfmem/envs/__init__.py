"""Worlds with an agent in them, as Gymnasium environments: one file per environment, numpy only (no TensorFlow).

Importing this package registers "tfmem/RandomCity-v0" and "tfmem/Terrain-v0", for `gymnasium.make` and
`gymnasium.make_vec`.
"""

import gymnasium

gymnasium.register(
    "tfmem/RandomCity-v0",
    entry_point="tfmem.envs.random_city:RandomCityEnv",
    vector_entry_point="tfmem.envs.random_city:RandomCityVectorEnv",
    max_episode_steps=500,
)
gymnasium.register(
    "tfmem/Terrain-v0",
    entry_point="tfmem.envs.terrain:TerrainEnv",
    vector_entry_point="tfmem.envs.terrain:TerrainVectorEnv",
    max_episode_steps=2000,
)
