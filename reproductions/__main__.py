"""Command line `reproduce`, or `python -m reproductions`; `reproduce --help` lists its commands."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import shlex
import sys
from pathlib import Path

from reproductions import SUPERVISED, close, did_you_mean, experiment_modules
from reproductions.catalog import list_experiments, number, table
from reproductions.runs import UsageError, load, open_run, reason, refusals
from tfmem.aot.bundle import LARGEST, BundleError, read_manifest, write_bundle
from tfmem.data.files import CorruptDataError
from tfmem.training.run_folder import RunFolder, RunFolderError, run_config

INTERRUPTED = 130  # the shells' status for Ctrl-C


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(argv=None, modules=None):
    """Run a command.

    Args:
      argv: arguments without the program's name; default: the process's.
      modules: experiments by name, as from `experiment_modules`; default: these and "supervised".

    Returns:
      The exit status: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal gets "?" for a character that it lacks
        sys.stdout.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else list(argv)
    modules = {**experiment_modules(), **SUPERVISED} if modules is None else modules
    parser = Parser(prog="reproduce", description="Reruns the experiments of the papers.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, help):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    preset_help = "paper (default), demo, smoke or another of `reproduce list EXPERIMENT`"
    shown = command("list", list_command, "show the experiments; of one, its presets and the paper's numbers")
    shown.add_argument(
        "filter", nargs="?", default="*", metavar="FILTER", help="part of a name, or a pattern: '*/babi'"
    )
    run = command("run", run_experiment, "train, evaluate and export; rerun the same command to resume")
    run.add_argument("experiment", metavar="EXPERIMENT", help="e.g. multigrid/mapping")
    run.add_argument("--preset", help=preset_help)
    run.add_argument("--folder", type=_path, help="default: runs/<paper>/<experiment>/<preset>/seed<seed>")
    run.add_argument("--continue", action="store_true", dest="extend", help="train a run to a higher --num-updates")
    run.usage = (
        "reproduce run EXPERIMENT [--preset PRESET] [--folder FOLDER] [--continue] [--<hyper-parameter> VALUE ...]"
    )
    run.epilog = (
        "`reproduce run EXPERIMENT --help` shows the experiment's hyper-parameters with their sources. "
        "`reproduce run supervised task:NAME core:NAME` trains any core on any task."
    )
    evaluate = command("evaluate", evaluate_run, "evaluate a run's newest checkpoint again")
    evaluate.add_argument("run", type=_path, metavar="RUN", help="run folder")
    into = command("import", import_checkpoint, "put a TF 1 checkpoint of the public code into a Keras model")
    into.add_argument("experiment", metavar="EXPERIMENT")
    into.add_argument("checkpoint", type=_expanded, metavar="CKPT", help="prefix of the checkpoint, without .index")
    into.add_argument("out", type=_path, metavar="OUT", help="file to write: *.keras or *.weights.h5")
    into.add_argument("--preset", help="preset that the model is built from (default: paper)")
    into.add_argument("--scope", default="", help="name scope of the model inside the checkpoint")
    export = command("export", export_run, "write a run's model as a SavedModel (`step` and its other signatures)")
    export.add_argument("run", type=_path, metavar="RUN", help="run folder")
    export.add_argument("out", type=_path, metavar="OUT", help="folder to write")
    report = command("report", report_runs, "one table per paper, and learning curves, from finished runs")
    report.add_argument("runs", nargs="*", type=_path, default=[Path("runs")], metavar="RUNS", help="default: runs")
    report.add_argument("--out", type=_path, default=Path("runs/report"), help="folder to write (default: runs/report)")
    beside = command("compare", compare_runs, "one table, and learning curves, of several finished runs side by side")
    beside.add_argument("runs", nargs="+", type=_path, metavar="RUN", help="run folder")
    beside.add_argument(
        "--out", type=_path, default=Path("runs/compare"), help="folder to write (default: runs/compare)"
    )
    compiled = command(
        "compile", compile_experiment, "write a bundle that `python -m tfmem.aot` trains without TensorFlow"
    )
    compiled.add_argument("experiment", metavar="EXPERIMENT")
    compiled.add_argument("out", type=_path, metavar="OUT", help="folder to write")
    compiled.add_argument("--preset", help=preset_help)
    compiled.add_argument("--max-mib", type=float, default=LARGEST / 2**20, help="most MiB of the bundle (default: 60)")
    compiled.usage = "reproduce compile EXPERIMENT OUT [--preset PRESET] [--max-mib N] [--<hyper-parameter> VALUE ...]"
    back = command("import-bundle", import_bundle_run, "make a run folder of what `python -m tfmem.aot` trained")
    back.add_argument("run", type=_path, metavar="BUNDLE_RUN", help="run folder of the bundle's runner")
    back.add_argument("out", type=_path, metavar="OUT_RUN", help="run folder to write")
    back.add_argument(
        "--finish",
        action="store_true",
        help="take the updates made as the whole run: evaluate, draw, export; `run --continue` trains it longer",
    )

    try:
        if argv[:1] in (["run"], ["compile"]) and len(argv) > 1 and not argv[1].startswith("-"):
            # All other options belong to the experiment's configuration, including --help.
            helps = [argument for argument in argv if argument in ("-h", "--help")]
            given = [a for a in argv if a not in helps] + ["OUT"] * (argv[0] == "compile" and bool(helps))
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
    except BrokenPipeError:  # the reader of the output has closed it, as in `reproduce list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return 1
    except (BundleError, RunFolderError, CorruptDataError, OSError) as error:
        return _fail(error, 1)


def _path(text):
    return Path(_expanded(text))


def _expanded(text):
    """Expand `~` in a path's text; the shell does not in `--folder=~/runs`."""
    try:
        text.encode()  # TensorFlow takes paths as UTF-8
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise argparse.ArgumentTypeError(
            f"{text!a} is no {encoding} text, must be; LC_ALL=C.UTF-8 allows all"
        ) from None
    return os.path.expanduser(text)


def _fail(error, status):
    print(f"reproduce: error: {error}", file=sys.stderr)
    return status


def _preset(module, name, preset):
    """Name and configuration of a preset; by default "paper", or else the first."""
    if preset is None:
        preset = "paper" if "paper" in module.PRESETS else next(iter(module.PRESETS))
    if preset not in module.PRESETS:
        near = did_you_mean(close(preset, module.PRESETS))
        raise UsageError(f"preset: {preset!r}, must be one of {', '.join(module.PRESETS)} ({name}){near}")
    return preset, module.PRESETS[preset]


def _experiment(module, config):
    with refusals():
        experiment = module.Experiment(config)
        experiment.batch(0)
        return experiment


def list_command(arguments, modules, argv):
    list_experiments(arguments.filter, modules)


def run_experiment(arguments, modules, argv):
    module = load(arguments.experiment, modules)
    import tensorflow as tf

    from tfmem.training import TrainingDivergedError, TrainingInterrupted, UpdateError, train

    preset, config = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, config, arguments.overrides, f"reproduce run {arguments.experiment}")
    if arguments.experiment == "supervised":  # one folder for each task and core
        preset_folder = "-".join(type(part).__name__.removesuffix("Config") for part in (config.task, config.core))
    else:
        preset_folder = preset
    folder = arguments.folder or Path("runs", arguments.experiment, preset_folder, f"seed{config.seed}")
    again = "reproduce " + shlex.join(argv)
    try:
        experiment = _experiment(module, config)
        print(f"{arguments.experiment}, preset {preset}, seed {config.seed}, in {folder}")
        result = train(experiment, folder, preset, module.PAPER, extend=arguments.extend)
    except TrainingInterrupted as error:
        print(f"{error}. To resume:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print(f"stopped at once. To resume from the last checkpoint:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except UpdateError as error:
        raise UsageError(f"the update cannot be built: {reason(error.__cause__)}") from error
    except TrainingDivergedError as error:
        return _fail(error, 1)
    except (MemoryError, tf.errors.OpError) as error:
        return _fail(reason(error), 1)
    _print_scores(result["ours"], module.PAPER)
    print(f"{result['updates']} updates in {result['wall_time_seconds']} s; all of it is in {folder}")


def parse_config(module, preset, overrides, prog):
    """Override a preset by the command line.

    Raises:
      UsageError: in one line: an unknown option, or a value out of range.
      SystemExit: after `--help`.
    """
    import tyro

    said = io.StringIO()
    description = (
        f"{module.__doc__.strip()}\n\nThe values below are those of the preset; --preset takes "
        f"{', '.join(module.PRESETS)}. --folder says where the run is kept."
    )
    try:
        with contextlib.redirect_stderr(said), refusals():
            return tyro.cli(module.Config, default=preset, args=overrides, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code == 0:
            raise
    # tyro draws a box: a title, a rule where the terminal is not UTF-8, the message, a rule, advice.
    lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
    lines = itertools.dropwhile(lambda line: not line.strip("-"), lines)
    message = " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
    names = ["--" + name.replace("_", "-") for name in _options(preset)]
    # The options of a chosen core or task are not the preset's.
    chosen = {f"--{o.partition(':')[0]}." for o in overrides if ":" in o and not o.startswith("-")}
    for given in (override.split("=")[0] for override in overrides):
        option = given.replace("_", "-")
        if given not in message or any(option.startswith(prefix) for prefix in chosen):
            continue
        if option.startswith("--") and option not in names:
            near = close(option, names) or names
            message = f"{option}: no such hyper-parameter, must be one of {', '.join(near)}"
            break
    raise UsageError(f"{message.removeprefix('Error parsing Config: ')}; see `{prog} --help`")


def _options(config, prefix=""):
    """Names of a configuration's options; those of a nested one begin with its field's name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def evaluate_run(arguments, modules, argv):
    module, experiment, _ = open_run(arguments.run, modules)
    _print_scores(experiment.result(experiment.evaluate()), module.PAPER)


def _print_scores(ours, paper):
    rows = [(name, number(ours.get(name)), number(value), source) for name, (value, source) in paper.items()]
    rows += [(name, number(value), "-", "") for name, value in ours.items() if name not in paper]
    print(table(("metric", "ours", "paper", "source"), rows))


def import_checkpoint(arguments, modules, argv):
    if not arguments.out.name.endswith((".keras", ".weights.h5")):
        raise UsageError(f"OUT: {str(arguments.out)!r}, must end in .keras or .weights.h5")
    module = load(arguments.experiment, modules)
    from tfmem.checkpoints import load_tf1

    _, config = _preset(module, arguments.experiment, arguments.preset)
    with refusals():
        experiment = module.Experiment(config)
    try:
        print(load_tf1(experiment.model, arguments.checkpoint, arguments.scope))
    except ValueError as error:  # CheckpointMismatchError is one
        return _fail(error, 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    experiment.save_model(arguments.out)
    print(f"written: {arguments.out}")


def export_run(arguments, modules, argv):
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out}, must not exist")
    _, experiment, _ = open_run(arguments.run, modules)
    experiment.export(arguments.out)
    print(f"written: {arguments.out}")


def compile_experiment(arguments, modules, argv):
    module = load(arguments.experiment, modules)
    from tfmem.aot.lowering import make_bundle

    preset, config = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, config, arguments.overrides, f"reproduce compile {arguments.experiment}")
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out}, must not exist")
    experiment = _experiment(module, config)
    with refusals():
        bundle = make_bundle(experiment, preset)
    write_bundle(bundle, arguments.out, arguments.max_mib * 2**20)
    size = sum(about["bytes"] for about in read_manifest(arguments.out)["files"].values())
    print(f"written: {arguments.out}, {size / 2**20:.2f} MiB of at most {arguments.max_mib:g}. To train what is in it:")
    print(f"  python -m tfmem.aot run {shlex.quote(str(arguments.out))}")


def import_bundle_run(arguments, modules, argv):
    source, out = RunFolder(arguments.run), RunFolder(arguments.out)
    about = run_config(source)
    if "bundle" not in about:
        raise RunFolderError(f"{arguments.run} is not a run of `python -m tfmem.aot`; it can be used as it is")
    if arguments.out.exists():
        raise UsageError(f"OUT_RUN: {arguments.out}, must not exist")
    module, experiment, checkpoint = open_run(arguments.run, modules)
    from tfmem.training import run_description, train

    if arguments.finish:
        experiment = module.Experiment(dataclasses.replace(experiment.config, num_updates=checkpoint.update))
    out.claim(run_description(experiment, about["preset"]))
    try:
        for row in source.metrics():
            if row["update"] <= checkpoint.update:
                out.append_metrics(row.pop("update"), row)
        out.save(checkpoint)
    finally:
        out.release()
    if arguments.finish:
        result = train(experiment, arguments.out, about["preset"], module.PAPER)
        _print_scores(result["ours"], module.PAPER)
        print(f"written: {arguments.out}, {result['updates']} updates")
        return
    print(f"written: {arguments.out}. `reproduce evaluate` and `export` take it; to resume, or to finish it:")
    seed = experiment.config.seed
    print(f"  reproduce run {about['experiment']} --preset {about['preset']} --seed {seed} --folder {arguments.out}")


def compare_runs(arguments, modules, argv):
    from reproductions.compare import compare

    compare(arguments.runs, arguments.out, modules)


def report_runs(arguments, modules, argv):
    from reproductions.report import write_report

    write_report(arguments.runs, arguments.out, modules)


if __name__ == "__main__":
    sys.exit(main())
