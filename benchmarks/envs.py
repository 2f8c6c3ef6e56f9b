"""Frames per second of the worlds (one environment, a batch, a batch in each of two processes) and of episode files.

    python benchmarks/envs.py                      all worlds, batches of 16, 64 x 64 frames
    python benchmarks/envs.py --steps 100 --repeats 1

A frame is one step: the agent moves, the frame is rendered, map and position are copied; new worlds every 100 steps are
included. `file` is reading a file of `tfmem.data.episodes`, decompressed and batched, on all cores. The fastest of
several repeats counts. Embree's rays hold Python's lock, so a process renders on one core.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import gymnasium

from tfmem.data.episodes import episodes, write_episodes
from tfmem.envs.builder import BuildingPolicy
from tfmem.envs.exploration import ExploringPolicy, collect

WORLDS = {  # and the policies that act there
    "tfmem/RandomCity-v0": ExploringPolicy(),
    "tfmem/Terrain-v0": ExploringPolicy(),
    "tfmem/Building-v0": BuildingPolicy(),
}
EPISODE = 100


def frames_per_second(arguments):
    """Frames per second of `collect` with a vector environment."""
    world, num_envs, steps, repeats = arguments
    env, best = gymnasium.make_vec(world, num_envs, max_episode_steps=EPISODE), 0.0
    for seed in range(repeats):
        start = time.perf_counter()
        collect(env, WORLDS[world], steps, seed)
        best = max(best, num_envs * (steps + 1) / (time.perf_counter() - start))
    return best


def single(world, steps, repeats):
    """Frames per second of a single environment from `gymnasium.make`, with forward moves and turns."""
    env, best = gymnasium.make(world, max_episode_steps=EPISODE), 0.0
    for seed in range(repeats):
        start = time.perf_counter()
        env.reset(seed=seed)
        for step in range(steps):
            if env.step(2 if step % 4 == 3 else 0)[3]:
                env.reset()
        best = max(best, steps / (time.perf_counter() - start))
    return best


def from_file(world, num_envs, steps, repeats):
    """Measure an episode file: (frames per second, bytes of a frame with its map and position)."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_episodes(Path(folder, "episodes.h5"), world, num_envs, steps, workers=2, policy=WORLDS[world])
        stream, best = episodes(path, num_envs), 0.0
        for number in range(repeats + 1):
            start = time.perf_counter()
            stream.batch(number)
            best = max(best, num_envs * (steps + 1) / (time.perf_counter() - start))
        return best, path.stat().st_size / (num_envs * (steps + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'frames/s':22}{'single':>10}{'batch':>10}{'2 x batch':>12}{'file':>10}{'bytes/frame':>14}")
    for world in WORLDS:
        point = (world, options.num_envs, options.steps, options.repeats)
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            two = sum(pool.map(frames_per_second, [point, point], chunksize=1))
        read, size = from_file(*point)
        one, batch = single(world, options.steps, options.repeats), frames_per_second(point)
        print(f"{world:22}{one:10,.0f}{batch:10,.0f}{two:12,.0f}{read:10,.0f}{size:14,.0f}", flush=True)


if __name__ == "__main__":
    main()
