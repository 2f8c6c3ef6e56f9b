"""The run folder under truncation, damage, full disks and foreign configurations."""

import errno
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

from tfmem.training import run_folder
from tfmem.training.machine import describe_machine
from tfmem.training.run_folder import Checkpoint, RunFolder, RunFolderError, differences

CONFIG = {"experiment": "a/b", "config": {"seed": 1, "sizes": [1, 2], "rate": 0.1}}


def checkpoint(update, **arrays):
    arrays = arrays or {"variables/model/000": np.full([50, 3], update, np.float32), "carry/0": np.array(update)}
    return Checkpoint(update, arrays, {"wall_time": 1.5 * update})


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim(CONFIG)
    yield folder
    folder.release()


def everything(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_needs_no_tensorflow():
    code = "import sys, tfmem.training.run_folder; assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checkpoints_keep_values_dtypes_and_the_newest_two(folder):
    arrays = {
        "variables/a/b": np.arange(6, dtype=np.float64).reshape(2, 3),
        "half": np.array([1.5, -2], ml_dtypes.bfloat16),
        "scalar": np.array(7, np.int64),
        "flag": np.array([True, False]),
        "empty": np.zeros([0, 4], np.float32),
    }
    for update in (1, 2, 1000000000):
        folder.save(checkpoint(update, **arrays))
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == [
        "checkpoint-000000002.npz",
        "checkpoint-1000000000.npz",
    ]
    restored, damaged = folder.restore()
    assert (restored.update, restored.metadata, damaged) == (1000000000, {"wall_time": 1.5e9}, [])
    assert list(restored.arrays) == list(arrays)
    for name, array in arrays.items():
        assert restored.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(restored.arrays[name], array)


def test_nothing_saved_yet(folder):
    assert folder.restore() == (None, [])
    assert folder.resume() == (None, [])


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_damaged_newest_checkpoint(folder, damage):
    folder.save(checkpoint(10))
    folder.save(checkpoint(20))
    newest = folder.checkpoints / "checkpoint-000000020.npz"
    damage(newest)
    bytes_before = newest.read_bytes()
    restored, damaged = folder.restore()
    assert restored.update == 10
    assert [path for path, _ in damaged] == [newest]
    assert newest.exists()  # reading changes nothing

    restored, damaged = folder.resume()
    assert restored.update == 10
    assert newest.with_name("checkpoint-000000020.npz.damaged").read_bytes() == bytes_before
    folder.save(checkpoint(15))
    assert folder.restore()[0].update == 15


def test_no_readable_checkpoint_is_an_error_and_deletes_nothing(folder):
    folder.append_metrics(10, {"loss": 1.0})
    for update in (10, 20):
        folder.save(checkpoint(update))
        truncate(folder.checkpoints / f"checkpoint-{update:09d}.npz")
    before = everything(folder.path)
    with pytest.raises(RunFolderError, match=r"(?s)nothing was deleted.*000000020.*000000010"):
        folder.resume()
    assert everything(folder.path) == before


def test_another_configuration_is_refused_with_what_differs(folder):
    before = everything(folder.path)
    other = {"experiment": "a/b", "config": {"seed": 2, "sizes": (1, 2), "width": 3}}
    with pytest.raises(RunFolderError) as caught:
        RunFolder(folder.path).claim(other)
    assert "config.seed: 1 there, 2 now" in str(caught.value)
    assert "config.rate: 0.1 there, 'absent' now" in str(caught.value)
    assert "config.width: 'absent' there, 3 now" in str(caught.value)
    assert "sizes" not in str(caught.value)
    assert everything(folder.path) == before


def test_nested_configurations_of_another_type_differ_in_every_field():
    old = {"core": {"type": "DNC", "units": 8, "slots": 4}, "seed": 1}
    new = {"core": {"type": "LSTM", "units": 8}, "seed": 1}
    found = differences(old, new)
    assert ("core.units", "absent", 8) in found
    assert ("core.slots", 4, "absent") in found
    assert ("core.type", "DNC", "LSTM") in found
    assert differences(new, new) == []


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"no config\.json"):
        RunFolder(tmp_path).claim(CONFIG)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_damaged_config(folder):
    folder.config_path.write_text('{"experiment": ')
    with pytest.raises(RunFolderError, match=r"config\.json is damaged"):
        folder.config()
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder(folder.path / "figures").config()


def test_killed_before_the_configuration_was_there(tmp_path):
    (tmp_path / "config.json.partial").write_text('{"exp')
    folder = RunFolder(tmp_path)
    folder.claim(CONFIG)
    assert folder.config() == CONFIG


def test_two_processes_do_not_work_in_one_folder(folder):
    with pytest.raises(RunFolderError, match="another process"):
        RunFolder(folder.path).claim(CONFIG)
    folder.release()
    again = RunFolder(folder.path)
    again.claim(CONFIG)
    again.release()


TRIALS = 200


def in_two_processes(work, root):
    """Results of `work(number, barrier, root)` in two processes, numbers 0 and 1, that start each trial together."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2, timeout=60), context.SimpleQueue()
    processes = [context.Process(target=report_to, args=(queue, work, n, barrier, root)) for n in range(2)]
    for process in processes:
        process.start()
    results = dict(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return results[0], results[1]


def report_to(queue, work, number, barrier, root):
    try:
        queue.put((number, work(number, barrier, root)))
    except BaseException as error:  # the other process must not wait for this one
        barrier.abort()
        queue.put((number, repr(error)))
        raise


def claim_new_folders(number, barrier, root):
    outcomes = []
    for trial in range(TRIALS):
        folder = RunFolder(root / str(trial))
        mine = {"experiment": f"process {number}", "config": {"sizes": list(range(1000 * number))}}
        barrier.wait()
        try:
            folder.claim(mine)
            outcomes.append("claimed" if folder.config() == mine else f"claimed with {folder.config()}")
        except RunFolderError as error:
            outcomes.append(str(error).splitlines()[0])
        barrier.wait()
        folder.release()
    return outcomes


def test_two_processes_claim_one_new_folder(tmp_path):
    for trial, outcomes in enumerate(zip(*in_two_processes(claim_new_folders, tmp_path), strict=True)):
        refusal = f"another process is working in {tmp_path / str(trial)}"
        heard = {outcome.removesuffix(", a run of another configuration:") for outcome in outcomes}
        assert heard == {"claimed", refusal}
        assert sorted(os.listdir(tmp_path / str(trial))) == ["checkpoints", "config.json", "figures"]


def write_one_file(number, barrier, root):
    path = root / "shared.json"
    values = [[0] * 5_000, [1] * 10_000]
    contents = [json.dumps(value, indent=2) + "\n" for value in values]
    for _ in range(TRIALS):
        barrier.wait()
        run_folder.write_json(path, values[number])
        assert path.read_text() in contents
    return "done"


def test_two_processes_write_one_file(tmp_path):
    assert in_two_processes(write_one_file, tmp_path) == ("done", "done")
    assert [path.name for path in tmp_path.iterdir()] == ["shared.json"]


def write_while_it_is_resumed(number, barrier, root):
    folder = RunFolder(root)
    for trial in range(TRIALS):
        barrier.wait()
        if number:
            run_folder.write_json(root / "report.json", {"trial": trial})
        else:
            for _ in range(5):
                folder.resume()
    return "done"


def test_resume_leaves_what_another_process_is_writing(folder):
    assert in_two_processes(write_while_it_is_resumed, folder.path) == ("done", "done")
    assert json.loads((folder.path / "report.json").read_text()) == {"trial": TRIALS - 1}
    assert not list(folder.path.rglob("*.partial"))


def test_resume_waits_for_no_writer(folder):
    writing, go_on = threading.Event(), threading.Event()

    def write(file):
        file.write(b"half, ")
        writing.set()
        assert go_on.wait(60)
        file.write(b"whole")

    thread = threading.Thread(target=run_folder.write_atomically, args=(folder.path / "note.txt", write))
    thread.start()
    assert writing.wait(60)
    folder.resume()
    go_on.set()
    thread.join()
    assert (folder.path / "note.txt").read_bytes() == b"half, whole"


def test_a_writer_that_was_killed_leaves_what_resume_removes(folder):
    code = (
        "import pathlib, sys, time\n"
        "from tfmem.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.mkdir()\n"
        "    (partial / 'variables').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder.saved_model], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    folder.resume()
    (partial,) = folder.path.glob("saved_model.*.partial")
    process.kill()
    process.communicate()
    folder.resume()
    assert not partial.exists()


def test_a_refused_claim_keeps_the_lock_that_was_held(folder):
    with pytest.raises(RunFolderError, match="another configuration"):
        folder.claim({"experiment": "other"})
    with pytest.raises(RunFolderError, match="another process is working in"):
        RunFolder(folder.path).claim(CONFIG)
    folder.claim(CONFIG)


def test_a_refused_claim_gives_the_lock_back(tmp_path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.claim(CONFIG)
    first.release()
    with pytest.raises(RunFolderError, match="was made by another configuration"):
        second.claim({"experiment": "other"})
    first.claim(CONFIG)
    first.release()
    with pytest.raises(TypeError):
        RunFolder(tmp_path / "new").claim({"experiment": object()})
    assert not (tmp_path / "new").exists()


def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    run_folder.write_json(tmp_path / "new.json", {})
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_byte_order_mark_makes_no_difference(folder):
    folder.append_metrics(5, {"verlust/größe": 1.0})
    folder.write_result({"ours": {}})
    for path in (folder.config_path, folder.metrics_path, folder.result_path):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    folder.append_metrics(6, {"verlust/größe": 2.0})
    assert folder.config() == CONFIG
    assert folder.result() == {"ours": {}}
    assert folder.metrics() == [{"update": 5, "verlust/größe": 1.0}, {"update": 6, "verlust/größe": 2.0}]


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_json(folder, content):
    for path, read in ((folder.config_path, folder.config), (folder.result_path, folder.result)):
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(RunFolderError, match=f"{path.name} is damaged"):
            read()


def test_metrics_grow_columns_and_are_cut_on_resume(folder):
    folder.append_metrics(5, {"train/loss": 1 / 3})
    folder.append_metrics(10, {"train/loss": 0.25, "eval/score": np.float32(0.1)})
    folder.save(checkpoint(10))
    at_ten = folder.metrics_path.read_bytes()
    folder.append_metrics(12, {"eval/score": float("nan")})
    folder.append_metrics(15, {"train/loss": 0.125})
    assert folder.metrics_path.read_text().splitlines()[0] == "update,train/loss,eval/score"
    assert folder.metrics()[1] == {"update": 10, "train/loss": 0.25, "eval/score": float(np.float32(0.1))}
    assert folder.metrics()[3] == {"update": 15, "train/loss": 0.125}
    with folder.metrics_path.open("a") as file:
        file.write("20,0.0")  # a crash in the middle of a row
    assert len(folder.metrics()) == 4
    folder.resume()
    assert folder.metrics_path.read_bytes() == at_ten
    folder.append_metrics(15, {"train/loss": 0.125})
    assert folder.metrics_path.read_bytes() == at_ten + b"15,0.125,\n"


def test_metrics_without_any_checkpoint_start_anew(folder):
    folder.append_metrics(5, {"loss": 1.0})
    (folder.checkpoints / "checkpoint-000000005.npz.partial").write_bytes(b"cut off")
    (folder.path / "saved_model.partial/variables").mkdir(parents=True)
    folder.resume()
    assert not list(folder.path.rglob("*.partial"))
    assert not folder.metrics_path.exists()
    assert list(folder.checkpoints.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of 256 KiB; where none can be mounted, skips."""
    mount = tmp_path / "small"
    mount.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no small file system can be mounted here")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def write_until_it_fails(write):
    for n in range(10_000):
        write(n)


def test_full_disk(full_disk):
    folder = RunFolder(full_disk / "run")
    folder.claim(CONFIG)
    folder.append_metrics(1, {"loss": 1.0})
    folder.save(checkpoint(1, big=np.zeros(10_000, np.float32)))
    with pytest.raises(RunFolderError, match=r"000000002.*the disk is full.*kept"):
        folder.save(checkpoint(2, big=np.random.default_rng(0).normal(size=100_000)))
    assert [path.name for path in folder.checkpoints.iterdir()] == ["checkpoint-000000001.npz"]
    assert folder.restore()[0].update == 1

    filler = (full_disk / "filler").open("wb", buffering=0)
    with pytest.raises(OSError, match="No space left"):
        write_until_it_fails(lambda _: filler.write(b"x" * 512))
    filler.close()
    metrics = folder.metrics_path.read_bytes()
    with pytest.raises(
        RunFolderError, match=r"metrics\.csv: the disk is full"
    ):  # the file's last page has room for some
        write_until_it_fails(lambda n: folder.append_metrics(n + 2, {"loss": 0.5}))
    rows = folder.metrics_path.read_bytes()
    assert rows.startswith(metrics)
    assert rows.endswith(b"\n")
    with pytest.raises(RunFolderError, match=r"result\.json: the disk is full"):
        folder.write_result({"text": "x" * 5000})
    assert folder.result() is None
    assert not list(folder.path.rglob("*.partial"))
    folder.release()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_at_any_point_of_a_write(folder, monkeypatch, call):
    folder.save(checkpoint(1))
    before = everything(folder.path)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, call, fail)
    with pytest.raises(RunFolderError, match="the disk is full"):
        folder.save(checkpoint(2))
    with pytest.raises(RunFolderError, match="the disk is full"):
        folder.write_result({})
    assert everything(folder.path) == before


def test_machine_description_is_json():
    described = json.loads(json.dumps(describe_machine(["GPU 0"])))
    assert described["hardware"]["cores"] == os.cpu_count()
    assert described["versions"]["numpy"] == np.__version__
    assert described["hardware"]["devices"] == ["GPU 0"]


def test_bad_keep(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        RunFolder(tmp_path, keep=0)
