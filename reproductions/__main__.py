"""The command line `reproduce`, or `python -m reproductions`; `reproduce --help` names its commands."""

import argparse
import contextlib
import dataclasses
import fnmatch
import io
import itertools
import os
import shlex
import sys
from pathlib import Path

from reproductions import close, did_you_mean, experiment_modules, load_experiment
from tfmem.aot.bundle import LARGEST, BundleError, read_manifest, write_bundle
from tfmem.data.files import CorruptDataError
from tfmem.training.run_folder import RunFolder, RunFolderError, run_config

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
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal gets a "?" where it lacks a character
        sys.stdout.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else list(argv)
    modules = experiment_modules() if modules is None else modules
    parser = Parser(prog="reproduce", description="Reruns the experiments of the papers.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, help):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    shown = command("list", list_experiments, "show experiments, presets, data sets and the papers' numbers")
    shown.add_argument(
        "filter", nargs="?", default="*", metavar="FILTER", help="part of a name, or a pattern: '*/babi'"
    )
    run = command("run", run_experiment, "train, evaluate and export; the same command goes on after an interruption")
    run.add_argument("experiment", metavar="EXPERIMENT", help="e.g. multigrid/mapping")
    run.add_argument("--preset", default="paper", help="paper (default), demo, smoke or another that `list` shows")
    run.add_argument("--folder", type=_path, help="default: runs/<paper>/<experiment>/<preset>/seed<seed>")
    run.add_argument("--continue", action="store_true", dest="extend", help="train a run to a higher --num-updates")
    run.usage = (
        "reproduce run EXPERIMENT [--preset PRESET] [--folder FOLDER] [--continue] [--<hyper-parameter> VALUE ...]"
    )
    run.epilog = "`reproduce run EXPERIMENT --help` shows the experiment's hyper-parameters with their sources."
    evaluate = command("evaluate", evaluate_run, "evaluate a run's newest checkpoint again")
    evaluate.add_argument("run", type=_path, metavar="RUN", help="run folder")
    load = command("import", import_checkpoint, "put a TF 1 checkpoint of the public code into a Keras model")
    load.add_argument("experiment", metavar="EXPERIMENT")
    load.add_argument("checkpoint", type=_expanded, metavar="CKPT", help="prefix of the checkpoint, without .index")
    load.add_argument("out", type=_path, metavar="OUT", help="file to write: *.keras or *.weights.h5")
    load.add_argument("--preset", default="paper", help="preset that the model is built from (default: paper)")
    load.add_argument("--scope", default="", help="name scope of the model inside the checkpoint")
    export = command("export", export_run, "write a run's model as a SavedModel (`step` and its other signatures)")
    export.add_argument("run", type=_path, metavar="RUN", help="run folder")
    export.add_argument("out", type=_path, metavar="OUT", help="folder to write")
    report = command("report", report_runs, "one table per paper, and learning curves, from finished runs")
    report.add_argument("runs", nargs="*", type=_path, default=[Path("runs")], metavar="RUNS", help="default: runs")
    report.add_argument("--out", type=_path, default=Path("runs/report"), help="folder to write (default: runs/report)")
    compiled = command(
        "compile", compile_experiment, "write a bundle that `python -m tfmem.aot` trains without TensorFlow"
    )
    compiled.add_argument("experiment", metavar="EXPERIMENT")
    compiled.add_argument("out", type=_path, metavar="OUT", help="folder to write")
    compiled.add_argument("--preset", default="paper", help="paper (default), demo, smoke or another that `list` shows")
    compiled.usage = "reproduce compile EXPERIMENT [--preset PRESET] [--<hyper-parameter> VALUE ...] OUT"
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


def _path(text):
    return Path(_expanded(text))


def _expanded(text):
    """The text of a path; the shell expands no `~` in `--folder=~/runs`."""
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


def _load(name, modules):
    try:
        return load_experiment(name, modules)
    except ValueError as error:
        raise UsageError(error) from None


def _preset(module, name, preset):
    if preset not in module.PRESETS:
        near = did_you_mean(close(preset, module.PRESETS))
        raise UsageError(f"preset: {preset!r}, must be one of {', '.join(module.PRESETS)} ({name}){near}")
    return module.PRESETS[preset]


@contextlib.contextmanager
def _refusals():
    """What a configuration cannot know of itself, as one line: devices, data, sizes that do not fit or are too much."""
    import tensorflow as tf

    try:
        yield
    except CorruptDataError:
        raise
    except (ValueError, OverflowError, MemoryError, tf.errors.OpError) as error:
        raise UsageError(_reason(error)) from error


def _reason(error):
    """An error in one line; one of TensorFlow's runtime without its list of graph nodes."""
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    if hasattr(error, "message"):  # tf.errors.OpError
        return f"{type(error).__name__}: {error.message.strip().partition(chr(10))[0]}"
    return " ".join(str(error).split())


def _experiment(module, config):
    with _refusals():
        experiment = module.Experiment(config)
        experiment.batch(0)
        return experiment


def list_experiments(arguments, modules, argv):
    pattern = arguments.filter if any(c in arguments.filter for c in "*?[") else f"*{arguments.filter}*"
    names = [name for name in modules if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        near = did_you_mean(close(arguments.filter, {part for name in modules for part in (name, *name.split("/"))}))
        raise UsageError(f"FILTER: {arguments.filter!r}, must be a part or a pattern of {', '.join(modules)}{near}")
    for name in names:
        module = _load(name, modules)
        print(f"{name}: {_title(module)}")
        print(f"    presets: {', '.join(module.PRESETS)}")
        print(f"    needs: {', '.join(module.DATASETS) or 'no data set'}")
        for metric, (value, source) in module.PAPER.items():
            print(f"    paper's {metric}: {_number(value)} ({source})")


def _title(module):
    return module.__doc__.strip().splitlines()[0].rstrip(".")


def run_experiment(arguments, modules, argv):
    module = _load(arguments.experiment, modules)
    import tensorflow as tf

    from tfmem.training import TrainingDivergedError, TrainingInterrupted, UpdateError, train

    preset = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, preset, arguments.overrides, f"reproduce run {arguments.experiment}")
    folder = arguments.folder or Path("runs", arguments.experiment, arguments.preset, f"seed{config.seed}")
    again = "reproduce " + shlex.join(argv)
    try:
        experiment = _experiment(module, config)
        print(f"{arguments.experiment}, preset {arguments.preset}, seed {config.seed}, in {folder}")
        result = train(experiment, folder, arguments.preset, module.PAPER, extend=arguments.extend)
    except TrainingInterrupted as error:
        print(f"{error}. To go on:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print(f"stopped at once. To go on after the last checkpoint:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    except UpdateError as error:
        raise UsageError(f"the update cannot be built: {_reason(error.__cause__)}") from error
    except TrainingDivergedError as error:
        return _fail(error, 1)
    except (MemoryError, tf.errors.OpError) as error:
        return _fail(_reason(error), 1)
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
        with contextlib.redirect_stderr(said), _refusals():
            return tyro.cli(module.Config, default=preset, args=overrides, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code == 0:
            raise
    # tyro draws a box: a title, a rule where the terminal is not UTF-8, the message, a rule, advice.
    lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
    lines = itertools.dropwhile(lambda line: not line.strip("-"), lines)
    message = " ".join(itertools.takewhile(lambda line: line.strip("-"), lines))
    names = ["--" + name.replace("_", "-") for name in _options(preset)]
    another_core = any(override.startswith("core:") for override in overrides)  # its options are not the preset's
    for given in (override.split("=")[0] for override in overrides):
        option = given.replace("_", "-")
        if given not in message or (another_core and option.startswith("--core.")):
            continue
        if option.startswith("--") and option not in names:
            near = close(option, names) or names
            message = f"{option}: no such hyper-parameter, must be one of {', '.join(near)}"
            break
    raise UsageError(f"{message.removeprefix('Error parsing Config: ')}; see `{prog} --help`")


def _options(config, prefix=""):
    """The names of a configuration's options; those of a nested one begin with its field's name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _open_run(path, modules):
    """A run's module, and its experiment with the variables of its newest readable checkpoint, which comes third."""
    folder = RunFolder(path)
    about = run_config(folder)
    module = _load(about["experiment"], modules)
    from tfmem.training import config_from_fields, load_checkpoint

    try:
        config = config_from_fields(module.Config, about["config"])
    except (TypeError, ValueError) as error:
        raise RunFolderError(f"{folder.config_path} is not of this version of {about['experiment']}: {error}") from None
    with _refusals():
        experiment = module.Experiment(config)
    checkpoint, damaged = folder.restore()
    for file, reason in damaged:
        print(f"{file.name} is damaged ({reason}); an older one is used", file=sys.stderr)
    if checkpoint is None:
        raise RunFolderError(f"{path} has no checkpoint yet")
    load_checkpoint(experiment, checkpoint)
    print(f"{about['experiment']} after update {checkpoint.update} of {experiment.config.num_updates}")
    return module, experiment, checkpoint


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
    if not arguments.out.name.endswith((".keras", ".weights.h5")):
        raise UsageError(f"OUT: {str(arguments.out)!r}, must end in .keras or .weights.h5")
    module = _load(arguments.experiment, modules)
    from tfmem.checkpoints import load_tf1

    preset = _preset(module, arguments.experiment, arguments.preset)
    with _refusals():
        experiment = module.Experiment(preset)
    try:
        print(load_tf1(experiment.model, arguments.checkpoint, arguments.scope))
    except ValueError as error:  # CheckpointMismatchError is one
        return _fail(error, 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    experiment.save_model(arguments.out)
    print(f"written: {arguments.out}")


def export_run(arguments, modules, argv):
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out} exists already")
    _, experiment, _ = _open_run(arguments.run, modules)
    experiment.export(arguments.out)
    print(f"written: {arguments.out}")


def compile_experiment(arguments, modules, argv):
    module = _load(arguments.experiment, modules)
    from tfmem.aot.lowering import make_bundle

    preset = _preset(module, arguments.experiment, arguments.preset)
    config = parse_config(module, preset, arguments.overrides, f"reproduce compile {arguments.experiment}")
    if arguments.out.exists():
        raise UsageError(f"OUT: {arguments.out} exists already")
    experiment = _experiment(module, config)
    with _refusals():
        bundle = make_bundle(experiment, arguments.preset)
    write_bundle(bundle, arguments.out)
    size = sum(about["bytes"] for about in read_manifest(arguments.out)["files"].values())
    print(f"written: {arguments.out}, {size / 2**20:.2f} MiB of at most {LARGEST // 2**20}. To train what is in it:")
    print(f"  python -m tfmem.aot run {shlex.quote(str(arguments.out))}")


def import_bundle_run(arguments, modules, argv):
    source, out = RunFolder(arguments.run), RunFolder(arguments.out)
    about = run_config(source)
    if "bundle" not in about:
        raise RunFolderError(f"{arguments.run} is not a run of `python -m tfmem.aot`; it can be used as it is")
    if arguments.out.exists():
        raise UsageError(f"OUT_RUN: {arguments.out} exists already")
    module, experiment, checkpoint = _open_run(arguments.run, modules)
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
    print(f"  reproduce run {about['experiment']} --preset {about['preset']} --folder {arguments.out}")


def report_runs(arguments, modules, argv):
    from reproductions.report import write_report

    write_report(arguments.runs, arguments.out, modules)


if __name__ == "__main__":
    sys.exit(main())
