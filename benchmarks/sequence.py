"""Training updates of the sequence experiments at paper sizes: fraction of the matrix rate, XLA and plain graph.

    python benchmarks/sequence.py                      all; the language model needs WikiText-2 (TFMEM_DATA_DIR)
    python benchmarks/sequence.py nth_farthest mnm_p   some

It measures whole updates: data, forward, backward, optimizer. GFLOP count products and convolutions in the update's
StableHLO, as `python -m tfmem.aot show` does. Every point runs in a separate process, so that peak memory is its own.
The rate of a 4096 x 4096 product gives a limit in the same run.
"""

import argparse
import dataclasses
import json
import os

from measuring import in_process, matmul_rate, update_cost

# Experiment, preset and changes to it, with the reason.
SETTINGS = {
    "nth_farthest": ("relational/nth_farthest", "paper", {}),
    "program_evaluation": ("relational/program_evaluation", "paper", {}),
    # WikiText-2 for WikiText-103, and a quarter of the batch of 384, to save time.
    "language_modeling": ("relational/language_modeling", "paper", {"corpus": "wikitext-2", "batch_size": 96}),
    "mnm_p": ("metalearned/dictionary_inference", "paper_8_4", {}),
    "mnm_g": ("metalearned/dictionary_inference", "paper_8_4", {"core": {"write": "gradient"}}),
}


def measure(name, xla, repeats):
    from reproductions import load_experiment

    experiment, preset, changes = SETTINGS[name]
    module = load_experiment(experiment)
    config = dataclasses.replace(module.PRESETS[preset], updates_per_call=1, jit_compile=xla)
    if "core" in changes:
        changes = {"core": dataclasses.replace(config.core, **changes["core"])}
    config = dataclasses.replace(config, **changes)
    return update_cost(module.Experiment(config), repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"some of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="updates after the first (default: 3)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(matmul_rate() if what == ["rate"] else measure(*what)))
        return
    for name in arguments.settings:
        if name not in SETTINGS:
            parser.error(f"SETTING: {name}, must be one of {', '.join(SETTINGS)}")
    rate = in_process(__file__, "rate")
    print(f"matrix products: {rate:.0f} GFLOP/s on {os.cpu_count()} cores")
    print(f"{'setting':20s} {'parameters':>11s} {'GFLOP':>8s} {'s/update':>9s} {'of rate':>8s} {'GB':>6s} "
          f"{'XLA':>8s} {'compiled':>9s} {'GB':>6s} {'XLA/plain':>10s}")  # fmt: skip
    for name in arguments.settings or SETTINGS:
        plain, xla = (in_process(__file__, name, compiled, arguments.repeats) for compiled in (False, True))
        print(
            f"{name:20s} {plain['parameters']:11,d} {plain['gflop']:8.1f} {plain['seconds']:8.3f}s "
            f"{plain['gflop'] / plain['seconds'] / rate:8.1%} {plain['gigabytes']:6.2f} {xla['seconds']:7.3f}s "
            f"{xla['first']:8.1f}s {xla['gigabytes']:6.2f} {xla['seconds'] / plain['seconds']:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
