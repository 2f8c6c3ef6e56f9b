"""Common functions of the benchmarks: points in separate processes, the machine's rate, the power of a growth."""

import json
import math
import os
import resource
import subprocess
import sys
import time


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
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def matmul_rate():
    """Measure the GFLOP/s of a 4096 x 4096 product, best of five."""
    import tensorflow as tf

    a = tf.random.normal([4096, 4096])
    product = tf.function(lambda a: tf.reduce_sum(a @ a))
    product(a).numpy()
    return 2 * 4096**3 / min(seconds_of(lambda: product(a).numpy(), 5)) / 1e9


def peak_gigabytes():
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def update_cost(experiment, repeats):
    """Measure an experiment's compiled update.

    Returns seconds of the first call and of the fastest of `repeats` more, peak memory, the model's parameters, and
    GFLOP of products and convolutions in its StableHLO.
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
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
    return {
        "first": first,
        "seconds": min(times),
        "gigabytes": gigabytes,
        "parameters": sum(v.numpy().size for v in experiment.model.trainable_variables),
        "gflop": arithmetic(lower(update, *specs)[0]) / 1e9,
    }


def growth(points, x, y):
    """Power of `x` with which `y` grows, from the last two points."""
    before, last = points[-2:]
    return math.log(last[y] / before[y]) / math.log(last[x] / before[x])
