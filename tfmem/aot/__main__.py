"""Command `python -m tfmem.aot run | show`: train a bundle with numpy and jax alone."""

import argparse
import sys
from pathlib import Path

from tfmem.aot.bundle import BundleError, read_bundle, read_manifest
from tfmem.training.loop import TrainingDivergedError, TrainingInterrupted
from tfmem.training.run_folder import RunFolderError

INTERRUPTED = 130
MIB = 2**20


class UsageError(Exception):
    """Error of a wrong command line."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(argv=None):
    """Run a command; returns the exit status: 0, 1 for an error, 2 for a wrong command line, 130 after Ctrl-C."""
    parser = Parser(prog="python -m tfmem.aot", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train; rerun the same command to resume", allow_abbrev=False)
    run.set_defaults(function=_run)
    show = commands.add_parser("show", help="what a bundle is, what it costs", allow_abbrev=False)
    show.set_defaults(function=_show)
    for sub in (run, show):
        sub.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that `reproduce compile` wrote")
        sub.add_argument(
            "--precision",
            default="float32",
            choices=("float32", "tf32", "bfloat16"),
            help="of matrix products and convolutions (default: float32)",
        )
    run.add_argument("--steps", type=int, help="updates in all (default: those of the configuration)")
    run.add_argument("--folder", type=Path, help="default: runs/<experiment>/<preset>/seed<seed>-bundle")
    try:
        arguments = parser.parse_args(argv)
        arguments.function(arguments)
    except UsageError as error:
        return _fail(error, 2)
    except TrainingInterrupted as error:
        print(f"{error}; rerun the same command to resume", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("stopped at once; rerun the same command to resume after the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except (BundleError, RunFolderError, TrainingDivergedError, OSError) as error:
        return _fail(error, 1)
    return 0


def _fail(error, status):
    print(f"tfmem.aot: error: {error}", file=sys.stderr)
    return status


def _jax():
    """Import the modules that need jax."""
    try:
        from tfmem.aot import runner, stablehlo
    except ImportError as error:
        raise BundleError(f"jax is missing or too old ({error}). Install it with `pip install 'jax>=0.10'`") from error
    return runner, stablehlo


def _run(arguments):
    read_manifest(arguments.bundle)
    runner, _ = _jax()
    result = runner.run_bundle(arguments.bundle, arguments.folder, arguments.steps, arguments.precision)
    for name, value in result["ours"].items():
        print(f"{name}: {value:.4g}")
    print(
        f"{result['updates']} updates in {result['wall_time_seconds']} s, compiled in {result['seconds_to_compile']} s"
    )
    if result["seconds_per_update"] is not None:
        rate = result["flops_per_update"] / result["seconds_per_update"] / 1e9
        print(f"an update took {result['seconds_per_update'] * 1e3:.3g} ms (median, without the first call)", end=", ")
        print(f"{rate:.3g} GFLOP/s in products and convolutions")
    print(f"memory: {result['bytes_of_a_call'] / MIB:.1f} MiB by XLA, {result['bytes_at_peak'] / MIB:.1f} MiB at peak")


def _show(arguments):
    bundle, manifest = read_bundle(arguments.bundle), read_manifest(arguments.bundle)
    size = sum(about["bytes"] for about in manifest["files"].values())
    trained = [array for name, array in bundle.initial.items() if name.startswith("variables/")]
    print(f"{bundle.experiment}, preset {bundle.preset}, {size / MIB:.2f} MiB")
    print(f"{bundle.updates_per_call} updates a call, {bundle.config['num_updates']} in all")
    print(f"{len(trained)} variables of {sum(array.size for array in trained):,} numbers")
    print(f"made with {', '.join(f'{name} {version}' for name, version in bundle.versions.items())}")
    runner, stablehlo = _jax()
    for name, program in bundle.programs.items():
        executable = runner.Executable(program, arguments.precision)
        calls = bundle.updates_per_call if name == "update" else 1
        cost = executable.cost
        print(f"{name}: compiled for {executable.device.device_kind} in {executable.seconds:.1f} s")
        print(f"    {stablehlo.arithmetic(program.text) / calls / 1e9:.4g} GFLOP in products and convolutions")
        print(
            f"    XLA's analysis, the body of a loop counted once: {cost.get('flops', 0) / 1e9:.4g} GFLOP, "
            f"{cost.get('bytes accessed', 0) / MIB:.4g} MiB read and written"
        )
        print(f"    memory of a call: {executable.memory / MIB:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
