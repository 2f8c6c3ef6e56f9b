"""XLA against the plain graph: an update of each experiment, for what `jit_compile="auto"` should mean on this machine.

    python benchmarks/jit.py                                       every experiment's demo
    python benchmarks/jit.py multigrid metalearned --preset paper  those whose names have a word

"auto" is XLA on a GPU and a plain graph on a CPU. A preset whose core has no convolutions sets True where this table
says so. Every point runs in a separate process. A process that takes longer than --limit seconds, with its compilation,
is ended.
"""

import argparse
import dataclasses
import json

from measuring import in_process, peak_gigabytes, print_rates, rates, seconds_of


def measure(name, preset, xla, repeats):
    """Measure seconds of the first update and of the fastest of `repeats` more, and peak memory."""
    import tensorflow as tf
    from tfmem_reproductions import load_experiment

    from tfmem.training import compiled_updates, stacked_batches

    module = load_experiment(name)
    config = dataclasses.replace(module.PRESETS[preset], jit_compile=xla)
    experiment = module.Experiment(config)
    update = compiled_updates(experiment, 1)
    batch = tf.nest.map_structure(tf.constant, stacked_batches(experiment, 0, 1))
    arguments = (tf.constant(0, tf.int64), batch, experiment.initial_carry())
    first, *times = seconds_of(lambda: float(update(*arguments)[1]["loss"][0]), repeats + 1)
    return {"first": first, "seconds": min(times), "gigabytes": peak_gigabytes()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of experiments' names (default: all experiments)")
    parser.add_argument("--preset", default="demo", help="preset of each experiment (default: demo)")
    parser.add_argument("--repeats", type=int, default=3, help="updates after the first (default: 3)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of a process (default: 120)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(rates() if what == ["rate"] else measure(*what)))
        return
    from tfmem_reproductions import experiment_modules, load_experiment

    print_rates(__file__)
    titles = ["plain", "first", "GB", "XLA", "first", "GB", "XLA/plain"]
    widths = [8, 7, 5, 8, 7, 5, 10]
    print(
        f"{'experiment':36s} {'preset':8s}",
        *(f"{t:>{w}s}" for t, w in zip(titles, widths, strict=True)),
        " jit_compile",
    )
    for name in experiment_modules():
        if arguments.words and not any(word in name for word in arguments.words):
            continue
        given = load_experiment(name).PRESETS[arguments.preset].jit_compile
        costs = [
            in_process(__file__, name, arguments.preset, xla, arguments.repeats, limit=arguments.limit)
            for xla in (False, True)
        ]
        texts = [
            f"{c['seconds']:8.3f} {c['first']:6.1f}s {c['gigabytes']:5.2f}" if c else f"{'over the limit':>22s}"
            for c in costs
        ]
        ratio = f"{costs[1]['seconds'] / costs[0]['seconds']:10.2f}" if all(costs) else " " * 10
        print(f"{name:36s} {arguments.preset:8s} {texts[0]} {texts[1]} {ratio}  {given}", flush=True)


if __name__ == "__main__":
    main()
