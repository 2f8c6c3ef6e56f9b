"""Maze exploration by reinforcement learning (Munkhdalai et al. 2019, §4.3, Figures 6 and 7; Miconi et al. 2018).

An agent finds a hidden goal, is moved to a random cell, and returns as often as it can. MAZE below is Miconi et al.'s
code, `maze/maze.py` of differentiable-plasticity; §4.3 and App. A take its task and hyper-parameters. A reward of an
evaluation, `episode_return`, is the sum over one episode.
"""

import dataclasses
import math

import numpy as np

from tfmem.backend import keras
from tfmem.cores.config import LSTMConfig, MetalearnedMemoryConfig, PlasticRNNConfig
from tfmem.envs.grid.goal_maze import GOAL_REWARD, WALL_REWARD, GoalMaze
from tfmem.rl import AgentConfig, AgentExperiment, Objective

from ..agents import SMOKE, draw_learning_curves
from .figures import maze_episode_figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AgentConfig):
    world: GoalMaze
    """Maze. Paper: 9 x 9 (§4.3)."""


# MAZE: the mean over an episode of -log pi (R - V), 0.03 (R - V)^2 and 0.1 sum p^2; discount 0.9, no bootstrap.
OBJECTIVE = Objective(
    discount=0.9,
    baseline_cost=0.06,  # of half the square
    entropy_cost=0.1,
    regularizer="concentration",
    reward_mode="none",
    reduction="mean",
)
# Table 2: controller 200, output 200, no embedding; memory of 3 layers of 100, keys and values of 100; App. A: H = 3.
# Not specified: which write, and beta at the start. We use both, and 0.05, as in the other experiments.
MNM_P = MetalearnedMemoryConfig(
    units=200, num_heads=3, memory_layers=3, memory_size=100, word_size=100, write="local", initial_rate=0.05
)
PAPER_CONFIG = Config(
    world=GoalMaze(),  # §4.3; MAZE: 250 steps, time as the step's number
    core=MNM_P,
    objective=OBJECTIVE,
    num_worlds=1,  # MAZE: an episode in each update
    unroll_length=250,  # MAZE: the episode
    action_input=False,  # §4.3, MAZE: cells, time and last reward, which the world's inputs hold
    reward_input=None,
    optimizer="sonnet_adam",  # MAZE: PyTorch's
    learning_rate=1e-4,  # MAZE
    epsilon=1e-4,  # MAZE
    num_updates=1_000_000,  # MAZE: episodes
    updates_per_call=10,
    log_every=1_000,
    eval_every=50_000,
    eval_episodes=410,  # Not specified; we use ten of each goal
    num_levels=41,  # every goal once
    checkpoint_seconds=600.0,
    jit_compile=True,  # measured: faster on a CPU
)
PLASTIC = PlasticRNNConfig(units=200, rule="oja")  # MAZE: 200 neurons, Oja's rule by default
# Not specified; we use a maze of 7 x 7, 64 worlds, a tenth of the weights, time as a share of the episode, a clipped
# gradient, and rates at which agents learn in minutes.
DEMO_CONFIG = dataclasses.replace(
    PAPER_CONFIG,
    world=GoalMaze(side=7, max_steps=100, relative_time=True),
    core=MetalearnedMemoryConfig(units=64, memory_size=32, word_size=32, write="local", initial_rate=0.02),
    num_worlds=64,
    unroll_length=100,
    optimizer="adam",
    learning_rate=1e-3,
    epsilon=None,
    gradient_norm_clip=0.5,
    num_updates=1_000,
    log_every=20,
    eval_every=500,
    eval_episodes=420,
    num_levels=21,
    checkpoint_seconds=120.0,
)
PRESETS = {
    "paper": PAPER_CONFIG,
    "paper_mnm_g": dataclasses.replace(PAPER_CONFIG, core=dataclasses.replace(MNM_P, write="gradient")),
    "paper_lstm": dataclasses.replace(PAPER_CONFIG, core=LSTMConfig(units=200)),  # MAZE: 200
    "paper_plastic": dataclasses.replace(PAPER_CONFIG, core=PLASTIC),
    "paper_homogeneous": dataclasses.replace(PAPER_CONFIG, core=dataclasses.replace(PLASTIC, homogeneous=True)),
    "demo": DEMO_CONFIG,
    # Not specified; we divide Eqs. 2 and 5 by the value's size, as Eq. 9 does, and start with a larger rate: without
    # that, the gradient step is unstable.
    "demo_mnm_g": dataclasses.replace(
        DEMO_CONFIG,
        core=dataclasses.replace(DEMO_CONFIG.core, write="gradient", mean_error=True, initial_rate=0.25),
    ),
    # Cheap updates: the LSTM makes four times as many.
    "demo_lstm": dataclasses.replace(DEMO_CONFIG, core=LSTMConfig(units=64), learning_rate=2e-3, num_updates=4_000),
    "demo_plastic": dataclasses.replace(DEMO_CONFIG, core=PlasticRNNConfig(units=64, rule="oja")),
    "demo_homogeneous": dataclasses.replace(DEMO_CONFIG, core=PlasticRNNConfig(units=64, rule="oja", homogeneous=True)),
    # The previous action as an input lets it sweep the maze: a reward of 100 instead of 40.
    "demo_memoryless": dataclasses.replace(
        DEMO_CONFIG, core=None, mlp_sizes=(64, 64), learning_rate=2e-3, action_input=True
    ),
    "smoke": dataclasses.replace(
        DEMO_CONFIG,
        world=GoalMaze(side=5, max_steps=6),
        core=MetalearnedMemoryConfig(units=4, memory_size=4, word_size=4),
        unroll_length=6,
        num_levels=9,
        jit_compile="auto",
        **SMOKE,
    ),
}
PAPER = {"episode_return": (175.0, "§4.3, Fig. 6: MNM after 250,000 episodes, plastic agents after 1,000,000")}
DATASETS = ()
STATUS = "demo"
SIGNATURES = {"step", "initial_state"}


class Experiment(AgentExperiment):
    """The maze; weights start as in MAZE: heads and the plastic network's input as PyTorch's linear layers."""

    name = "metalearned/maze"

    def make_model(self):
        agent = super().make_model()
        for head in (agent.policy, agent.baseline):
            for kernel, bias in zip(head.kernels, head.biases, strict=True):
                _start_as_linear(kernel, bias)
        if isinstance(self.config.core, PlasticRNNConfig):
            _start_as_linear(agent.cell.kernel, agent.cell.bias)
            agent.cell.w.assign(keras.random.uniform(agent.cell.w.shape, 0.0, 0.01))  # MAZE: positive
        return agent

    def result(self, evaluation):
        return {**super().result(evaluation), "known_goal_episode_return": known_goal_return(self.world)}

    def figures(self, folder):
        super().figures(folder)
        maze_episode_figure(self.play(), self.world).savefig(folder / "episode.png", dpi=120)


def known_goal_return(world):
    """Compute the mean return of the shortest ways to the goal, which only an agent that knows it can take.

    Moved onto the goal, such an agent bumps into a wall next to it, or steps aside and back.
    """
    side, walls, free = world.side, world.walls(), world.free_cells()
    ways = (-side, side, -1, 1)
    returns = []
    for goal in free:
        steps, reached = {int(goal): 0}, [int(goal)]
        for cell in reached:  # grows: breadth first
            for beside in (cell + way for way in ways):
                if not walls.flat[beside] and beside not in steps:
                    steps[beside] = steps[cell] + 1
                    reached.append(beside)
        bumps = any(walls.flat[goal + way] for way in ways)
        steps[int(goal)], on_goal = (1, GOAL_REWARD + WALL_REWARD) if bumps else (2, GOAL_REWARD)
        gains = {cell: on_goal if cell == goal else GOAL_REWARD for cell in steps}
        left = [0.0]  # expected return from a random cell, by steps left
        for number in range(1, world.max_steps + 1):
            left.append(np.mean([gains[c] + left[number - n] if n <= number else 0.0 for c, n in steps.items()]))
        start = side**2 // 2
        returns.append(gains[start] + left[world.max_steps - steps[start]])
    return float(np.mean(returns))


def compare(folders, out):
    """Draw rewards of several runs, as in Figure 6; returns the names of the figures."""
    return draw_learning_curves(folders, out, "episode_return", "reward of an episode")


def _start_as_linear(kernel, bias):
    """Assign the initial values of PyTorch's linear layers: uniform in +-1/sqrt(fan-in), biases as well."""
    bound = 1.0 / math.sqrt(kernel.shape[0])
    for variable in (kernel, bias):
        variable.assign(keras.random.uniform(variable.shape, -bound, bound))
