"""Episode files: what was collected comes back, by update, without TensorFlow; damage is refused."""

import functools
import re
import struct
import subprocess
import sys
import zlib

import gymnasium
import h5py
import numpy as np
import pytest

from tests.support import at_once
from tfmem.data.episodes import EpisodeFile, episodes, write_episodes
from tfmem.data.files import CorruptDataError, MissingDataError
from tfmem.envs.exploration import ExploringPolicy, collect

WORLD, NUMBER, LENGTH, SEED = "tfmem/RandomCity-v0", 11, 5, 3
ARGUMENTS = {"frame_size": 8, "map_size": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("episodes") / "made"
    path = write_episodes(folder / "city.h5", WORLD, NUMBER, LENGTH, SEED, workers=2, arguments=ARGUMENTS)
    assert [entry.name for entry in folder.iterdir()] == ["city.h5"]
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


def test_any_hdf5_reader_opens_the_file(path):
    file = EpisodeFile(path)
    with h5py.File(path) as content:
        assert content.keys() == file[0].keys()
        for name, array in content.items():
            np.testing.assert_array_equal(array[:], np.stack([file[i][name] for i in range(NUMBER)]))


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


def test_processes_read_one_file(path):
    program = """
import sys, zlib
from tfmem.data.episodes import episodes
print(zlib.crc32(episodes(sys.argv[1], 4, seed=2).batch(3)["frames"].tobytes()))
"""
    start = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, text=True)
    readers = [start([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    expected = zlib.crc32(episodes(path, 4, seed=2).batch(3)["frames"].tobytes())
    assert [int(reader.communicate()[0]) for reader in readers] == [expected] * 3


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
    path = write_episodes(tmp_path / "a", "tfmem/Terrain-v0", 2, 9, policy=ExploringPolicy(0.5), arguments=arguments)
    file = EpisodeFile(path)
    assert file.description["policy"] == "ExploringPolicy(look=0.5)"
    assert file.description["arguments"]["max_episode_steps"] == 4
    assert np.flatnonzero(file[0]["resets"]).tolist() == [0, 5]


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_missing_file_error_has_the_command_that_makes_it(tmp_path):
    where = tmp_path / "none.h5"
    with pytest.raises(MissingDataError, match=re.escape(f"{where} cannot be opened")) as told:
        episodes(where, 2)
    assert f"tfmem.data.episodes.write_episodes('{where}'" in str(told.value)


DAMAGE = {
    "empty": lambda content: b"",
    "something else": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "an older file": lambda content: struct.pack("<Q", 20) + bytes(28),
    "cut in the header": lambda content: content[:100],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "description": lambda content: content.replace(b'"format"', b'"farmat"'),
    "name of an array": lambda content: content.replace(b"headings", b"heedings"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_refused(path, how, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(CorruptDataError, match=re.escape(f"{copy} is not a whole file of episodes")) as caught:
        EpisodeFile(copy)
    assert f"Make it with tfmem.data.episodes.write_episodes('{copy}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("it is not an HDF5 file" in str(caught.value)) == (how in ("empty", "something else", "an older file"))


def test_no_flipped_byte_changes_an_episode(path, tmp_path):
    """A flip is in free space, refused on opening, or refused on reading the episode."""
    whole, rng = EpisodeFile(path), np.random.default_rng(4)
    content, copy, refused = path.read_bytes(), tmp_path / "copy.h5", 0
    for place in rng.integers(0, len(content), 80):
        copy.unlink(missing_ok=True)
        copy.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
        try:
            file = EpisodeFile(copy)
            for i in range(NUMBER):
                for name, array in file[i].items():
                    np.testing.assert_array_equal(array, whole[i][name])
        except CorruptDataError:
            refused += 1
    assert refused > 15


def stream_of(path, name, episode):
    with h5py.File(path) as content:
        array = content[name]
        return array.id.read_direct_chunk((episode, *[0] * (array.ndim - 1)))[1]


def test_damaged_episodes_are_refused_when_they_are_read(path, tmp_path):
    content, stream = path.read_bytes(), stream_of(path, "frames", 6)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(content.replace(stream, stream[:-1] + bytes([stream[-1] ^ 1])))
    file = EpisodeFile(copy)
    message = f"{copy} .*: episode 6 cannot be read: .*Make it with"
    with pytest.raises(CorruptDataError, match=message):
        file[6]
    with pytest.raises(CorruptDataError, match="episode 6"):
        episodes(copy, NUMBER).batch(0)
    np.testing.assert_array_equal(file[5]["frames"], EpisodeFile(path)[5]["frames"])


def test_how_to_make_a_damaged_file_is_the_call_that_made_it(path, tmp_path):
    stream = stream_of(path, "frames", 0)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes().replace(stream, bytes(len(stream))))
    with pytest.raises(CorruptDataError, match="episode 0 cannot be read") as caught:
        EpisodeFile(copy)[0]
    call = str(caught.value).split("Make it with ")[1]
    copy.unlink()
    names = {"tfmem": sys.modules["tfmem"], "ExploringPolicy": ExploringPolicy}
    assert eval(call, names).read_bytes() == path.read_bytes()


def test_a_file_that_lacks_episodes_is_refused(path, tmp_path):
    copy = tmp_path / "copy.h5"
    with h5py.File(path) as whole, h5py.File(copy, "w") as part:
        part.attrs["description"] = whole.attrs["description"]
        for name, array in whole.items():
            made = part.create_dataset(name, array.shape, array.dtype, chunks=array.chunks, compression="gzip")
            made[:4] = array[:4]
    with pytest.raises(CorruptDataError, match=f"it has 4 whole episodes of {NUMBER}"):
        EpisodeFile(copy)


class _Failing(ExploringPolicy):
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
    with pytest.raises(ValueError, match=f"^{name}: .*must be"):
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
    with pytest.raises(ValueError, match=f"^{name}: .*must"):
        episodes(path, **{"batch_size": 2, **arguments})
