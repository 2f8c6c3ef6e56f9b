"""Seconds, memory and fraction of the machine's rate of one training step of the Multigrid experiments.

    python benchmarks/multigrid.py                     both at the paper's settings, then how mapping grows
    python benchmarks/multigrid.py --paper             the paper's settings alone
    python benchmarks/multigrid.py --quick             fewer points and repeats
    python benchmarks/multigrid.py --xla               also with XLA
    python benchmarks/multigrid.py --inference         one step of inference in mapping (supplement, D)

Every point runs in a separate process, so that peak memory is its own. The peer is the same network in the public
code's order of work (`work_in_the_public_order`).
"""

import argparse
import dataclasses
import json
import math

from measuring import in_process, peak_gigabytes, print_rates, rates, seconds_of


def layer_flops(layer):
    """Count the multiplications and additions of a layer's convolutions for one input, by definition."""
    kernels = [cell.kernel for cell in layer.cells] if hasattr(layer, "cells") else layer.kernels
    return sum(2 * size**2 * math.prod(kernel.shape) for size, kernel in zip(layer.sizes, kernels, strict=True))


def step_flops(name, model, steps, batch):
    """Count the FLOPs of a training step, the backward pass as twice the forward one."""
    write = sum(layer_flops(layer) for layer in model.writer.layers)
    readers = [*model.readers, *model.decoders] if name == "mapping" else [model.reader, model.decoder]
    read = sum(layer_flops(layer) for stack in readers for layer in stack.layers)
    return 3 * batch * (steps * write + (steps if name == "mapping" else 1) * read)


def work_in_the_public_order():
    """Make the layers compute in the public graph's order, for a peer on the same kernels and machine.

    Coarser grids are repeated and concatenated, each step convolves concat[x, h], and the loop is differentiated
    directly. Results are the same up to rounding.
    """
    import tensorflow as tf

    from tfmem.cores.multigrid import conv_lstm, layers, routing

    def routed(pyramid, size):
        coarser, same, finer = (
            None if i is None else pyramid[i] for i in routing.sources([g.shape[1] for g in pyramid], size)
        )
        parts = [] if coarser is None else [tf.image.resize(coarser, [size, size], "nearest")]
        parts += [] if same is None else [same]
        parts += [] if finer is None else [routing.downsample(finer)]
        return tf.concat(parts, axis=-1)

    def step(cell, x, states, mask=None):
        gates = tf.nn.convolution(tf.concat([x, states[1]], axis=-1), cell.kernel, padding="SAME")
        state = conv_lstm.lstm_gates(gates + cell.bias, states[0], cell.forget_bias)
        return state.hidden, state

    layers.routed_convolution = lambda pyramid, size, kernel: tf.nn.convolution(
        routed(pyramid, size), kernel, padding="SAME"
    )
    conv_lstm.ConvLSTM.project_pyramid = lambda cell, pyramid: routed(pyramid, cell.grid[0])
    conv_lstm.ConvLSTM.step = step
    del layers.MultigridConvLSTM.scan


def measure(name, overrides, repeats, public_order=False):
    import numpy as np
    import tensorflow as tf
    from tfmem_reproductions import load_experiment

    from tfmem.training import compiled_updates

    if public_order:
        work_in_the_public_order()
    module = load_experiment(f"multigrid/{name}")
    if name == "mapping":
        overrides = {"batch_parts": 1, **overrides}
    config = dataclasses.replace(module.PRESETS["paper"], updates_per_call=1, eval_every=0, **overrides)
    experiment = module.Experiment(config)
    update = compiled_updates(experiment, 1)
    carry = experiment.initial_carry()
    batch = tf.nest.map_structure(lambda a: np.stack([a]), synthetic_batch(name, experiment))
    metrics = {}

    def call():
        nonlocal carry
        carry, result = update(tf.constant(1, tf.int64), batch, carry)
        metrics.update(tf.nest.map_structure(lambda m: m.numpy(), result))

    compile_seconds, *times = seconds_of(call, repeats + 1)
    steps = config.window if name == "mapping" else config.steps
    return {
        "seconds": float(np.median(times)),
        "fastest": min(times),
        "compile": compile_seconds,
        "gigabytes": peak_gigabytes(),
        "loss": float(metrics["loss"][0]),
        "gflop": step_flops(name, experiment.model, steps, config.batch_size) / 1e9,
    }


def memory_cells(model):
    """Count the numbers in the memory of a mapping model for one maze: grids, slots, or all of another core's state."""
    import tensorflow as tf

    state = model.get_initial_state(1)
    if hasattr(state, "access_state"):
        state = state.access_state.memory
    elif not hasattr(model, "cell"):
        state = [grid.cell for layer in state for grid in layer]
    return sum(int(tf.size(x)) for x in tf.nest.flatten(state))


def measure_inference(preset, repeats):
    """Measure one step of a mapping model in one maze: observe, write, answer a query."""
    import numpy as np
    import tensorflow as tf
    from tfmem_reproductions.multigrid import mapping

    experiment = mapping.Experiment(dataclasses.replace(mapping.PRESETS[preset], batch_size=1))
    model = experiment.model
    window = experiment.batch(0)
    inputs = {"observation": window["writer"][:1], "query_3": window["query_3"][:1]}
    inputs, state = tf.nest.map_structure(tf.constant, inputs), model.get_initial_state(1)
    step = tf.function(model.run, autograph=False)

    def call():
        logits, _ = step(inputs, state)
        logits["logits_3"].numpy()

    seconds_of(call, 3)  # compiled, and warm
    times = seconds_of(call, repeats)
    return {
        "mean": float(np.mean(times)),
        "std": float(np.std(times)),
        "parameters": model.count_params(),
        "cells": memory_cells(model),
    }


# Supplement D: seconds of a step on a Titan X, mean and standard deviation of 10 runs.
PRINTED_INFERENCE = {"paper_15x15": "0.018 ± 0.003", "paper_dnc": "0.017 ± 0.001"}


def print_inference():
    head = f"{'preset':16s} {'parameters':>10s} {'cells':>6s} {'s/step, mean ± std of 10':>26s} {'paper, Titan X':>15s}"
    print(head)
    for preset in ("paper_15x15", "paper_dnc", "paper_conv_lstm", "paper_lstm"):
        r = in_process(__file__, "inference", preset, 10)
        print(
            f"{preset:16s} {r['parameters']:10,d} {r['cells']:6,d} {r['mean']:16.4f} ± {r['std']:.4f} "
            f"{PRINTED_INFERENCE.get(preset, ''):>16s}",
            flush=True,
        )


def synthetic_batch(name, experiment):
    """Make a batch of the experiment; for recall, images of noise, so that no data set is needed."""
    import numpy as np

    if name == "mapping":
        return experiment.batch(0)
    config, rng = experiment.config, np.random.default_rng(0)
    images = rng.integers(0, 256, (config.steps, config.batch_size, 28, 28, 1)).astype(np.float32)
    label = rng.integers(0, 10, config.batch_size).astype(np.int32)
    return {"images": images, "query": images[0], "label": label, "query_step": np.int32(0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true", help="the paper's settings alone")
    parser.add_argument("--quick", action="store_true", help="fewer points and repeats")
    parser.add_argument("--xla", action="store_true", help="XLA beside the plain graph")
    parser.add_argument("--inference", action="store_true", help="one step of inference in mapping alone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, *rest = json.loads(arguments.one)
        points = {"rate": rates, "inference": measure_inference}
        print(json.dumps(points[what](*rest) if what in points else measure(what, *rest)))
        return
    if arguments.inference:
        print_inference()
        return

    rate = print_rates(__file__)
    repeats = 3 if arguments.quick else 7
    head = f"{'setting':44s} {'s/step':>8s} {'fastest':>8s} {'GB':>6s} {'GFLOP':>7s} {'of rate':>8s} {'compile':>8s}"
    print(head)

    def row(title, name, public_order=False, **overrides):
        r = in_process(__file__, name, overrides, repeats, public_order)
        share = r["gflop"] / r["seconds"] / rate
        print(
            f"{title:44s} {r['seconds']:8.3f} {r['fastest']:8.3f} {r['gigabytes']:6.2f} {r['gflop']:7.0f} {share:8.1%} "
            f"{r['compile']:7.1f}s",
            flush=True,
        )
        return r

    parts = row("mapping paper in two parts: batch 32, 20 steps", "mapping", batch_parts=2)
    for name, title in (
        ("mapping", "mapping paper: batch 32, 20 steps"),
        ("mnist_recall", "recall paper: batch 32, 10"),
    ):
        own, peer = row(title, name), row("  the same in the public code's order of work", name, public_order=True)
        print(
            f"  tfmem takes {own['seconds'] / peer['seconds']:.2f} of the peer's time (fastest: "
            f"{own['fastest'] / peer['fastest']:.2f}), {own['gigabytes'] / peer['gigabytes']:.2f} of its memory; "
            f"losses differ by {abs(own['loss'] / peer['loss'] - 1):.1e}"
        )
        if name == "mapping":
            print(
                f"  two parts take {parts['seconds'] / own['seconds']:.2f} of the time of one (fastest: "
                f"{parts['fastest'] / own['fastest']:.2f}), {parts['gigabytes'] / own['gigabytes']:.2f} of its memory"
            )
        if arguments.xla:
            row(f"  {name} with XLA", name, jit_compile=True)
    if arguments.paper:
        return
    for batch in (8, 16):
        row(f"mapping, batch {batch}", "mapping", batch_size=batch)
    if not arguments.quick:
        for window in (5, 10, 40):
            row(f"mapping, {window} steps", "mapping", window=window)
        row("mapping, paper_15x15 widths on 15x15", "mapping", **small_widths())
        row("mapping, 3x3 and 9x9 queries", "mapping", query_sizes=[3, 9])


def small_widths():
    from tfmem_reproductions.multigrid.mapping import SMALL

    return SMALL


if __name__ == "__main__":
    main()
