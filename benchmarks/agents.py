"""Frames per second of agents that act and learn: in one graph, and through a Gymnasium loop with the same agent.

    python benchmarks/agents.py                      BoxWorld's viewport with an LSTM and the paper's memory
    python benchmarks/agents.py --cores lstm --batch-sizes 32 --lengths 20
    python benchmarks/agents.py --actors 0 1 2       BoxWorld and Terrain, acting in the learner's process or in Ray's

An update is T steps of B agents in their worlds, V-trace, the gradient and Adam. `graph` runs all of it as one XLA
program. `Gymnasium` steps `gymnasium.make_vec("tfmem/BoxWorld-v0")`, whose step is compiled, by a Python loop with a
compiled step of the agent, and then learns by one compiled call. `of rate` is the share of the machine's rate of matrix
products that the graph's products reach. `growth` is the power of B or T with which frames per second grow. With
`--pycolab FOLDER`, a clone of github.com/google-deepmind/pycolab, a line has the steps of its BoxWorld on one core.

With `--actors` the LSTM's weights are one update old. `waiting`, `learning` and `weights` are shares of the learner's
time: for records, in the update, and to hand the weights on. `acting` is the actors' time in unrolls over that time.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import numpy as np
import tensorflow as tf
from measuring import growth, in_process, matmul_rate, update_cost
from tfmem_reproductions.relational.box_world import PRESETS

import tfmem.envs  # noqa: F401 - registers the environments
from tfmem.cores.config import LSTMConfig
from tfmem.rl import AgentExperiment, ConvTorsoConfig
from tfmem.rl.distributed import ray_actors
from tfmem.rl.gymnasium_world import GymnasiumWorld
from tfmem.rl.rollout import Entry, Trajectory, choose
from tfmem.training import compiled_updates

# Frames of 32x32 on a small terrain, so that its making does not hide the steps.
TERRAIN = GymnasiumWorld("tfmem.envs:tfmem/Terrain-v0", 300, '{"frame_size": 32, "size": 64}')
CORES = {"lstm": LSTMConfig(units=256), "rmc": PRESETS["paper"].core}


def experiment_of(core, batch_size, length):
    config = dataclasses.replace(
        PRESETS["paper"], core=CORES[core], num_worlds=batch_size, unroll_length=length, policy_lag=0,
        optimizer="adam", epsilon=None, num_levels=1024, jit_compile=True,
    )  # fmt: skip
    return AgentExperiment(config)


def in_graph(core, batch_size, length, repeats):
    """Measure the update in the graph."""
    cost = update_cost(experiment_of(core, batch_size, length), repeats)
    return {**cost, "rate": batch_size * length / cost["seconds"]}


def through_gymnasium(core, batch_size, length, repeats):
    """Measure updates whose actor is a Python loop."""
    experiment = experiment_of(core, batch_size, length)
    agent, learner = experiment.model, experiment.learner
    envs = gymnasium.make_vec("tfmem/BoxWorld-v0", num_envs=batch_size)
    rng = np.random.default_rng(0)

    @tf.function(jit_compile=True, autograph=False)
    def act(observation, action, reward, done, state, uniform):
        output, state = agent.step(observation, action, reward, done, state)
        return choose(output.logits, uniform), output.logits, output.value, state

    learn = tf.function(lambda record: learner.learn(record)[0], jit_compile=True, autograph=False)
    zeros = np.zeros(batch_size, np.float32)
    frame = [tf.constant(x) for x in (envs.reset(seed=0)[0], zeros.astype(np.int32), zeros, zeros == 0)]
    state, entries = agent.initial_state(batch_size), []
    logits, value = tf.zeros([batch_size, agent.num_actions]), tf.zeros([batch_size])

    def entry():
        observation, action, reward, done = frame
        return Entry(observation, reward, done, tf.zeros_like(done), (), action, logits, value, reward, action)

    times = []
    for _ in range(repeats + 1):
        start, first, entries = time.perf_counter(), state, [entry()]
        for _ in range(length):
            uniform = rng.random(batch_size, np.float32)
            action, logits, value, state = act(*frame, state, tf.constant(uniform))
            observation, reward, terminated, truncated, _ = envs.step(action.numpy())
            ended = tf.constant(terminated | truncated)
            frame = [tf.constant(observation), action, tf.constant(reward, tf.float32), ended]
            entries.append(entry())
        record = tf.nest.map_structure(lambda *steps: tf.stack(steps), *entries)
        float(learn(Trajectory(record, first)))
        times.append(time.perf_counter() - start)
    return {"seconds": min(times[1:]), "rate": batch_size * length / min(times[1:])}


def with_actors(world, actors, batch_size, length, repeats):
    """Measure updates whose actors are in the learner's process (0) or in processes of their own."""
    config = experiment_of("lstm", batch_size, length).config
    config = dataclasses.replace(config, policy_lag=1)
    if world == "Terrain":
        config = dataclasses.replace(
            config,
            world=TERRAIN,
            torso=ConvTorsoConfig(filters=(16, 32), kernel_size=4, stride=4),
            jit_compile=False,
        )
    experiment, first = AgentExperiment(config), 5
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ray_actors(experiment, actors)) if actors else None
        update, carry = (pool or compiled_updates)(experiment, 1), experiment.initial_carry()
        for number in range(first + repeats):
            if number == first:
                start, before = time.perf_counter(), dict(pool.seconds) if actors else {}
            carry, metrics = update(tf.constant(number, tf.int64), {}, carry)
            float(metrics["loss"][0])
        seconds = time.perf_counter() - start
        shares = {name: (pool.seconds[name] - before[name]) / seconds for name in before}
    return {"seconds": seconds / repeats, "rate": repeats * batch_size * length / seconds, **shares}


def pycolab_rate(folder, seconds=5.0):
    """Measure steps per second of pycolab's BoxWorld with random actions, without an agent."""
    sys.path.insert(0, folder)
    from pycolab.examples.research.box_world import box_world

    rng, steps, start = np.random.RandomState(0), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        # side, lengths of the path, distractors forward and backward, their length: the paper's
        game = box_world.make_game(12, range(1, 6), range(6), (0,), 1, rng)
        game.its_showtime()
        while not game.game_over:
            game.play(rng.randint(4))
            steps += 1
    return steps / (time.perf_counter() - start)


def line(name, core, batch_size, length, measured, rate, power=""):
    share = f"{measured['gflop'] / measured['seconds'] / rate:.1%}" if "gflop" in measured else ""
    numbers = f"{measured['seconds']:9.4f}{measured['rate']:12,.0f}"
    print(f"{name:10}{core:6}{batch_size:6}{length:5}{numbers}{share:>9}{power:>8}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--lengths", nargs="+", type=int, default=[20, 40])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pycolab", metavar="FOLDER")
    parser.add_argument("--actors", nargs="+", type=int, help="numbers of Ray actors, 0: none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *arguments = json.loads(options.one)
        kinds = {"graph": in_graph, "Gymnasium": through_gymnasium, "matmul": matmul_rate, "pycolab": pycolab_rate}
        kinds["actors"] = with_actors
        print(json.dumps(kinds[name](*arguments)))
        return
    if options.actors:
        names = ("waiting", "learning", "weights", "acting")
        print(
            f"{'world':10}{'actors':>7}{'B':>6}{'T':>5}{'s/update':>9}{'frames/s':>12}"
            + "".join(f"{n:>10}" for n in names)
        )
        sizes = options.batch_sizes[0], options.lengths[0]
        for world, actors in itertools.product(("BoxWorld", "Terrain"), options.actors):
            found = in_process(__file__, "actors", world, actors, *sizes, options.repeats)
            shares = "".join(f"{found[name]:10.0%}" for name in names if name in found)
            numbers = f"{found['seconds']:9.4f}{found['rate']:12,.0f}"
            print(f"{world:10}{actors:7}{sizes[0]:6}{sizes[1]:5}{numbers}{shares}", flush=True)
        return
    rate = in_process(__file__, "matmul")
    print(f"matrix products: {rate:.0f} GFLOP/s")
    if options.pycolab:
        pycolab = in_process(__file__, "pycolab", options.pycolab)
        print(f"pycolab's BoxWorld without an agent, one core: {pycolab:,.0f} steps/s")
    print(f"{'actor':10}{'core':6}{'B':>6}{'T':>5}{'s/update':>9}{'frames/s':>12}{'of rate':>9}{'growth':>8}")
    for core in options.cores:
        points = []
        for batch_size, length in [(b, options.lengths[0]) for b in options.batch_sizes]:
            points.append({"B": batch_size, **in_process(__file__, "graph", core, batch_size, length, options.repeats)})
            power = f"B {growth(points, 'B', 'rate'):.2f}" if len(points) > 1 else ""
            line("graph", core, batch_size, length, points[-1], rate, power)
            found = in_process(__file__, "Gymnasium", core, batch_size, length, options.repeats)
            line("Gymnasium", core, batch_size, length, found, rate, f"1/{points[-1]['rate'] / found['rate']:.1f}")
        points = [{"T": options.lengths[0], **points[0]}]
        for length in options.lengths[1:]:
            found = in_process(__file__, "graph", core, options.batch_sizes[0], length, options.repeats)
            points.append({"T": length, **found})
            power = f"T {growth(points, 'T', 'rate'):.2f}"
            line("graph", core, options.batch_sizes[0], length, points[-1], rate, power)


if __name__ == "__main__":
    main()
