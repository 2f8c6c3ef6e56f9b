"""Common functions of the benchmarks: points in separate processes, the machine's rates, the power of a growth.

On a machine that other work uses, measure one core by its CPU seconds, which do not count the time of others:

    TFMEM_CPU_SECONDS=1 taskset -c 0 python benchmarks/cores.py

(Linux; `taskset` leaves one core to the process, so that its libraries have one thread.)
"""

import json
import math
import os
import resource
import subprocess
import sys
import time

clock = time.process_time if os.environ.get("TFMEM_CPU_SECONDS") else time.perf_counter


def in_process(script, *arguments, limit=None):
    """Run `script --one [arguments]` in a separate process with its own peak memory; return its last line as JSON.

    None if the process takes longer than `limit` seconds.
    """
    command = [sys.executable, script, "--one", json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(call, repeats):
    """Measure the seconds of each of `repeats` calls; `call` returns when its work is done."""
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def matmul_rate():
    """Measure the GFLOP/s of a 4096 x 4096 product, best of five."""
    import tensorflow as tf

    a = tf.random.normal([4096, 4096])
    product = tf.function(lambda a: tf.reduce_sum(a @ a))
    product(a).numpy()
    return 2 * 4096**3 / min(seconds_of(lambda: product(a).numpy(), 5)) / 1e9


def memory_rate():
    """Measure the GB/s of the sum of two arrays of 256 MB: two are read and one is written. Best of five."""
    import tensorflow as tf

    a, b = tf.random.normal([2, 2**26])
    add = tf.function(lambda a, b: a + b)
    add(a, b)
    return 3 * 2**28 / min(seconds_of(lambda: add(a, b), 5)) / 1e9


def rates():
    """The machine's GFLOP/s of matrix products and GB/s of memory."""
    return matmul_rate(), memory_rate()


def print_rates(script):
    """Measure the machine's rates in a process of `script`, print them, and return the GFLOP/s."""
    gflops, gigabytes = in_process(script, "rate")
    seconds = "seconds" if clock is time.perf_counter else "CPU seconds"
    print(
        f"{seconds}; matrix products: {gflops:.0f} GFLOP/s, memory: {gigabytes:.1f} GB/s, on "
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        flush=True,
    )
    return gflops


def without_scans():
    """Take the loops of their own away from the cores, so that `tfmem.unroll` runs them in single steps."""
    from tfmem.cores import KanervaCore, MetalearnedMemory, RMACore

    for core in (KanervaCore, MetalearnedMemory, RMACore):
        for name in ("scan", "scan_states"):
            if name in vars(core):
                delattr(core, name)


def peak_gigabytes():
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def update_cost(experiment, repeats, counted=True):
    """Measure an experiment's compiled update.

    Returns seconds of the first call and of the fastest of `repeats` more, peak memory, the model's parameters and,
    where `counted`, GFLOP (products and convolutions in its StableHLO).
    """
    import tensorflow as tf

    from tfmem.aot.lowering import lower
    from tfmem.aot.stablehlo import arithmetic
    from tfmem.training import compiled_updates, stacked_batches

    update = compiled_updates(experiment, 1)
    batch = tf.nest.map_structure(tf.constant, stacked_batches(experiment, 0, 1))
    arguments = (tf.constant(0, tf.int64), batch, experiment.initial_carry())
    first, *times = seconds_of(lambda: float(update(*arguments)[1]["loss"][0]), repeats + 1)
    gigabytes = peak_gigabytes()
    cost = {
        "first": first,
        "seconds": min(times),
        "gigabytes": gigabytes,
        "parameters": sum(v.numpy().size for v in experiment.model.trainable_variables),
    }
    if counted:
        specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
        cost["gflop"] = arithmetic(lower(update, *specs)[0]) / 1e9
    return cost


def bundle_cost(experiment, preset, repeats):
    """Measure an update of an experiment's bundle, run by jax: seconds as in `update_cost`; GB by XLA's account."""
    import numpy as np

    from tfmem.aot.bundle import open_source
    from tfmem.aot.lowering import make_bundle
    from tfmem.aot.runner import Executable, stacked

    bundle = make_bundle(experiment, preset)
    start = clock()
    executable = Executable(bundle.programs["update"], "float32")
    compiled = clock() - start
    values = dict(bundle.initial)
    source = bundle.data_sources["train"]
    if source is not None:
        values |= executable.batch(stacked([open_source(source).batch(0)]))
    values = {name: executable.put(array) for name, array in values.items()}

    def update():
        number = executable.put(np.int64(0))
        results = executable(values | {"number": number})
        values.update({name: result for name, result in results.items() if not name.startswith("metrics/")})
        float(results["metrics/loss"][0])

    first, *times = seconds_of(update, repeats + 1)
    return {"first": compiled + first, "seconds": min(times), "gigabytes": executable.memory / 1e9}


def growth(points, x, y):
    """Power of `x` with which `y` grows, from the last two points."""
    before, last = points[-2:]
    return math.log(last[y] / before[y]) / math.log(last[x] / before[x])
