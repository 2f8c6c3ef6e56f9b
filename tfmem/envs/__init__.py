"""Worlds with an agent in them, as Gymnasium environments: one file per environment.

Importing this package registers "tfmem/RandomCity-v0", "tfmem/Terrain-v0" and "tfmem/Building-v0", which are numpy only
(no TensorFlow), and the grid worlds "tfmem/BoxWorld-v0", "tfmem/GoalMaze-v0", "tfmem/MappingMaze-v0" and
"tfmem/MiniPacman-v0", which import TensorFlow when one is made. All serve
`gymnasium.make` and `gymnasium.make_vec`.
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
gymnasium.register(
    "tfmem/Building-v0",
    entry_point="tfmem.envs.building:BuildingEnv",
    vector_entry_point="tfmem.envs.building:BuildingVectorEnv",
    max_episode_steps=500,
)
for _name, _module in (
    ("BoxWorld", "box_world"),
    ("GoalMaze", "goal_maze"),
    ("MappingMaze", "mapping_maze"),
    ("MiniPacman", "mini_pacman"),
):
    gymnasium.register(
        f"tfmem/{_name}-v0",
        entry_point=f"tfmem.envs.grid.{_module}:{_name}Env",
        vector_entry_point=f"tfmem.envs.grid.{_module}:{_name}VectorEnv",
    )
