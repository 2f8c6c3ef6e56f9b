"""Merge the output of benchmarks/gpu_queue.py into run folders for `reproduce` and checkpoints for its next call.

    TFMEM_QUEUE_DIR=~/tfmem-queue python benchmarks/gpu_merge.py OUT [OUT ...] --runs runs

Each run becomes a finished run of its updates so far (`reproduce import-bundle --finish`), with figures, SavedModel and
result; `reproduce run ... --continue` trains it further. TFMEM_QUEUE_DIR keeps the newest checkpoint of each bundle for
`gpu_queue.py --resume`. `--assets MIB` also writes the most trained checkpoints that fit, as archives of at most that
many MiB in total, to reproductions/<paper>/results/queue.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from gpu_archive import MIB, pack_runs, unpack_runs
from tfmem_reproductions.__main__ import main as reproduce

from tfmem.training.run_folder import RunFolder, differences, write_atomically

ROOT = Path(__file__).resolve().parents[1]


def updates_of(run):
    """Number of updates in a run's newest checkpoint; -1 without a checkpoint."""
    return run.saved()[0][0] if run.saved() else -1


def replace_folder(source, target):
    """Replace a folder by another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    shutil.move(source, target)


def keep(run, queue):
    """Store a run in the queue's folder unless that has one of at least as many updates."""
    kept = queue / run.path.name
    if updates_of(run) > updates_of(RunFolder(kept)):
        replace_folder(shutil.copytree(run.path, run.path.with_name(run.path.name + ".copy")), kept)


def import_run(run, runs):
    """Make a finished run folder below `runs`; return it, or None if it has a run of at least as many updates."""
    about = run.config()
    out = runs / about["experiment"] / about["preset"] / f"seed{about['config']['seed']}"
    if updates_of(RunFolder(out)) >= updates_of(run):
        return None
    changed = differences(RunFolder(out).config()["config"], about["config"]) if out.exists() else []
    if [name for name, *values in changed if name != "num_updates" and "absent" not in values]:
        raise SystemExit(f"gpu_merge: error: {out} holds a run of another configuration; nothing was written")
    imported = run.path.with_name(run.path.name + ".imported")
    status = reproduce(["import-bundle", str(run.path), str(imported), "--finish"])
    if status:
        raise SystemExit(status)
    replace_folder(imported, out)
    return out


def write_assets(queue, megabytes):
    """Write checkpoints of the queue, with slots in bfloat16, into the papers' results: the most trained that fit."""
    left = megabytes * MIB
    runs = [RunFolder(path.parent) for path in queue.glob("*/config.json")]
    for run in sorted((run for run in runs if run.saved()), key=updates_of, reverse=True):
        path = ROOT / "reproductions" / run.config()["experiment"].split("/")[0] / "results/queue" / run.path.name
        with tempfile.TemporaryFile() as file:
            notes = pack_runs([run.path], file, left, short=True)
            size = file.tell()
            file.seek(0)
            content = file.read()
        if size <= left and not notes[run.path.name].startswith("checkpoint left out"):
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / "runs.tar.00", lambda f, content=content: f.write(content))
            left -= size
            print(f"asset: {path.relative_to(ROOT)}, {size / MIB:.2f} MiB, {updates_of(run)} updates")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help="folder that gpu_queue.py wrote")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: runs)")
    parser.add_argument("--assets", type=float, default=0.0, metavar="MIB", help="most MiB of archives (default: none)")
    options = parser.parse_args()
    if "TFMEM_QUEUE_DIR" not in os.environ:
        sys.exit("gpu_merge: error: TFMEM_QUEUE_DIR: not set, must name the folder that keeps checkpoints")
    queue = Path(os.environ["TFMEM_QUEUE_DIR"]).expanduser()
    queue.mkdir(parents=True, exist_ok=True)
    for out in options.out:
        with tempfile.TemporaryDirectory() as temporary:
            for run in unpack_runs(out, Path(temporary)):
                if not run.saved():
                    print(f"{run.path.name}: without a checkpoint, only its metrics came back")
                    continue
                keep(run, queue)
                folder = import_run(run, options.runs)
                print(f"{run.path.name}: {updates_of(run)} updates, {folder or 'a newer run is there'}")
    if options.assets:
        write_assets(queue, options.assets)


if __name__ == "__main__":
    main()
