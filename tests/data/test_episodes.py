"""Episode files: what was collected comes back, by update, with and without TensorFlow; damage is told."""

import functools
import json
import re
import struct
import subprocess
import sys
import zlib

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tests.support import at_once
from tfmem.data.episodes import EpisodeFile, episodes, write_episodes
from tfmem.data.files import CorruptDataError, MissingDataError
from tfmem.envs.exploration import ExploringPolicy, RandomPolicy, collect

WORLD, NUMBER, LENGTH, SEED = "tfmem/RandomCity-v0", 11, 5, 3
ARGUMENTS = {"frame_size": 8, "map_size": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("episodes") / "made"
    path = write_episodes(folder / "city.tfrecord", WORLD, NUMBER, LENGTH, SEED, workers=2, arguments=ARGUMENTS)
    assert [entry.name for entry in folder.iterdir()] == ["city.tfrecord"]
    return path


def seeds():
    return [int(np.random.SeedSequence([SEED, i]).generate_state(1, np.uint64)[0]) for i in range(NUMBER)]


def test_a_file_has_the_trajectories(path):
    env = gymnasium.make_vec(WORLD, NUMBER, **ARGUMENTS)
    expected = collect(env, ExploringPolicy(), LENGTH, seeds())._asdict()
    file = EpisodeFile(path)
    assert len(file) == NUMBER
    for i in range(NUMBER):
        assert file[i].keys() == expected.keys()
        for name, array in file[i].items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name][:, i])
    description = {"world": WORLD, "number": NUMBER, "length": LENGTH, "seed": SEED, "policy": repr(ExploringPolicy())}
    assert description.items() <= file.description.items()


def test_the_number_of_processes_changes_nothing(path, tmp_path):
    alone = write_episodes(tmp_path / "alone", WORLD, NUMBER, LENGTH, SEED, arguments=ARGUMENTS)
    assert alone.read_bytes() == path.read_bytes()
    other = write_episodes(tmp_path / "other", WORLD, 1, LENGTH, SEED + 1, arguments=ARGUMENTS)
    assert (EpisodeFile(other)[0]["frames"] != EpisodeFile(path)[0]["frames"]).any()


def test_tensorflow_reads_the_records(path):
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("frames", "positions", "description")}
    file = EpisodeFile(path)
    for i, record in enumerate(tf.data.TFRecordDataset(str(path))):  # it checks the records' checksums
        example = tf.io.parse_single_example(record, features)
        description = json.loads(example["description"].numpy())
        assert description["episode"] == i
        for name, dtype in (("frames", tf.uint8), ("positions", tf.float32)):
            array = tf.io.decode_raw(tf.io.decode_compressed(example[name], "ZLIB"), dtype)
            np.testing.assert_array_equal(tf.reshape(array, description["shapes"][name][1]), file[i][name])
    assert i == NUMBER - 1


def test_batches_are_time_major_and_each_pass_has_an_order_of_its_own(path):
    file, stream = EpisodeFile(path), episodes(path, 3, seed=7)
    assert stream.batches_per_pass == 3
    orders = []
    for number in range(6):
        batch = stream.batch(number)
        assert batch["frames"].shape == (LENGTH + 1, 3, 8, 8, 3)
        assert batch["actions"].shape == (LENGTH, 3)
        for b in range(3):
            (which,) = [i for i in range(NUMBER) if (file[i]["frames"] == batch["frames"][:, b]).all()]
            for name, array in batch.items():
                np.testing.assert_array_equal(array[:, b], file[which][name])
            orders.append(which)
    assert len(set(orders[:9])) == len(set(orders[9:])) == 9
    assert orders[:9] != orders[9:]
    again = episodes(path, 3, seed=7).batch(4)  # by another object, out of order
    np.testing.assert_array_equal(again["frames"], stream.batch(4)["frames"])
    assert (episodes(path, 3, seed=8).batch(4)["frames"] != again["frames"]).any()
    ordered = episodes(path, 3, seed=None).batch(1)["headings"]
    np.testing.assert_array_equal(ordered, np.stack([file[i]["headings"] for i in (3, 4, 5)], axis=1))


def test_episodes_from_the_end(path):
    file = EpisodeFile(path)
    np.testing.assert_array_equal(file[-1]["frames"], file[NUMBER - 1]["frames"])
    with pytest.raises(IndexError):
        file[NUMBER]


def test_length_takes_the_first_steps(path):
    whole, short = episodes(path, 2).batch(1), episodes(path, 2, length=2).batch(1)
    for name, array in whole.items():
        np.testing.assert_array_equal(short[name], array[: 2 if name in ("actions", "rewards") else 3])


def test_dataset_goes_on_at_any_update(path):
    stream = episodes(path, 4, length=3)
    dataset = stream.dataset(first=5)
    assert dataset.element_spec["frames"] == tf.TensorSpec([4, 4, 8, 8, 3], tf.uint8)
    for number, batch in zip((5, 6, 7), dataset.as_numpy_iterator(), strict=False):
        for name, array in stream.batch(number).items():
            np.testing.assert_array_equal(batch[name], array)


def test_reading_needs_neither_tensorflow_nor_the_worlds(path):
    program = """
import sys
for name in ("tensorflow", "gymnasium", "trimesh", "embreex", "keras", "rich"):
    sys.modules[name] = None
from tfmem.data.episodes import episodes
print(episodes(sys.argv[1], 2).batch(0)["actions"].sum())
"""
    told = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    assert int(told.stdout) == episodes(path, 2).batch(0)["actions"].sum()


def test_other_worlds_and_policies(tmp_path):
    arguments = {"size": 16, "num_blocks": 60, "max_episode_steps": 4, **ARGUMENTS}
    path = write_episodes(tmp_path / "a", "tfmem/Terrain-v0", 2, 9, policy=RandomPolicy(0.5), arguments=arguments)
    file = EpisodeFile(path)
    assert file.description["policy"] == "RandomPolicy(momentum=0.5)"
    assert file.description["arguments"]["max_episode_steps"] == 4
    assert np.flatnonzero(file[0]["resets"]).tolist() == [0, 5]


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_missing_file_tells_how_to_make_it(tmp_path):
    where = tmp_path / "none.tfrecord"
    with pytest.raises(MissingDataError, match=re.escape(f"{where} cannot be opened")) as told:
        episodes(where, 2)
    assert f"tfmem.data.episodes.write_episodes('{where}'" in str(told.value)


def places(path):
    """(start, end) of the records' data."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield place + 12, place + 12 + length
        place += 16 + length


def damaged(path, how, tmp_path):
    content = bytearray(path.read_bytes())
    records = list(places(path))
    if how == "empty":
        content.clear()
    elif how == "something else":
        content = bytearray(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif how == "cut in a record":
        del content[(records[4][0] + records[4][1]) // 2 :]
    elif how == "cut in the first record":
        del content[100:]
    elif how == "cut between records":
        del content[records[4][1] + 4 :]
    elif how == "two files in one":
        content = content * 2
    elif how == "something behind it":
        content = content + b"more"
    elif how == "length":
        content[records[2][0] - 12] ^= 8
    elif how == "description of the first":
        place = content.index(b'"format"')
        content[place] = 0
    copy = tmp_path / "copy.tfrecord"
    copy.write_bytes(content)
    return copy


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "something else",
        "cut in a record",
        "cut in the first record",
        "cut between records",
        "two files in one",
        "something behind it",
        "length",
        "description of the first",
    ],
)
def test_damaged_files_are_refused(path, how, tmp_path):
    copy = damaged(path, how, tmp_path)
    with pytest.raises(CorruptDataError, match=re.escape(f"{copy} is not a whole file of episodes")) as told:
        EpisodeFile(copy)
    assert f"Make it with\n    tfmem.data.episodes.write_episodes('{copy}'" in str(told.value)


def test_how_to_make_a_damaged_file_is_the_call_that_made_it(path, tmp_path):
    copy = damaged(path, "cut between records", tmp_path)
    with pytest.raises(CorruptDataError, match=f"it has 5 whole records of {NUMBER}") as told:
        EpisodeFile(copy)
    call = str(told.value).splitlines()[-1].strip()
    copy.unlink()
    names = {"tfmem": sys.modules["tfmem"], "ExploringPolicy": ExploringPolicy}
    assert eval(call, names).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("where", ["frames", "description", "key"])
def test_damaged_records_are_refused_when_they_are_read(path, where, tmp_path):
    content = bytearray(path.read_bytes())
    start, end = list(places(path))[6]
    streams = zlib.compress(EpisodeFile(path)[6]["frames"].tobytes())
    searched = {"frames": streams, "description": b'"episode": 6', "key": b"headings"}[where]
    content[content.index(searched, start, end) + len(searched) - 1] ^= 1
    copy = tmp_path / "copy.tfrecord"
    copy.write_bytes(content)
    file = EpisodeFile(copy)
    with pytest.raises(CorruptDataError, match=f"{copy} .*: record 6 cannot be read"):
        file[6]
    with pytest.raises(CorruptDataError, match="record 6"):
        episodes(copy, NUMBER).batch(0)
    with pytest.raises(tf.errors.OpError, match=f"{copy} .*: record 6 cannot be read"):
        list(episodes(copy, 2, seed=None).dataset().take(4))
    np.testing.assert_array_equal(file[5]["frames"], EpisodeFile(path)[5]["frames"])


class _Failing(RandomPolicy):
    def start(self, rngs, world):
        raise RuntimeError("this policy fails")


def test_nothing_is_left_of_a_file_that_failed(tmp_path):
    with pytest.raises(RuntimeError, match="this policy fails"):
        write_episodes(tmp_path / "a", WORLD, 2, 2, policy=_Failing(), arguments=ARGUMENTS)
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file(tmp_path, monkeypatch):
    def write(path, description, jobs, workers):
        with open(path, "wb") as file:
            file.write(str(description["seed"]).encode())

    monkeypatch.setattr("tfmem.data.episodes._write", write)
    for trial in range(200):
        path = tmp_path / str(trial)
        calls = [functools.partial(write_episodes, path, WORLD, 1, 1, seed, arguments=ARGUMENTS) for seed in range(2)]
        outcomes = at_once(*calls)
        (winner,) = (seed for seed in range(2) if outcomes[seed] == path)
        assert path.read_bytes() == str(winner).encode()
        with pytest.raises(FileExistsError, match="is there already; delete it"):
            raise outcomes[1 - winner]
    assert len(list(tmp_path.iterdir())) == 200


def test_a_file_is_not_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=f"{path} is there already"):
        write_episodes(path, WORLD, 1, 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("number", dict(number=0)),
        ("length", dict(length=0)),
        ("seed", dict(seed=-1)),
        ("workers", dict(workers=0)),
        ("world", dict(world="tfmem/Nowhere-v0")),
        ("world", dict(world="CartPole-v1")),
        ("frame_size", dict(arguments={"frame_size": 1})),
    ],
)
def test_bad_arguments_of_writing(name, arguments, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} is .*must be"):
        write_episodes(**{"path": tmp_path / "folder" / "a", "world": WORLD, "number": 1, "length": 1, **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("batch_size", dict(batch_size=0)),
        ("batch_size", dict(batch_size=NUMBER + 1)),
        ("length", dict(length=0)),
        ("length", dict(length=LENGTH + 1)),
        ("seed", dict(seed=-1)),
    ],
)
def test_bad_arguments_of_reading(name, arguments, path):
    with pytest.raises(ValueError, match=f"^{name} is .*must"):
        episodes(path, **{"batch_size": 2, **arguments})
