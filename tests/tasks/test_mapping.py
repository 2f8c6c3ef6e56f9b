"""The maze world: equal to the public code's traces, to a slow replay elsewhere, and a pure function of its seed."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.references import mapping as reference
from tests.support import golden_files
from tfmem.tasks.mapping import UNKNOWN, MappingStream, MappingTask, maze, random_walk, recentre, spiral_walk


@pytest.fixture(params=golden_files("multigrid/mapping/env_map*.npz"), ids=lambda path: path.stem)
def trace(request):
    return dict(np.load(request.param))


@pytest.fixture
def traced_episode(trace):
    rng = np.random.RandomState(trace["seed"])
    return MappingTask(map_size=int(trace["map_size"])).episode(rng, 2, query_index={3: trace["chosen_ind"]})


# ---- the public code's traces ---------------------------------------------------------------------------------------


def test_mazes_follow_the_public_stream(trace):
    task, rng = MappingTask(map_size=int(trace["map_size"])), np.random.RandomState(trace["seed"])
    np.testing.assert_array_equal(task.mazes(rng, 2), trace["init_map"])
    for expected in trace["next_init_maps"]:
        np.testing.assert_array_equal(task.mazes(rng, 2), expected)


def test_episode_equals_the_trace(trace, traced_episode):
    episode = traced_episode
    np.testing.assert_array_equal(episode.maps, trace["init_map"])
    np.testing.assert_array_equal(episode.positions, trace["agent_pos"])
    np.testing.assert_array_equal(episode.relative_positions, trace["generic_pos"])
    np.testing.assert_array_equal(episode.views(), trace["ego"])
    np.testing.assert_array_equal(episode.writer(), trace["writer"])
    np.testing.assert_array_equal(episode.queries(3), trace["query"])
    np.testing.assert_array_equal(episode.targets(3), trace["target"])
    assert trace["episode_end"].tolist() == [False] * (episode.length - 1) + [True]


def test_frames_of_the_start_equal_the_trace(trace):
    generic = int(trace["generic_map_size"])
    for name in ("maps_at_reset", "final_maps", *(key for key in trace if key.startswith("maps_after_move_"))):
        expected = trace[name.replace("maps", "generic_maps")]
        np.testing.assert_array_equal(recentre(trace[name], generic, UNKNOWN), expected, err_msg=name)


def test_the_same_from_given_mazes(trace):
    task = MappingTask(map_size=int(trace["map_size"]))
    rng = np.random.RandomState(0)
    episode = task.episode(rng, 2, init_maps=trace["init_map"], query_index={3: trace["chosen_ind"]})
    np.testing.assert_array_equal(episode.targets(3), trace["target"])


def test_model_inputs_of_the_goldens(golden):
    io = np.load(golden("multigrid/mapping/io.npz"))
    maps, chosen = io["in_init_map"], io["in_chosen_ind"]
    task = MappingTask(map_size=maps.shape[1])
    index = np.zeros(task.episode(np.random.RandomState(0), len(maps)).length, np.int64)
    index[: len(chosen)] = chosen
    episode = task.episode(np.random.RandomState(0), len(maps), init_maps=maps, query_index={3: index})
    window = episode.window(int(io["in_start_step"]), len(chosen))
    for name, key in (("writer", "in_writer"), ("query_3", "in_query"), ("target_3", "in_labels")):
        np.testing.assert_array_equal(window[name].reshape(io[key].shape), io[key])


def test_the_public_training_run_is_replayed(golden):
    curve = np.load(golden("multigrid/mapping/train_curve.npz"))
    batch_size, side = curve["init_maps"].shape[1:3]
    task, rng = MappingTask(map_size=side), np.random.RandomState(77)
    steps = []
    for number, index in enumerate(curve["chosen_ind"]):
        maps = task.mazes(rng, batch_size)
        np.testing.assert_array_equal(maps, curve["init_maps"][number])
        episode = task.episode(rng, batch_size, init_maps=maps, query_index={3: index})
        for start, window in zip(range(0, len(index), 20), episode.windows(20), strict=True):
            reached = index[start : start + 20] >= 0
            if reached.any():
                assert reached.all()
                steps.append((number, window["num_steps"]))
                found = window["target_3"][:, :, 9:22, 9:22].any((2, 3))
                np.testing.assert_array_equal(found, np.repeat(window["mask"][:, None], batch_size, axis=1))
    np.testing.assert_array_equal([number for number, _ in steps], curve["episode"])
    np.testing.assert_array_equal([count for _, count in steps], curve["num_steps"])
    np.testing.assert_array_equal(np.cumsum([0] + [count for _, count in steps])[:-1], curve["global_t"])


# ---- everything else against a slow replay ---------------------------------------------------------------------------

VARIANTS = {
    "spiral": dict(map_size=9, query_sizes=(3, 5)),
    "spiral, label before the move": dict(map_size=7, label_after_move=False, target_size=12),
    "spiral, 9x9": dict(map_size=11, query_sizes=(3, 9), target_size=24),
    "random": dict(map_size=11, query_sizes=(3, 5), walk="random", episode_length=60, target_size=17),
    "random, 9x9": dict(map_size=9, query_sizes=(3, 9), walk="random", episode_length=70, label_after_move=False),
    "short": dict(map_size=9, query_sizes=(3,), episode_length=7),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_slow_replay(variant):
    task = MappingTask(**VARIANTS[variant], density=0.4, complexity=0.03)
    episode = task.episode(np.random.RandomState(11), 3)
    for size in task.query_sizes:
        queries, targets, asked = episode.queries(size), episode.targets(size), episode.asked(size)
        assert targets.dtype == np.uint8
        assert targets.shape == (task.length, 3, task.target_size, task.target_size)
        several = 0
        for item in range(3):
            index = episode.query_index[size][:, item]
            expected_queries, expected_targets, askable = reference.replay(
                episode.maps[item], episode.positions[:, item], index, size, task.target_size,
                task.label_after_move,
            )  # fmt: skip
            np.testing.assert_array_equal(queries[:, item], expected_queries)
            np.testing.assert_array_equal(targets[:, item], expected_targets)
            assert asked[:, item].tolist() == [bool(steps) for steps in askable]
            assert all(step in steps for step, steps in zip(index, askable, strict=True) if steps)
            several += (targets[:, item].sum((1, 2)) > 1).sum()
        if size == 3:
            assert asked.all()
            assert several > 0


def test_queries_are_uniform_over_what_can_be_asked():
    task = MappingTask(map_size=7, query_sizes=(3, 5), target_size=12)
    drawn = {3: np.zeros(25, int), 5: np.zeros(25, int)}
    rng = np.random.RandomState(5)
    for _ in range(800):
        episode = task.episode(rng, 2)
        for size in (3, 5):
            np.testing.assert_array_equal(episode.query_index[size][:, 0], episode.query_index[size][:, 1])
            drawn[size][episode.query_index[size][-1, 0]] += 1
    assert drawn[3].min() > 800 / 25 / 2
    assert drawn[3].max() < 800 / 25 * 2
    whole = np.all(np.abs(spiral_walk(7) - 3) <= 1, axis=1)  # the 5x5 patches inside a 7x7 map
    assert (drawn[5] > 0).tolist() == whole.tolist()
    assert drawn[5][whole].min() > 800 / 9 / 2


def test_random_walk_stays_inside_and_takes_every_allowed_move():
    walk = random_walk(np.random.RandomState(3), 7, 4000, 5)
    assert walk.shape == (4000, 5, 2)
    assert walk.min() == 1
    assert walk.max() == 5
    np.testing.assert_array_equal(walk[0], 3)
    moves = np.diff(walk, axis=0)
    np.testing.assert_array_equal(np.abs(moves).sum(-1), 1)
    for corner, choices in (((3, 3), 4), ((1, 3), 3), ((1, 1), 2)):
        taken = moves[(walk[:-1] == corner).all(-1)]
        kinds, counts = np.unique(taken, axis=0, return_counts=True)
        assert len(kinds) == choices
        np.testing.assert_allclose(counts / counts.sum(), 1 / choices, atol=0.08)
    assert not np.array_equal(walk[:, 0], walk[:, 1])


def test_spiral_visits_every_inner_cell_once():
    for size in (7, 15):
        assert len(np.unique(spiral_walk(size), axis=0)) == len(spiral_walk(size)) == (size - 2) ** 2


# ---- windows and the stream -----------------------------------------------------------------------------------------


def test_windows_are_the_episode_cut_and_padded():
    task = MappingTask(map_size=9, query_sizes=(3, 5))
    episode = task.episode(np.random.RandomState(2), 4)
    windows = list(episode.windows(20))
    assert [int(window["num_steps"]) for window in windows] == [20, 20, 9]
    assert [bool(window["first"]) for window in windows] == [True, False, False]
    mask = np.concatenate([window["mask"] for window in windows])
    assert mask.tolist() == [True] * 49 + [False] * 11
    wholes = {"writer": episode.writer()}
    for size in (3, 5):
        wholes |= {f"query_{size}": episode.queries(size), f"target_{size}": episode.targets(size)}
        wholes[f"asked_{size}"] = episode.asked(size)
    assert set(windows[0]) == {*wholes, "mask", "num_steps", "first"}
    for name, whole in wholes.items():
        joined = np.concatenate([window[name] for window in windows])
        assert joined.dtype == whole.dtype
        np.testing.assert_array_equal(joined[:49], whole)
        assert not joined[49:].any()


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_stream_is_a_function_of_seed_and_update():
    task = MappingTask(map_size=7, target_size=12, walk="random")
    stream = MappingStream(task, 3, length=10, seed=4)
    assert stream.windows_per_episode == 3
    straight = [stream.batch(update) for update in range(9)]
    for update in (7, 0, 5, 2, 8):
        assert same(MappingStream(task, 3, length=10, seed=4).batch(update), straight[update])
        assert same(stream.batch(update), straight[update])
    assert not same(straight[0], straight[3])
    assert not same(MappingStream(task, 3, length=10, seed=5).batch(0), straight[0])
    assert not same(MappingStream(task, 3, length=10, seed=4, split="evaluation").batch(0), straight[0])


def test_stream_serves_two_threads():
    task = MappingTask(map_size=7, target_size=12)
    stream, expected = MappingStream(task, 2), MappingStream(task, 2)
    wanted = [expected.batch(update) for update in range(40)]
    wrong = []

    def read(order):
        wrong.extend(update for update in order if not same(stream.batch(update), wanted[update]))

    threads = [threading.Thread(target=read, args=(order,)) for order in (range(40), range(39, -1, -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_held_out_mazes_are_never_trained_on():
    task = MappingTask(map_size=7, target_size=12)
    seen = {}
    for hold_out in (0, 3):
        for split in ("train", "evaluation"):
            stream = MappingStream(task, 16, split=split, hold_out=hold_out)
            mazes = np.concatenate([stream.episode(number).maps for number in range(20)])
            seen[split] = {cells.tobytes() for cells in mazes}
            assert len(seen[split]) > 5
        assert bool(seen["train"] & seen["evaluation"]) == (hold_out == 0)


def test_hold_out_that_leaves_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"hold_out: 50.*evaluation"):
        MappingStream(MappingTask(map_size=7, density=0.0), 1, split="evaluation", hold_out=50).batch(0)


def test_importing_the_world_imports_no_tensorflow():
    code = "import sys, tfmem.tasks.mapping; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(map_size=10), "map_size: 10, must be odd and at least 7"),
        (dict(map_size=5), "map_size"),
        (dict(query_sizes=()), "query_sizes"),
        (dict(query_sizes=(3, 3)), "query_sizes"),
        (dict(query_sizes=(4,)), r"query_sizes: \(4,\), must be"),
        (dict(map_size=7, query_sizes=(9,)), "query_sizes"),
        (dict(walk="zigzag"), "walk: 'zigzag', must be"),
        (dict(episode_length=0), "episode_length"),
        (dict(map_size=7, episode_length=26), "episode_length: 26, must be at most .* = 25 on a spiral"),
        (dict(target_size=36), r"target_size: 36, must be at least 37 for map_size = 25 \(centred: False\)"),
        (
            dict(target_size=22, centred=True),
            r"target_size: 22, must be at least 23 for map_size = 25 \(centred: True\)",
        ),
        (dict(complexity=-0.1), "complexity"),
        (dict(density=1.5), "density: 1.5, must be from 0 to 1"),
    ],
)
def test_bad_task(arguments, message):
    with pytest.raises(ValueError, match=message):
        MappingTask(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=0), "batch_size"),
        (dict(init_maps=np.zeros((2, 9, 9))), r"init_maps: \(2, 9, 9\), must be \(2, 7, 7\)"),
        (dict(init_maps=np.full((2, 7, 7), 2)), r"init_maps: cells \[2\], must be 0"),
        (dict(query_index={3: np.zeros(24, int)}), r"query_index\[3\]: \(24, 1\), must be \(25,\)"),
        (dict(query_index={3: np.full(25, 24)}), r"query_index\[3\]: a step is too late, must be"),
        (dict(query_index={5: np.zeros(25, int)}), r"query_index\[5\]: a step is too late, must be"),
    ],
)
def test_bad_episode(arguments, message):
    task = MappingTask(map_size=7, query_sizes=(3, 5))
    with pytest.raises(ValueError, match=message):
        task.episode(np.random.RandomState(0), **{"batch_size": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=0), "batch_size"),
        (dict(length=0), "length"),
        (dict(seed=-1), "seed"),
        (dict(split="test"), "split: 'test', must be"),
        (dict(hold_out=1), "hold_out"),
    ],
)
def test_bad_stream(arguments, message):
    with pytest.raises(ValueError, match=message):
        MappingStream(MappingTask(), **{"batch_size": 2, **arguments})


def test_maze_has_a_ring_and_the_asked_density():
    rng = np.random.RandomState(0)
    empty, full = maze(rng, 9, density=0.0), maze(rng, 9, density=1.0)
    ring = np.ones((9, 9), bool)
    ring[1:-1, 1:-1] = False
    assert (empty == ring).all()
    assert full[ring].all()
    assert full.sum() > empty.sum()


def test_centred_targets_are_the_public_ones_moved():
    public = MappingTask(map_size=13, target_size=24).episode(np.random.RandomState(3), 2)
    centred = MappingTask(map_size=13, target_size=12, centred=True).episode(np.random.RandomState(3), 2)
    np.testing.assert_array_equal(centred.targets(3), public.targets(3)[..., 7:19, 7:19])
    assert public.targets(3).sum() == centred.targets(3).sum() > 0
    np.testing.assert_array_equal(centred.writer()[..., 2:], public.writer()[..., 2:] - 7)
