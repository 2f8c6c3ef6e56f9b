"""Memory of a learner and its Ray actors over many updates, as a picture and a CSV file.

    python benchmarks/actor_memory.py OUT                    10,000 updates of a small maze with two actors
    python benchmarks/actor_memory.py OUT --updates 2000 --max-lag 4

Resident memory of the learner, of each actor and of Ray's own processes, and the files in /dev/shm, every
`--every` updates. The table has megabytes after a tenth of the updates, after all, and the growth between.
"""

import argparse
import contextlib
import csv
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tfmem import plotting
from tfmem.cores.config import LSTMConfig
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.rl import AgentConfig, AgentExperiment, Objective
from tfmem.rl.distributed import ray_actors

CONFIG = AgentConfig(
    world=GoalMaze(side=5, max_steps=20, relative_time=True),
    core=LSTMConfig(units=16),
    objective=Objective(discount=0.9, reward_mode="none", reduction="mean"),
    num_worlds=8,
    unroll_length=10,
    policy_lag=1,
    learning_rate=1e-3,
    num_updates=10_000,
    jit_compile=False,
)


def megabytes():
    """Resident memory by process: "learner", "actor 1" and so on, "Ray" (its other processes), "shared" (/dev/shm)."""
    found = {"learner": _resident(Path("/proc/self")), "Ray": 0.0}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            command = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
            if command.startswith("ray::Actor"):
                found[f"actor {sum(name.startswith('actor') for name in found) + 1}"] = _resident(folder)
            elif command.startswith("ray::") or "/ray/core/src/ray/" in command:
                found["Ray"] += _resident(folder)
        except OSError:  # ended meanwhile
            continue
    filesystem = os.statvfs("/dev/shm")
    found["shared"] = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize / 1e6
    return found


def _resident(folder):
    """Private resident memory: pages of files and of shared memory are not counted."""
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=CONFIG.num_updates)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--max-lag", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    experiment, rows = AgentExperiment(CONFIG), []
    with ray_actors(experiment, options.actors, options.max_lag) as pool:
        updates, carry = pool(experiment, options.every), experiment.initial_carry()
        with contextlib.suppress(KeyboardInterrupt):  # what is measured by then is written
            for first in range(0, options.updates, options.every):
                carry, metrics = updates(tf.constant(first, tf.int64), {}, carry)
                rows.append({"update": first + options.every, **megabytes(), "lag": float(np.mean(metrics["lag"]))})
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (options.out / "memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    figure = plotting.new_figure(6.4, 4)
    axes = figure.add_subplot()
    plotting.graph_axes(axes, "updates", "megabytes")
    for (colour, style), name in zip(plotting.line_styles(), names[1:-1], strict=False):
        x, y = np.array([(row["update"], row[name]) for row in rows if name in row]).T
        axes.plot(x, y, style, color=colour, label=name)
        early = y[len(y) // 10]
        print(f"{name:16}{early:10.1f}{y[-1]:10.1f}{y[-1] - early:+10.1f}")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center", ncols=2, fontsize=plotting.SMALL, frameon=False, labelcolor=plotting.INK)
    figure.savefig(options.out / "memory.png", dpi=120)


if __name__ == "__main__":
    main()
