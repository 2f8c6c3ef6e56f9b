"""World steps per second of the grid worlds: random actions in one compiled loop, without an agent.

    python benchmarks/grid_worlds.py                       all worlds, 32 to 4096 side by side, plain graph and XLA
    python benchmarks/grid_worlds.py --worlds box_world --batch-sizes 4096

A step is one `world.step`: the move, its reward, the next level where an episode ends, and the observation. The loop
also draws actions and decisions, and sums rewards and observations, so that none is optimized away. `growth` is the
power of the batch with which steps per second grow. The fastest of several repeats counts. `XLA, CPU` counts the
seconds of all threads together: the rate of one core, independent of other work on the machine.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from measuring import growth, seconds_of

from tfmem.envs.grid.box_world import PYCOLAB, BoxWorld
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.envs.grid.mini_pacman import MiniPacman

WORLDS = {
    "box_world": BoxWorld(),
    "box_world_full": PYCOLAB,
    "goal_maze": GoalMaze(),
    "mini_pacman": MiniPacman(),
    "mini_pacman_full": MiniPacman(viewport=False),
}


def rollout(world, batch_size, steps, xla):
    """Compile `(levels, state, number) -> (state, rewards, observations)`: `steps` random actions, and two sums."""

    def run(levels, state, number):
        def step(t, state, rewards, observations):
            seed = tf.stack([number, t])
            action = tf.random.stateless_uniform([batch_size], -1 - seed, 0, world.num_actions, tf.int32, alg="philox")
            state, result = world.step(levels, state, action, world.draw(seed, batch_size))
            observations += tf.reduce_sum(tf.cast(result.observation, tf.float32))
            return t + 1, state, rewards + tf.reduce_sum(result.reward), observations

        start = (0, state, 0.0, 0.0)
        return tf.while_loop(lambda t, *_: t < steps, step, start, maximum_iterations=steps)[1:]

    return tf.function(run, jit_compile=xla, autograph=False)


def measure(world, batch_size, steps, repeats, xla):
    """Measure steps per second, steps per second of CPU time, and seconds of the first call, which compiles."""
    levels = tf.nest.map_structure(tf.constant, world.levels(1024, seed=0))
    state, _ = world.reset(levels, world.draw([0, 0], batch_size))
    run = rollout(world, batch_size, steps, xla)
    cpu = []

    def call():
        start = time.process_time()
        run(levels, state, tf.constant(1))[1].numpy()
        cpu.append(time.process_time() - start)

    first, *times = seconds_of(call, repeats + 1)
    return batch_size * steps / min(times), batch_size * steps / min(cpu[1:]), first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'steps/s':18}{'B':>6}{'graph':>14}{'XLA':>14}{'/graph':>8}{'XLA, CPU':>14}{'growth':>8}{'compile s':>11}")
    for name in options.worlds:
        points = []
        for batch_size in options.batch_sizes:
            arguments = (WORLDS[name], batch_size, options.steps, options.repeats)
            graph, _, _ = measure(*arguments, xla=False)
            xla, cpu, first = measure(*arguments, xla=True)
            points.append({"B": batch_size, "rate": xla})
            power = f"{growth(points, 'B', 'rate'):.2f}" if len(points) > 1 else ""
            rates = f"{graph:14,.0f}{xla:14,.0f}{xla / graph:8.1f}{cpu:14,.0f}"
            print(f"{name:18}{batch_size:6}{rates}{power:>8}{first:11.1f}", flush=True)


if __name__ == "__main__":
    main()
