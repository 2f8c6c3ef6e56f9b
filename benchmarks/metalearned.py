"""Time and memory of a training update against length: MNM-g, MNM-p and LSTM with a look-up table (Figure 3).

    python benchmarks/metalearned.py                   the paper's sizes, lengths up to 1024, draws metalearned.png
    python benchmarks/metalearned.py --quick           lengths up to 512, one measurement each
    python benchmarks/metalearned.py --xla             compiled by XLA
    python benchmarks/metalearned.py --paper           three updates of each paper preset and model
    python benchmarks/metalearned.py --steps           against the loop of single steps, without the scan's chunks

Paper: Munkhdalai et al. 2019, §4.1: the time of the look-up table grows with the square of the length, that of the MNM
linearly. Episodes are of double copy. Every point runs in a separate process, so that peak memory is its own. `state`
is the size of the memory of one sequence at its end, the paper's "memory size".
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys

from measuring import clock, print_rates, rates, seconds_of, without_scans

MODELS = {"mnm_p": "MNM-p", "mnm_g": "MNM-g", "lstm_salu": "LSTM+SALU", "lstm": "LSTM"}
PAPER_PRESETS = {
    "dictionary_inference": ("paper_4_1", "paper_8_4", "paper_12_8", "paper"),
    "double_copy": ("paper",),
    "priority_sort": ("paper",),
}


def state_size(cell):
    """Count the elements in the memory of one sequence, without the controller's state."""
    import tensorflow as tf

    state = cell.state_size
    memory = {"MetalearnedState": ("memory",), "LookupState": ("keys", "values")}.get(type(state).__name__, ())
    return sum(math.prod(shape) for name in memory for shape in tf.nest.flatten(getattr(state, name)))


def measure(name, preset, overrides, repeats, scan=True):
    """Measure the fastest update and forward pass, peak memory of updates, the memory's elements and the parameters.

    Without `scan` the MNM runs step by step, as `tfmem.unroll` runs a cell without one.
    """
    import resource

    import tensorflow as tf
    from tfmem_reproductions import load_experiment

    from tfmem.cores.config import LookupMemoryConfig, LSTMConfig
    from tfmem.training import compiled_updates

    if not scan:
        without_scans()
    module = load_experiment(f"metalearned/{name}")
    config = dataclasses.replace(module.PRESETS[preset], updates_per_call=1, eval_every=0)
    length, model = overrides.pop("length", None), overrides.pop("model")
    core = {
        "mnm_p": config.core,
        "mnm_g": dataclasses.replace(config.core, write="gradient"),
        "lstm_salu": LookupMemoryConfig(units=config.core.units, word_size=config.core.word_size),
        "lstm": LSTMConfig(units=config.core.units),
    }[model]
    task = config.task if length is None else dataclasses.replace(config.task, length=length)
    config = dataclasses.replace(config, core=core, task=task, **overrides)
    experiment = module.Experiment(config)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    update = compiled_updates(experiment, 1)
    times = []
    for number in range(repeats + 1):
        start = clock()
        _, metrics = update(tf.constant(number, tf.int64), {}, ())
        loss = float(metrics["loss"][0])
        times.append(clock() - start)
    gigabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1e6
    inputs = tf.random.stateless_normal(
        [config.task.num_steps, config.batch_size, *experiment.model.step_shape], [0, 1]
    )
    run = tf.function(lambda: tf.reduce_sum(experiment.model.run(inputs).logits), jit_compile=config.jit_compile)
    run().numpy()
    return {
        "steps": config.task.num_steps,
        "seconds": min(times[1:]),
        "forward": min(seconds_of(lambda: run().numpy(), repeats)),
        "first": times[0],
        "gigabytes": gigabytes,
        "state": state_size(experiment.model.cell),
        "parameters": sum(math.prod(v.shape) for v in experiment.model.trainable_variables),
        "loss": loss,
    }


def in_process(*arguments):
    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def growth(points, key):
    """Power of the length with which a cost grows, from the last two points."""
    before, last = points[-2:]
    return math.log(last[key] / before[key]) / math.log(last["steps"] / before["steps"])


def against_length(arguments):
    lengths = (21, 42, 85, 170) if arguments.quick else (21, 42, 85, 170, 341)  # T = 3 l + 1
    print(f"paper sizes, batch {arguments.batch_size}, {os.cpu_count()} cores, {'XLA' if arguments.xla else 'plain'}")
    print(f"{'model':10s} {'steps':>6s} {'s/update':>9s} {'ms/step':>8s} {'GB':>6s} {'state':>8s} {'first':>7s}")
    points = {}
    for model in ("mnm_p", "mnm_g", "lstm_salu"):
        points[model] = []
        for length in lengths:
            overrides = {
                "model": model,
                "length": length,
                "batch_size": arguments.batch_size,
                "jit_compile": arguments.xla,
            }
            r = in_process("double_copy", "paper", overrides, 1 if arguments.quick else 3)
            points[model].append(r)
            print(
                f"{MODELS[model]:10s} {r['steps']:6d} {r['seconds']:9.3f} {1e3 * r['seconds'] / r['steps']:8.2f} "
                f"{r['gigabytes']:6.2f} {r['state']:8d} {r['first']:6.1f}s",
                flush=True,
            )
        print(
            f"{'':10s} from {points[model][-2]['steps']} to {points[model][-1]['steps']} steps: time grows as "
            f"T^{growth(points[model], 'seconds'):.2f}, memory as T^{growth(points[model], 'gigabytes'):.2f}, "
            f"state as T^{growth(points[model], 'state'):.2f}",
            flush=True,
        )
    draw(points, arguments.out)
    print(f"written: {arguments.out}")


def draw(points, path):
    from tfmem import plotting

    costs = {"seconds per update": "seconds", "GB of an update": "gigabytes", "numbers in the memory": "state"}
    panels = {
        ("steps", label): {
            MODELS[model]: ([r["steps"] for r in rs], [r[key] for r in rs]) for model, rs in points.items()
        }
        for label, key in costs.items()
    }
    plotting.cost_figure(panels, "Cost of training against length").savefig(path, dpi=120)


def paper_presets(arguments):
    print(
        f"{'experiment':22s} {'preset':11s} {'model':10s} {'steps':>6s} {'parameters':>11s} {'s/update':>9s} {'GB':>6s}"
    )
    for name, presets in PAPER_PRESETS.items():
        for preset in presets:
            for model in MODELS:
                r = in_process(name, preset, {"model": model, "jit_compile": arguments.xla}, 2)
                print(
                    f"{name:22s} {preset:11s} {MODELS[model]:10s} {r['steps']:6d} {r['parameters']:11,d} "
                    f"{r['seconds']:9.2f} {r['gigabytes']:6.2f}",
                    flush=True,
                )


def against_steps(arguments):
    """Scan and single steps in turns, twice each, at the paper's batch of 32; MNM-p over MNM-g."""
    print_rates(__file__)
    print(f"batch 32, {'XLA' if arguments.xla else 'plain graph'}; the faster of two processes")
    print(f"{'preset':10s} {'model':6s} {'steps':>6s} {'loop':>6s} {'s/update':>9s} {'forward':>8s} {'GB':>6s}")
    for preset in ("paper_8_4", "paper"):
        costs = {}
        for model in ("mnm_p", "mnm_g"):
            for scan in (False, True) * 2:
                overrides = {"model": model, "jit_compile": arguments.xla}
                found = in_process("dictionary_inference", preset, overrides, 2 if arguments.quick else 4, scan)
                best = costs.setdefault((model, scan), found)
                best |= {key: min(best[key], found[key]) for key in ("seconds", "forward", "gigabytes")}
            for scan in (False, True):
                r = costs[model, scan]
                print(
                    f"{preset:10s} {MODELS[model]:6s} {r['steps']:6d} {'chunks' if scan else 'steps':>6s} "
                    f"{r['seconds']:9.3f} {r['forward']:8.3f} {r['gigabytes']:6.2f}",
                    flush=True,
                )
            old, new = costs[model, False], costs[model, True]
            time_ratio, memory_ratio = (old[k] / new[k] for k in ("seconds", "gigabytes"))
            print(f"{'':10s} chunks: {time_ratio:.2f} times as fast, 1/{memory_ratio:.1f} of the memory", flush=True)
        p, g = costs["mnm_p", True], costs["mnm_g", True]
        ratios = [p[key] / g[key] for key in ("seconds", "forward")]
        print(f"{'':10s} MNM-p over MNM-g: update {ratios[0]:.2f}, forward {ratios[1]:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer lengths, one measurement of each")
    parser.add_argument("--xla", action="store_true", help="compiled by XLA")
    parser.add_argument("--paper", action="store_true", help="three updates of every paper preset and model")
    parser.add_argument("--steps", action="store_true", help="against the loop of single steps")
    parser.add_argument("--batch-size", type=int, default=4, help="for the lengths; the paper's is 32 (default: 4)")
    parser.add_argument("--out", default="metalearned.png", help="picture to write (default: metalearned.png)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(rates() if what == ["rate"] else measure(*what)))
    elif arguments.steps:
        against_steps(arguments)
    elif arguments.paper:
        paper_presets(arguments)
    else:
        against_length(arguments)


if __name__ == "__main__":
    main()
