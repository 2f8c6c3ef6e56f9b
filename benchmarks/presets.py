"""Size and cost of presets: weights, seconds and CPU seconds of an update, peak memory.

    python benchmarks/presets.py multigrid/exploration paper paper_lstm
    python benchmarks/presets.py belief_states/terrain_agent paper --updates 3
    python benchmarks/presets.py belief_states/building paper --set num_episodes=64 eval_episodes=64

Updates are those of training; an agent also acts in them. CPU seconds are those of all threads, and change less
than seconds with what else runs. Every preset runs in a separate process. `--set` changes numbers of the configuration
that are no part of an update, such as how many episodes are rendered before it.
"""

import argparse
import dataclasses
import json
import time

from measuring import in_process, peak_gigabytes


def measure(name, preset, changes, updates):
    """Measure the first update and the mean of `updates` more, and count weights: the model's, and all."""
    import tensorflow as tf
    from tfmem_reproductions import load_experiment

    from tfmem.training import compiled_updates, stacked_batches

    module = load_experiment(name)
    experiment = module.Experiment(dataclasses.replace(module.PRESETS[preset], updates_per_call=1, **changes))
    update, carry, marks = compiled_updates(experiment, 1), experiment.initial_carry(), []
    for number in range(updates + 1):
        batch = tf.nest.map_structure(tf.constant, stacked_batches(experiment, number, 1))
        marks.append((time.perf_counter(), time.process_time()))
        carry, metrics = update(tf.constant(number, tf.int64), batch, carry)
        float(metrics["loss"][0])
    marks.append((time.perf_counter(), time.process_time()))
    (start, _), (second, used), (end, used_at_end) = marks[0], marks[1], marks[-1]
    weights = {name: v for name, v in experiment.variables().items() if "optimizer" not in name}
    return {
        "model": sum(v.numpy().size for v in experiment.model.trainable_variables),
        "all": sum(v.numpy().size for v in weights.values()),
        "seconds": (end - second) / updates,
        "cpu": (used_at_end - used) / updates,
        "first": second - start,
        "gigabytes": peak_gigabytes(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?")
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    if not options.presets:
        parser.error("experiment and presets are required")
    changes = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    print(f"{'preset':24}{'model':>12}{'all':>12}{'s/update':>10}{'CPU s':>8}{'first':>8}{'GB':>7}")
    for preset in options.presets:
        r = in_process(__file__, options.experiment, preset, changes, options.updates)
        print(
            f"{preset:24}{r['model']:12,}{r['all']:12,}{r['seconds']:10.2f}{r['cpu']:8.2f}{r['first']:8.1f}"
            f"{r['gigabytes']:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
