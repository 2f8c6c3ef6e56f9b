"""Training of a bundle with jax, without TensorFlow, Keras or Sonnet.

The run folder is like any other (`tfmem.training.run_folder`); `reproduce import-bundle` brings the trained weights
back to TensorFlow.
"""

import os
import resource
import time
from types import SimpleNamespace

import jax
import numpy as np
from jax.extend import backend

from tfmem.aot.bundle import BundleError, open_source, read_bundle
from tfmem.aot.stablehlo import PRECISIONS, arithmetic, with_precision
from tfmem.training.loop import Loop, fitting_arrays
from tfmem.training.machine import describe_machine
from tfmem.training.run_folder import RunFolder, run_result

MIB = 2**20


class Executable:
    """Program compiled for the first device.

    Args:
      program: a `tfmem.aot.bundle.Program`.
      precision: one of `PRECISIONS`; see `with_precision`.

    Attributes:
      seconds: compile time.
      memory: bytes of a call by XLA's account: arguments, results and temporaries.
      cost: XLA's cost analysis, which counts the body of a loop once.

    Raises:
      BundleError: XLA cannot compile it, or a call needs more memory than is free.
    """

    def __init__(self, program, precision):
        jax.config.update("jax_enable_x64", True)
        client = backend.get_backend()
        self.program, self.device = program, client.local_devices()[0]
        start = time.perf_counter()
        with _clear_errors("compile"):
            self.loaded = client.compile_and_load(with_precision(program.text, precision), (self.device,))
        self.seconds = time.perf_counter() - start
        stats = self.loaded.get_compiled_memory_stats()
        self.memory = (
            stats.argument_size_in_bytes
            + stats.output_size_in_bytes
            - stats.alias_size_in_bytes
            + stats.temp_size_in_bytes
        )
        self.cost = {name: value for name, value in self.loaded.cost_analysis().items() if "{" not in name}
        free = free_memory(self.device)
        if free is not None and self.memory > free:
            raise BundleError(
                f"too little memory on {self.device}: a call needs {self.memory / MIB:,.0f} MiB, "
                f"{free / MIB:,.0f} MiB are free. Compile with a smaller batch_size, or free some"
            )

    def put(self, array):
        return jax.device_put(array, self.device)

    def __call__(self, values):
        """Map arguments by name (jax arrays; those of variables are consumed) to results by name."""
        with _clear_errors("run"):
            results = self.loaded.execute([values[leaf.name] for leaf in self.program.arguments])
        return {leaf.name: result for leaf, result in zip(self.program.results, results, strict=True)}

    def batch(self, nest):
        """Arguments `batch/...` by name, from a data source's nest.

        Raises:
          BundleError: the data's names, shapes or types differ from the compiled ones.
        """
        arrays = {}
        for leaf in self.program.arguments:
            if not leaf.name.startswith("batch/"):
                continue
            array = nest
            try:
                for key in leaf.path:
                    array = getattr(array, key) if isinstance(key, str) and not isinstance(array, dict) else array[key]
            except (AttributeError, IndexError, KeyError) as error:
                raise BundleError(
                    f"{leaf.name}: the data source has no such array, must have it as compiled; if the bundle is of an "
                    "older version, make it again with `reproduce compile`"
                ) from error
            array = np.asarray(array)
            if array.shape != leaf.shape or array.dtype.name != leaf.dtype:
                raise BundleError(
                    f"{leaf.name}: {array.dtype.name} {list(array.shape)}, "
                    f"must be {leaf.dtype} {list(leaf.shape)} as compiled"
                )
            arrays[leaf.name] = array
        return arrays


class _clear_errors:
    """Context that turns XLA's errors into BundleErrors of one line."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = str(error).strip().splitlines()[0]
            if "RESOURCE_EXHAUSTED" in reason or "out of memory" in reason.lower():
                raise BundleError(f"too little memory to {self.what} it: {reason}") from error
            raise BundleError(f"XLA cannot {self.what} it: {reason}") from error


def free_memory(device):
    """Free bytes of a device, or for a CPU of the machine; None if unknown."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def peak_memory(device):
    """Peak bytes in use on a device, or for a CPU by this process."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stacked(nests):
    """Stack nests of equal structure (dicts, sequences, NamedTuples) into one nest of arrays."""
    first = nests[0]
    if isinstance(first, dict):
        return {name: stacked([nest[name] for nest in nests]) for name in first}
    if hasattr(first, "_fields"):
        return type(first)(*map(stacked, zip(*nests, strict=True)))
    if isinstance(first, list | tuple):
        return type(first)(map(stacked, zip(*nests, strict=True)))
    return np.stack(nests)


class BundleRun(Loop):
    """Training of a bundle in a run folder.

    Args:
      bundle: a `Bundle`.
      folder: a claimed `RunFolder`.
      steps: total updates, a multiple of the bundle's `updates_per_call`.
      precision: one of `PRECISIONS`.

    Attributes:
      values: arrays on the device, by name.
      seconds: time of each call, without the first (warm-up).
    """

    def __init__(self, bundle, folder, steps, precision):
        super().__init__(folder, SimpleNamespace(**bundle.config), steps)
        self.bundle, self.seconds, self.warm, self.names = bundle, [], False, bundle.names
        self.sources = {split: open_source(p) if p else None for split, p in bundle.data_sources.items()}
        self.executable = Executable(bundle.programs["update"], precision)
        self.evaluation_executable = None
        if "evaluation" in bundle.programs:
            self.evaluation_executable = Executable(bundle.programs["evaluation"], precision)
            if self.sources["evaluation"]:  # fails now if it must, not after the training
                self.evaluation_executable.batch(self.sources["evaluation"].batch(0))
        self.trained = [n for n in bundle.initial if not n.startswith("constants/")]
        self.values = {name: self.executable.put(array) for name, array in bundle.initial.items()}
        self.resume()

    def load(self, checkpoint):
        shapes = {name: self.bundle.initial[name].shape for name in self.trained}
        for name, array in fitting_arrays(checkpoint, shapes, "the bundle", self.names).items():
            self.values[name] = self.executable.put(array)

    def arrays(self):
        return {name: np.asarray(self.values[name]) for name in self.trained}

    def batches(self, first, size):
        if self.sources["train"] is None:
            return {}
        return self.executable.batch(stacked([self.sources["train"].batch(n) for n in range(first, first + size)]))

    def call(self, first, size, batches):
        start = time.perf_counter()
        given = {"number": np.int64(first), **batches}
        results = self.executable(self.values | {name: self.executable.put(array) for name, array in given.items()})
        metrics = {n.removeprefix("metrics/"): np.asarray(x) for n, x in results.items() if n.startswith("metrics/")}
        self.values |= {name: x for name, x in results.items() if not name.startswith("metrics/")}
        if self.warm:
            self.seconds.append((time.perf_counter() - start) / size)
        self.warm = True
        return metrics

    def evaluate(self):
        run = self.evaluation_executable
        if run is None:
            return None
        values = dict(self.values)
        values |= {f"carry/{i}": run.put(array) for i, array in enumerate(self.bundle.evaluation_carry)}
        for number in range(self.bundle.evaluation_steps):
            source = self.sources["evaluation"]
            batch = run.batch(source.batch(number)) if source else {}
            given = {"number": np.int64(number), **batch}
            results = run(values | {name: run.put(array) for name, array in given.items()})
            values |= {name: x for name, x in results.items() if name.startswith("carry/")}
        return {n.removeprefix("metrics/"): float(x) for n, x in results.items() if n.startswith("metrics/")}


def run_bundle(path, folder=None, steps=None, precision="float32"):
    """Train a bundle, from the folder's last checkpoint if there is one.

    Args:
      path: the bundle.
      folder: run folder; default: runs/<experiment>/<preset>/seed<seed>-bundle.
      steps: total updates; default: the configuration's.
      precision: one of `PRECISIONS`.

    Returns:
      The content of result.json.

    Raises:
      BundleError: the bundle or the arguments are wrong, or there is too little memory.
      RunFolderError, TrainingInterrupted, TrainingDivergedError: as `tfmem.training.train`.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision: {precision!r}, must be one of {', '.join(PRECISIONS)}")
    bundle = read_bundle(path)
    steps = bundle.config["num_updates"] if steps is None else steps
    if steps < 1 or steps % bundle.updates_per_call:
        raise BundleError(f"steps: {steps}, must be a multiple of updates_per_call = {bundle.updates_per_call}")
    if folder is None:
        folder = os.path.join("runs", bundle.experiment, str(bundle.preset), f"seed{bundle.config['seed']}-bundle")
    folder = RunFolder(folder)
    about = {"experiment": bundle.experiment, "preset": bundle.preset, "config": bundle.config}
    folder.claim(about | {"bundle": {"manifest": bundle.digest, "precision": precision}})
    try:
        finished = run_result(folder)
        if finished is not None and finished["updates"] >= steps:
            return finished
        folder.result_path.unlink(missing_ok=True)
        run = BundleRun(bundle, folder, steps, precision)
        run.run()
        scores = run.evaluation if run.evaluation is not None else run.evaluate()
        result = {
            "experiment": bundle.experiment,
            "preset": bundle.preset,
            "ours": scores or {},
            "seeds": [bundle.config["seed"]],
            "updates": run.update,
            "wall_time_seconds": round(run.wall_time(), 1),
            **({} if run.cpu_time() is None else {"cpu_time_seconds": round(run.cpu_time(), 1)}),
            "seconds_per_update": float(np.median(run.seconds)) if run.seconds else None,
            "seconds_to_compile": round(run.executable.seconds, 1),
            "flops_per_update": arithmetic(bundle.programs["update"].text) / bundle.updates_per_call,
            "bytes_of_a_call": run.executable.memory,
            "bytes_at_peak": peak_memory(run.executable.device),
            **describe_machine([run.executable.device.device_kind]),
        }
        folder.write_result(result)
        return result
    finally:
        folder.release()
