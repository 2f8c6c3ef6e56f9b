"""Archives of run folders that a machine with a card sends back: OUT/runs.tar.00, ..."""

import tarfile
import tempfile
from pathlib import Path

import numpy as np

from tfmem.training.run_folder import Checkpoint, RunFolder, write_checkpoint

MIB = 2**20


def pack_runs(folders, file, limit, short=False):
    """Write run folders, with only their newest checkpoint, into a tar file of at most `limit` bytes.

    If they are larger, optimizer slots become bfloat16, the largest run's first; runs that are still too large are left
    out. `short` makes all slots bfloat16.

    Returns:
      `{name of the folder: "whole" | "optimizer slots in bfloat16" | "checkpoint left out: ..."}`.
    """
    runs = {run.path.name: run for run in map(RunFolder, folders) if run.saved()}
    checkpoints = {name: run.saved()[0][1] for name, run in runs.items()}
    sizes = {name: path.stat().st_size for name, path in checkpoints.items()}
    notes = dict.fromkeys(runs, "whole")
    room = limit - 256 * 1024 * len(runs)  # the other files
    with tempfile.TemporaryDirectory() as temporary:
        while sizes and (sum(sizes.values()) > room or (short and "whole" in notes.values())):
            whole = [name for name in sizes if notes[name] == "whole"]
            name = max(whole or sizes, key=sizes.get)
            if whole:
                checkpoint, _ = runs[name].restore()
                path = Path(temporary) / f"{name}.npz"
                write_checkpoint(path, with_short_slots(checkpoint))
                checkpoints[name], sizes[name], notes[name] = path, path.stat().st_size, "optimizer slots in bfloat16"
            if not whole or sizes[name] > room:
                notes[name] = f"checkpoint left out: {sizes.pop(name) / MIB:.1f} MiB are too large"
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, run in runs.items():
                for path in (run.config_path, run.metrics_path, run.result_path):
                    if path.exists():
                        archive.add(path, f"{name}/{path.name}")
                if name in sizes:
                    archive.add(checkpoints[name], f"{name}/checkpoints/{run.saved()[0][1].name}")
    return notes


def with_short_slots(checkpoint):
    """Convert the optimizer's float32 arrays in a checkpoint to bfloat16."""
    import ml_dtypes

    arrays = {
        name: array.astype(ml_dtypes.bfloat16)
        if name.startswith("variables/optimizer/") and array.dtype == np.float32 and array.ndim
        else array
        for name, array in checkpoint.arrays.items()
    }
    return Checkpoint(checkpoint.update, arrays, checkpoint.metadata)


def unpack_runs(out, folder):
    """Unpack OUT/runs.tar.NN into `folder`; slots in bfloat16 become float32 again. Returns the run folders."""
    parts = sorted(Path(out).glob("runs.tar.*"))
    if not parts:
        raise SystemExit(f"OUT: {out}, must hold runs.tar.00, which benchmarks/gpu_queue.py writes")
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(part.read_bytes())
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # 3.11.4
    runs = [RunFolder(path.parent) for path in sorted(Path(folder).glob("*/config.json"))]
    for run in [run for run in runs if run.saved()]:
        checkpoint, _ = run.restore()
        arrays = {n: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for n, a in checkpoint.arrays.items()}
        run.save(Checkpoint(checkpoint.update, arrays, checkpoint.metadata))
    return runs
