"""The command line `reproduce`, or `python -m reproductions`; `reproduce --help` names its commands."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import shlex
import sys
from pathlib import Path

from reproductions import experiment_modules, load_experiment
from tfmem.aot.bundle import LARGEST, BundleError, read_manifest, write_bundle
from tfmem.runfolder import RunFolder, RunFolderError
from tfmem.tasks.datasets import CorruptDataError

INTERRUPTED = 130  # what shells report for Ctrl-C


class UsageError(Exception):
    """The command line is wrong; nothing was written."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(argv=None, modules=None):
    """Runs a command.

    Args:
      argv: arguments without the program's name; default: the process's.
      modules: experiments by name, as from `reproductions.experiment_modules` (the default).

    Returns:
      The exit status: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    modules = experiment_modules() if modules is None else modules
    parser = Parser(prog="reproduce", description="Reruns the experiments of the papers.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, help):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    command("list", list_experiments, "show experiments, presets, data sets and the papers' numbers")
    run = command("run", run_experiment, "train, evaluate and export; the same command goes on after an interruption")
    run.add_argument("experiment", metavar="EXPERIMENT", help="e.g. multigrid/mapping")
    run.add_argument("--preset", default="paper", help="paper (default), demo, smoke or another that `list` shows")
    run.add_argument("--folder", type=Path, help="default: runs/<paper>/<experiment>/<preset>/seed<seed>")
    run.usage = "reproduce run EXPERIMENT [--preset PRESET] [--folder FOLDER] [--<hyper-parameter> VALUE ...]"
    run.epilog = "`reproduce run EXPERIMENT --help` shows the experiment's hyper-parameters with their sources."
    evaluate = command("evaluate", evaluate_run, "evaluate a run's newest checkpoint again")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="run folder")
    load = command("import", import_checkpoint, "put a TF 1 checkpoint of the public code into a Keras model")
    load.add_argument("experiment", metavar="EXPERIMENT")
    load.add_argument("checkpoint", metavar="CKPT", help="prefix of the checkpoint, without .index")
    load.add_argument("out", metavar="OUT", help="file to write: *.keras or *.weights.h5")
    load.add_argument("--preset", default="paper", help="preset that the model is built from (default: paper)")
    load.add_argument("--scope", default="", help="name scope of the model inside the checkpoint")
    export = command("export", export_run, "write a run's model as a SavedModel (`step` and its other signatures)")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder")
    export.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    report = command("report", report_runs, "one table per paper, and learning curves, from finished runs")
    report.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUNS", help="default: runs")
    report.add_argument("--out", type=Path, default=Path("runs/report"), help="folder to write (default: runs/report)")
    compiled = command(
        "compile", compile_experiment, "write a bundle that `python -m tfmem.aot` trains without TensorFlow"
    )
    compiled.add_argument("experiment", metavar="EXPERIMENT")
    compiled.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    compiled.add_argument("--preset", default="paper", help="paper (default), demo, smoke or another that `list` shows")
    compiled.usage = "reproduce compile EXPERIMENT [--preset PRESET] [--<hyper-parameter> VALUE ...] OUT"
    back = command("import-bundle", import_bundle_run, "make a run folder of what `python -m tfmem.aot` trained")
    back.add_argument("run", type=Path, metavar="BUNDLE_RUN", help="run folder of the bundle's runner")
    back.add_argument("out", type=Path, metavar="OUT_RUN", help="run folder to write")

    try:
        if argv[:1] in (["run"], ["compile"]) and len(argv) > 1 and not argv[1].startswith("-"):
            # Everything that is not the command's own belongs to the experiment's configuration.
            helps = [argument for argument in argv if argument in ("-h", "--help")]
            given = [a for a in argv if a not in helps]
            if argv[0] == "compile" and not helps:  # OUT comes last; argparse would take an option's value for it
                given = [*given[:2], given[-1], *given[2:-1]] if len(given) > 2 else given
            elif argv[0] == "compile":
                given.insert(2, "OUT")
            arguments, overrides = parser.parse_known_args(given)
            arguments.overrides = overrides + helps
        elif argv[:1] in (["run"], ["compile"]) and argv[1:] and argv[1] not in ("-h", "--help"):
            raise UsageError(
                f"{argv[0]}: the experiment comes first, before {argv[1]}; see `reproduce {argv[0]} --help`"
            )
        else:
            arguments = parser.parse_args(argv)
            arguments.overrides = []
        status = arguments.function(arguments, modules, argv) or 0
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(error, 2)
    except BrokenPipeError:  # the reader of our output has gone, as in `reproduce list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at its exit
        return 1
    except (BundleError, RunFolderError, CorruptDataError, OSError) as error:
        return _fail(error, 1)


def _fail(error, status):
    print(f"reproduce: error: {error}", file=sys.stderr)
    return status


def _load(name, modules):
    try:
        return load_experiment(name, modules)
    except ValueError as error:
        raise UsageError(error) from None


def _preset(module, name, preset):
    if preset not in module.PRESETS:
        raise UsageError(f"preset: {preset!r}, must be one of {', '.join(module.PRESETS)} ({name})")
    return module.PRESETS[preset]


def _experiment(module, config):
    try:
        experiment = module.Experiment(config)
        experiment.batch(0)
        return experiment
    except CorruptDataError:
        raise
    except ValueError as error:
        # What a configuration cannot tell of itself: devices, data, sizes that do not fit each other.
        raise UsageError(error) from error


def list_experiments(arguments, modules, argv):
    for name in modules:
        module = _load(name, modules)
        print(f"{name}: {_title(module)}")
        print(f"    presets: {', '.join(module.PRESETS)}")
        print(f"    needs: {', '.join(module.DATASETS) or 'no data set'}")
        for metric, (value, source) in module.PAPER.items():
            print(f"    paper's {metric}: {_number(value)} ({source})")


def _title(module):
    return module.__doc__.strip().splitlines()[0].rstrip(".")


def run_experiment(arguments, modules, argv):
    from tfmem.training import TrainingDivergedError, TrainingInterrupted, train

    module = _load(arguments.experiment, modules)
    preset = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, preset, arguments.overrides, f"reproduce run {arguments.experiment}")
    folder = arguments.folder or Path("runs", arguments.experiment, arguments.preset, f"seed{config.seed}")
    again = "reproduce " + shlex.join(argv)
    try:
        experiment = _experiment(module, config)
        print(f"{arguments.experiment}, preset {arguments.preset}, seed {config.seed}, in {folder}")
        result = train(experiment, folder, arguments.preset, module.PAPER)
    except TrainingInterrupted as error:
        print(f"{error}. To go on:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print(f"stopped at once. To go on after the last checkpoint:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except TrainingDivergedError as error:
        return _fail(error, 1)
    _print_scores(result["ours"], module.PAPER)
    print(f"{result['updates']} updates in {result['wall_time_seconds']} s; all of it is in {folder}")


def parse_config(module, preset, overrides, prog):
    """The preset with what the command line overrides.

    Raises:
      UsageError: one line: an option that does not exist, or a value that is out of range.
      SystemExit: help was asked for and printed.
    """
    import tyro

    said = io.StringIO()
    description = (
        f"{module.__doc__.strip()}\n\nThe values below are those of the preset; --preset takes "
        f"{', '.join(module.PRESETS)}. --folder says where the run is kept."
    )
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(module.Config, default=preset, args=overrides, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code == 0:
            raise
    # tyro draws a box: a title, a rule where the terminal is not UTF-8, the message, a rule, advice.
    lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
    lines = itertools.dropwhile(lambda line: not line.strip("-"), lines)
    message = " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
    names = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(module.Config)]
    for option in (override.split("=")[0].replace("_", "-") for override in overrides):
        if option.startswith("--") and option not in names:
            near = difflib.get_close_matches(option, names, n=3) or names
            message = f"{option}: no such hyper-parameter, must be one of {', '.join(near)}"
            break
    raise UsageError(f"{message.removeprefix('Error parsing Config: ')}; see `{prog} --help`")


def _open_run(path, modules):
    """A run's module, and its experiment with the variables of its newest readable checkpoint, which comes third."""
    from tfmem.training import load_checkpoint

    folder = RunFolder(path)
    about = folder.config()
    module = _load(about["experiment"], modules)
    fields = {name: _as_tuples(value) for name, value in about["config"].items()}
    try:
        config = module.Config(**fields)
    except (TypeError, ValueError) as error:
        raise RunFolderError(f"{folder.config_path} is not of this version of {about['experiment']}: {error}") from None
    experiment = module.Experiment(config)
    checkpoint, damaged = folder.restore()
    for file, reason in damaged:
        print(f"{file.name} is damaged ({reason}); an older one is used", file=sys.stderr)
    if checkpoint is None:
        raise RunFolderError(f"{path} has no checkpoint yet")
    load_checkpoint(experiment, checkpoint)
    print(f"{about['experiment']} after update {checkpoint.update} of {experiment.config.num_updates}")
    return module, experiment, checkpoint


def _as_tuples(value):
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list) else value


def evaluate_run(arguments, modules, argv):
    module, experiment, _ = _open_run(arguments.run, modules)
    _print_scores(experiment.result(experiment.evaluate()), module.PAPER)


def _print_scores(ours, paper):
    rows = [(name, _number(ours.get(name)), _number(value), source) for name, (value, source) in paper.items()]
    rows += [(name, _number(value), "-", "") for name, value in ours.items() if name not in paper]
    print(_table(("metric", "ours", "paper", "source"), rows))


def _number(value):
    return "-" if value is None else f"{value:.4g}"


def _table(head, rows):
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (head, *rows))


def import_checkpoint(arguments, modules, argv):
    from tfmem.checkpoints import load_tf1

    if not arguments.out.endswith((".keras", ".weights.h5")):
        raise UsageError(f"OUT: {arguments.out!r}, must end in .keras or .weights.h5")
    module = _load(arguments.experiment, modules)
    experiment = module.Experiment(_preset(module, arguments.experiment, arguments.preset))
    try:
        print(load_tf1(experiment.model, arguments.checkpoint, arguments.scope))
    except ValueError as error:  # CheckpointMismatchError is one
        return _fail(error, 1)
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    experiment.save_model(arguments.out)
    print(f"written: {arguments.out}")


def export_run(arguments, modules, argv):
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out} exists already")
    _, experiment, _ = _open_run(arguments.run, modules)
    experiment.export(arguments.out)
    print(f"written: {arguments.out}")


def compile_experiment(arguments, modules, argv):
    from tfmem.aot.lowering import make_bundle

    module = _load(arguments.experiment, modules)
    preset = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, preset, arguments.overrides, f"reproduce compile {arguments.experiment}")
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out} exists already")
    write_bundle(make_bundle(_experiment(module, config), arguments.preset), arguments.out)
    size = sum(about["bytes"] for about in read_manifest(arguments.out)["files"].values())
    print(f"written: {arguments.out}, {size / 2**20:.2f} MiB of at most {LARGEST // 2**20}. To train what is in it:")
    print(f"  python -m tfmem.aot run {shlex.quote(str(arguments.out))}")


def import_bundle_run(arguments, modules, argv):
    from tfmem.training import run_description

    source, out = RunFolder(arguments.run), RunFolder(arguments.out)
    about = source.config()
    if "bundle" not in about:
        raise RunFolderError(f"{arguments.run} is not a run of `python -m tfmem.aot`; it can be used as it is")
    if arguments.out.exists():
        raise UsageError(f"OUT_RUN: {arguments.out} exists already")
    _, experiment, checkpoint = _open_run(arguments.run, modules)
    out.claim(run_description(experiment, about["preset"]))
    try:
        for row in source.metrics():
            if row["update"] <= checkpoint.update:
                out.append_metrics(row.pop("update"), row)
        out.save(checkpoint)
    finally:
        out.release()
    print(f"written: {arguments.out}. `reproduce evaluate` and `export` take it; to go on, or to finish it:")
    print(f"  reproduce run {about['experiment']} --preset {about['preset']} --folder {arguments.out}")


def report_runs(arguments, modules, argv):
    from reproductions.report import write_report

    write_report(arguments.runs, arguments.out, modules)


if __name__ == "__main__":
    sys.exit(main())
