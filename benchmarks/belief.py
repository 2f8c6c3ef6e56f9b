"""Time and memory of Random City's training updates at the paper's size against L_u and N_t N_g, and with XLA.

    python benchmarks/belief.py               the three cores, growth, XLA
    python benchmarks/belief.py --quick       only LSTM, fewer points, no XLA

It measures the experiment's whole updates on 64 episodes, which are rendered first. GFLOP count products and
convolutions in the update's StableHLO. Every point runs in a separate process, so that peak memory is its own. The rate
of a 4096 x 4096 product gives a limit in the same run.
"""

import argparse
import dataclasses
import json

from measuring import growth, in_process, print_rates, rates, update_cost


def measure(preset, changes, xla, repeats):
    from tfmem_reproductions.belief_states import random_city

    few = {"num_episodes": 64, "eval_episodes": 64, "updates_per_call": 1, "jit_compile": xla}
    config = dataclasses.replace(random_city.PRESETS[preset], **few, **changes)
    return {**changes, **update_cost(random_city.Experiment(config), repeats)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="LSTM alone, fewer points, no XLA")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(rates() if what == ["rate"] else measure(*what)))
        return
    rate = print_rates(__file__)
    repeats = 2 if arguments.quick else 3
    print(
        f"{'setting':28s} {'parameters':>11s} {'GFLOP':>8s} {'s/update':>9s} {'of rate':>8s} {'GB':>6s} {'first':>7s}"
    )

    def row(title, preset="paper", xla=False, **changes):
        r = in_process(__file__, preset, changes, xla, repeats)
        print(
            f"{title:28s} {r['parameters']:11,d} {r['gflop']:8.0f} {r['seconds']:8.2f}s "
            f"{r['gflop'] / r['seconds'] / rate:8.1%} {r['gigabytes']:6.2f} {r['first']:6.1f}s",
            flush=True,
        )
        return r

    paper = row("paper: LSTM, batch 16")
    if not arguments.quick:
        compiled = row("paper, XLA", xla=True)
        print(f"  XLA takes {compiled['seconds'] / paper['seconds']:.2f} of the plain graph's time")
    for axis, title, values in (("unroll_length", "L_u", (25, 50)), ("num_start_points", "N_t", (1, 3))):
        own = {"unroll_length": 100, "num_start_points": 6}[axis]
        points = [row(f"{title} {value}", **{axis: value}) for value in values] + [{**paper, axis: own}]
        time, memory = (growth(points, axis, y) for y in ("seconds", "gigabytes"))
        before = points[-2]
        print(
            f"  from {title} {before[axis]} to {own}: {before['seconds']:.2f} to {paper['seconds']:.2f} s, "
            f"{title}^{time:.2f}; memory {title}^{memory:.2f}"
        )
    if not arguments.quick:
        row("paper_rma", "paper_rma")
        row("paper_kanerva", "paper_kanerva")


if __name__ == "__main__":
    main()
