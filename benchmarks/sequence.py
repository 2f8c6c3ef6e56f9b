"""Training updates of the sequence experiments at paper sizes: plain graph, XLA, bundle, single steps.

    python benchmarks/sequence.py                      all; the language model needs WikiText-2 (TFMEM_DATA_DIR)
    python benchmarks/sequence.py nth_farthest mnm_p   some
    python benchmarks/sequence.py --forms plain steps  in some forms

It measures whole updates: data, forward, backward, optimizer. The forms are a `plain` graph, XLA (`xla`), the same two
with cores in single steps, without their own loops (`steps`, `xla_steps`), and the `bundle` that jax runs, with its
memory by XLA's account. GFLOP count products and convolutions in the update's StableHLO, as `python -m tfmem.aot show`
does. Every point runs in a separate process, so that peak memory is its own. The rates of a 4096 x 4096 product and of
a sum of long arrays give limits in the same run.
"""

import argparse
import dataclasses
import json

from measuring import bundle_cost, in_process, print_rates, rates, update_cost, without_scans

# Experiment, preset and changes to it, with the reason.
SETTINGS = {
    "nth_farthest": ("relational/nth_farthest", "paper", {}),
    "program_evaluation": ("relational/program_evaluation", "paper", {}),
    # WikiText-2 for WikiText-103, and a quarter of the batch of 384, to save time.
    "language_modeling": ("relational/language_modeling", "paper", {"corpus": "wikitext-2", "batch_size": 96}),
    "mnm_p": ("metalearned/dictionary_inference", "paper_8_4", {}),
    "mnm_g": ("metalearned/dictionary_inference", "paper_8_4", {"core": {"write": "gradient"}}),
    "mnm_p_441": ("metalearned/dictionary_inference", "paper", {}),
    "mnm_g_441": ("metalearned/dictionary_inference", "paper", {"core": {"write": "gradient"}}),
    "maze": ("metalearned/maze", "demo", {}),
    # Few episodes to save time, half of the sequence to save memory.
    **{
        f"random_city_{core}": (
            "belief_states/random_city",
            f"paper_{core}".removesuffix("_lstm"),
            {"num_episodes": 64, "eval_episodes": 64, "unroll_length": 50},
        )
        for core in ("lstm", "rma", "kanerva")
    },
}
FORMS = ("plain", "xla", "bundle", "steps", "xla_steps")


def measure(name, form, repeats):
    from tfmem_reproductions import load_experiment

    if form.endswith("steps"):
        without_scans()
    experiment, preset, changes = SETTINGS[name]
    module = load_experiment(experiment)
    config = dataclasses.replace(module.PRESETS[preset], updates_per_call=1, jit_compile=form.startswith("xla"))
    if "core" in changes:
        changes = {"core": dataclasses.replace(config.core, **changes["core"])}
    experiment = module.Experiment(dataclasses.replace(config, **changes))
    if form == "bundle":
        return bundle_cost(experiment, preset, repeats)
    return update_cost(experiment, repeats, counted=form == "plain")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"some of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS[:3], help="default: plain xla bundle")
    parser.add_argument("--repeats", type=int, default=3, help="updates after the first (default: 3)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(rates() if what == ["rate"] else measure(*what)))
        return
    for name in arguments.settings:
        if name not in SETTINGS:
            parser.error(f"SETTING: {name}, must be one of {', '.join(SETTINGS)}")
    rate = print_rates(__file__)
    print(f"{'setting':20s} {'form':10s} {'s/update':>9s} {'first':>8s} {'GB':>6s} {'of the first':>12s} "
          f"{'GFLOP':>8s} {'of rate':>8s} {'parameters':>11s}")  # fmt: skip
    for name in arguments.settings or SETTINGS:
        costs = {}
        for form in arguments.forms:
            costs[form] = cost = in_process(__file__, name, form, arguments.repeats)
            ratio = cost["seconds"] / costs[arguments.forms[0]]["seconds"]
            line = f"{name:20s} {form:10s} {cost['seconds']:9.3f} {cost['first']:7.1f}s {cost['gigabytes']:6.2f}"
            line += f" {ratio:12.2f}"
            if "gflop" in cost:
                share = cost["gflop"] / cost["seconds"] / rate
                line += f" {cost['gflop']:8.1f} {share:8.1%} {cost['parameters']:11,d}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
