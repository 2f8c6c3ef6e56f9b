"""Command line `reproduce`, or `python -m reproductions`; `reproduce --help` lists its commands."""

import contextlib
import dataclasses
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import FlagCreatePairsOff, Positional, arg

from tfmem.aot.bundle import LARGEST, BundleError, read_manifest, write_bundle
from tfmem.atomic import replacing
from tfmem.data.files import CorruptDataError
from tfmem.training.run_folder import OtherConfigurationError, RunFolder, RunFolderError, run_config, run_result

from . import GENERAL, close, did_you_mean, experiment_modules
from .catalog import list_experiments, number, table
from .command_line import PathArgument, configured, parse, preset_option
from .parts import missing_parts
from .runs import UsageError, load, make_output_folder, open_run, reason, refusals

INTERRUPTED = 130  # the shells' status for Ctrl-C
MACHINE = ("hardware", "versions")  # of a result: where it was trained

ExperimentName = Annotated[Positional[str], arg(metavar="EXPERIMENT", help="e.g. multigrid/mapping")]
OneWithOptions = Annotated[
    Positional[str],
    arg(metavar="EXPERIMENT", help="e.g. multigrid/mapping; --help after it shows its hyper-parameters with sources"),
]
PresetName = Annotated[
    str | None,
    arg(
        metavar="PRESET",
        help="demo, smoke or another of `reproduce list EXPERIMENT`",
        help_behavior_hint="(default: paper)",
    ),
]
RunPath = Annotated[Positional[PathArgument], arg(metavar="RUN", help="run folder")]


def main(argv=None, modules=None):
    """Run a command.

    Args:
      argv: arguments without the program's name; default: the process's.
      modules: experiments by name, as from `experiment_modules`; default: these and `GENERAL`.

    Returns:
      The exit status: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal gets "?" for a character that it lacks
        sys.stdout.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else list(argv)
    modules = {**experiment_modules(), **GENERAL} if modules is None else modules
    try:
        status = parse(_commands(argv, modules), argv, "reproduce", "Rerun the experiments of the papers.")(
            modules, argv
        )
        sys.stdout.flush()
        return status or 0
    except UsageError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it, as in `reproduce list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return 1
    except (BundleError, RunFolderError, CorruptDataError, OSError) as error:
        return _fail(error, 1)


def _commands(argv, modules):
    """Classes of the commands; `run` and `compile` take the options of the experiment that is named first."""
    commands = [List, Run, Evaluate, Play, Import, Export, Publish, Report, Results, Compare, Sweep]
    commands += [Compile, ImportBundle]
    for index, command in enumerate(commands):
        if command not in (Run, Compile) or argv[:1] != [command.__name__.lower()]:
            continue
        if argv[1:] and not argv[1].startswith("-"):
            module = load(argv[1], modules)
            _, config = _preset(module, argv[1], preset_option(argv[2:]))
            commands[index] = configured(command, module, config)
        elif argv[1:] and argv[1] not in ("-h", "--help"):
            raise UsageError(f"{argv[0]}: the experiment comes first, before {argv[1]}; see `reproduce {argv[0]} -h`")
    return commands


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


def _print_scores(ours, paper):
    rows = [(name, number(ours.get(name)), number(value), source) for name, (value, source) in paper.items()]
    rows += [(name, number(value), "-", "") for name, value in ours.items() if name not in paper]
    print(table(("metric", "ours", "paper", "source"), rows))


@dataclasses.dataclass(kw_only=True)
class List:
    """Show the experiments; of one, its presets and the paper's numbers."""

    filter: Annotated[Positional[str], arg(metavar="[FILTER]")] = "*"
    """part of a name, or a pattern: '*/babi'"""

    def __call__(self, modules, argv):
        list_experiments(self.filter, modules)


@dataclasses.dataclass(kw_only=True)
class Run:
    """Train, evaluate and export; rerun the same command to resume. `run supervised` trains any core on any task, `run
    gymnasium` in any environment.
    """

    experiment: OneWithOptions
    preset: PresetName = None
    folder: Annotated[
        PathArgument | None,
        arg(metavar="PATH", help_behavior_hint="(default: runs/<paper>/<experiment>/<preset>/seed<seed>)"),
    ] = None
    """run folder"""
    extend: Annotated[FlagCreatePairsOff[bool], arg(name="continue")] = False
    """train a finished run to a higher --num-updates"""
    actors: int = 0
    """processes of an agent's actors, by Ray; 0: they act in the learner's process"""
    max_lag: int | None = None
    """actors' records are taken by arrival, at most so many updates old; None: in a fixed order, --policy-lag old"""
    ray_address: str | None = None
    """cluster of the actors: auto, or HOST:PORT; None: this machine"""
    multi_worker: FlagCreatePairsOff[bool] = False
    """share batches with the processes that TF_CONFIG names; --replicas is the number of all devices"""
    config: ClassVar = None  # `configured` makes it a field

    def _experiment(self, module, config):
        if not self.multi_worker:
            return _experiment(module, config)
        from tfmem.training import workers

        with refusals():
            strategy = workers.worker_strategy()
        with strategy.scope():
            experiment = _experiment(module, config)
        if workers.strategy_of(experiment) is None:
            raise UsageError(f"multi_worker: True, must be False: {self.experiment} has no --replicas")
        return experiment

    @contextlib.contextmanager
    def _updates(self, experiment):
        """Context with the arguments of `train` for actors in processes of their own; {} without."""
        for name in ("max_lag", "ray_address"):
            if not self.actors and getattr(self, name) is not None:
                raise UsageError(f"{name}: {getattr(self, name)}, must come with --actors of at least 1")
        if not self.actors:
            yield {}
            return
        if not hasattr(experiment, "learn_step"):
            raise UsageError(f"actors: {self.actors}, must be 0: {self.experiment} has no agent")
        from tfmem.rl.distributed import ray_actors

        with contextlib.ExitStack() as stack:
            with refusals():
                pool = stack.enter_context(ray_actors(experiment, self.actors, self.max_lag, self.ray_address))
            yield {"make_updates": pool, "notes": {"actors": self.actors}}

    def __call__(self, modules, argv):
        module, config = load(self.experiment, modules), self.config
        import tensorflow as tf

        from tfmem.training import TrainingDivergedError, TrainingInterrupted, UpdateError, WorkerError, train, workers

        preset, _ = _preset(module, self.experiment, self.preset)
        name = module.run_name(preset, config) if hasattr(module, "run_name") else preset
        folder = self.folder or Path("runs", self.experiment, name, f"seed{config.seed}")
        again = "reproduce " + shlex.join(argv)
        try:
            experiment = self._experiment(module, config)
            if self.multi_worker and not workers.is_first(experiment):
                print(f"{workers.follow(experiment)} updates with the first worker, which has the run")
                return 0
            print(f"{self.experiment}, preset {preset}, seed {config.seed}, in {folder}")
            with self._updates(experiment) as how:
                result = train(experiment, folder, preset, module.PAPER, extend=self.extend, **how)
        except TrainingInterrupted as error:
            print(f"{error}. To resume:\n  {again}", file=sys.stderr)
            return INTERRUPTED
        except KeyboardInterrupt:
            print(f"stopped at once. To resume from the last checkpoint:\n  {again}", file=sys.stderr)
            return INTERRUPTED
        except OtherConfigurationError as error:
            longer = "--continue trains this run longer; " if error.names == ["config.num_updates"] else ""
            return _fail(f"{error}\n{longer}a run of another setting must have another --folder", 1)
        except UpdateError as error:
            raise UsageError(f"the update cannot be built: {reason(error.__cause__)}") from error
        except (TrainingDivergedError, WorkerError) as error:
            return _fail(error, 1)
        except (MemoryError, tf.errors.OpError) as error:
            return _fail(reason(error), 1)
        _print_scores(result["ours"], module.PAPER)
        print(f"{result['updates']} updates in {result['wall_time_seconds']} s; all of it is in {folder}")


@dataclasses.dataclass(kw_only=True)
class Evaluate:
    """Evaluate a run's newest checkpoint again."""

    run: RunPath
    episodes: int | None = None
    """episodes of an agent's evaluation; None: as in the run"""

    def __call__(self, modules, argv):
        changes = {} if self.episodes is None else {"eval_episodes": self.episodes}
        module, experiment, _ = open_run(self.run, modules, **changes)
        with refusals():
            scores = experiment.result(experiment.evaluate())
        _print_scores(scores, module.PAPER)


@dataclasses.dataclass(kw_only=True)
class Import:
    """Put a TF 1 checkpoint of the public code into a Keras model."""

    experiment: ExperimentName
    checkpoint: Annotated[Positional[PathArgument], arg(metavar="CKPT")]
    """prefix of the checkpoint, without .index"""
    out: Annotated[Positional[PathArgument], arg(metavar="OUT")]
    """file to write: *.keras or *.weights.h5"""
    preset: PresetName = None
    scope: str = ""
    """name scope of the model inside the checkpoint"""

    def __call__(self, modules, argv):
        if not self.out.name.endswith((".keras", ".weights.h5")):
            raise UsageError(f"OUT: {str(self.out)!r}, must end in .keras or .weights.h5")
        module = load(self.experiment, modules)
        from tfmem.checkpoints import load_tf1

        _, config = _preset(module, self.experiment, self.preset)
        with refusals():
            experiment = module.Experiment(config)
        try:
            print(load_tf1(experiment.model, self.checkpoint, self.scope))
        except ValueError as error:  # CheckpointMismatchError is one
            return _fail(error, 1)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        experiment.save_model(self.out)
        print(f"written: {self.out}")


@dataclasses.dataclass(kw_only=True)
class Export:
    """Write a run's model as a SavedModel (`step` and its other signatures)."""

    run: RunPath
    out: Annotated[Positional[PathArgument], arg(metavar="OUT")]
    """folder to write"""

    def __call__(self, modules, argv):
        if self.out.exists():
            raise UsageError(f"OUT: {self.out}, must not exist")
        _, experiment, _ = open_run(self.run, modules)
        make_output_folder(self.out.parent)
        with replacing(self.out) as partial:
            experiment.export(partial)
        print(f"written: {self.out}")


@dataclasses.dataclass(kw_only=True)
class Publish:
    """Write a finished run as a model that `tfmem.pretrained.load` takes, with a model card, to TFMEM_WEIGHTS_DIR."""

    run: RunPath

    def __call__(self, modules, argv):
        from .publish import publish

        print(f"written: {publish(self.run, modules)}")


@dataclasses.dataclass(kw_only=True)
class Play:
    """Write an episode of a run's agent on a level of evaluations as GIF and mp4."""

    run: RunPath
    out: Annotated[PathArgument | None, arg(metavar="PATH", help_behavior_hint="(default: RUN/play)")] = None
    """folder to write"""
    episode: int = 0
    """number that selects the level and the agent's draws"""
    fps: int = 8
    """frames per second"""

    def __call__(self, modules, argv):
        from .play import write_episode

        write_episode(self.run, self.out or self.run / "play", self.episode, self.fps, modules)


@dataclasses.dataclass(kw_only=True)
class Report:
    """Write one table per paper, and learning curves, from finished runs."""

    runs: Annotated[
        Positional[tuple[PathArgument, ...]], arg(metavar="[RUNS ...]", help_behavior_hint="(default: runs)")
    ] = ()
    """run folders, or folders of them"""
    out: Annotated[PathArgument | None, arg(metavar="PATH", help_behavior_hint="(default: runs/report)")] = None
    """folder to write"""
    record: FlagCreatePairsOff[bool] = False
    """write the results as data instead, to reproductions/<paper>/results"""

    def __call__(self, modules, argv):
        if self.record:
            if not self.runs or self.out is not None:
                raise UsageError("record: True, must come with the RUNS to record, and without --out")
            from .records import check_checkout, record

            check_checkout("record")
            for path in record(self.runs, modules):
                print(f"written: {path}")
            return
        from .report import write_report

        write_report(self.runs or (Path("runs"),), self.out or Path("runs/report"), modules)


@dataclasses.dataclass(kw_only=True)
class Results:
    """Make the tables, curves and verdicts on claims of the pages from recorded results."""

    def __call__(self, modules, argv):
        from .pages import write_results

        changed = write_results()
        print("\n".join(f"written: {path}" for path in changed) or "all tables are as recorded; curves are drawn anew")


@dataclasses.dataclass(kw_only=True)
class Compare:
    """Write one table, and learning curves, of several finished runs side by side."""

    runs: Annotated[
        Positional[tuple[PathArgument, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ] = ()
    """run folders"""
    out: PathArgument = Path("runs/compare")
    """folder to write"""

    def __call__(self, modules, argv):
        if not self.runs:
            raise UsageError("RUN: (), must be at least one run folder; see `reproduce compare --help`")
        from .compare import compare

        compare(self.runs, self.out, modules)


@dataclasses.dataclass(kw_only=True)
class Sweep:
    """Train the cross product of options and seeds, each run in a process; rerun the same command to resume."""

    experiment: ExperimentName
    preset: PresetName = None
    parts: Annotated[tuple[str, ...], arg(name="with", metavar="core:NAME")] = ()
    """another core or task, as of `reproduce run`"""
    grid: Annotated[tuple[str, ...], arg(metavar="OPTION=VALUE,VALUE ...")] = ()
    """options of the experiment with their values"""
    seeds: tuple[int, ...] = (0,)
    """seeds of each combination"""
    jobs: int = 1
    """runs at a time"""
    ray_address: str | None = None
    """cluster of the runs, whose machines share the folder: auto, or HOST:PORT; None: processes of this machine"""
    metric: str | None = None
    """score of the picture; by default the first"""
    out: PathArgument | None = None
    """folder to write; by default runs/sweeps/<paper>/<experiment>"""

    def __call__(self, modules, argv):
        from .sweep import command, in_process, parse_grid, points, ray_tasks, settings, sweep

        for option in ("--grid", "--seeds", "--with"):
            if argv.count(option) > 1:
                raise UsageError(f"{option}: given {argv.count(option)} times, must be given once, with all values")
        grid, module = parse_grid(self.grid), load(self.experiment, modules)
        preset, config = _preset(module, self.experiment, self.preset)
        parts = [*self.parts, *missing_parts(config, self.parts, grid)]
        out = (self.out or Path("runs/sweeps", self.experiment)).absolute()  # Ray's tasks have another folder
        runs = {}
        for point in points(grid, self.seeds[:1], out):  # nothing is written for a wrong option
            arguments = command(self.experiment, preset, parts, grid, point)
            asked = vars(parse(_commands(arguments, modules), arguments, "reproduce", "")) | {"folder": None}
            for values, other in runs.items():
                if asked == other:
                    same = " and ".join(", ".join(settings(grid, both)) for both in (values, point.values))
                    raise UsageError(f"grid: {same}, must be different runs")
            runs[point.values] = asked
        chosen = self.experiment, preset, parts, grid, self.seeds, out, self.jobs, self.metric
        try:
            if self.ray_address is None:
                return sweep(*chosen, run=in_process)
            with contextlib.ExitStack() as stack:
                with refusals():
                    run = stack.enter_context(ray_tasks(self.ray_address, self.jobs))
                return sweep(*chosen, run=run)
        except KeyboardInterrupt:
            print(f"stopped. To resume:\n  reproduce {shlex.join(argv)}", file=sys.stderr)
            return INTERRUPTED


@dataclasses.dataclass(kw_only=True)
class Compile:
    """Write a bundle that `python -m tfmem.aot` trains without TensorFlow."""

    experiment: OneWithOptions
    out: Annotated[Positional[PathArgument], arg(metavar="OUT")]
    """folder to write"""
    preset: PresetName = None
    max_mib: float = LARGEST / 2**20
    """most MiB of the bundle"""
    config: ClassVar = None  # `configured` makes it a field

    def __call__(self, modules, argv):
        module = load(self.experiment, modules)
        from tfmem.aot.lowering import make_bundle

        preset, _ = _preset(module, self.experiment, self.preset)
        if self.out.exists():
            raise UsageError(f"OUT: {self.out}, must not exist")
        if not 0 < self.max_mib < float("inf"):
            raise UsageError(f"max_mib: {self.max_mib}, must be above 0 and finite")
        experiment = _experiment(module, self.config)
        with refusals():
            bundle = make_bundle(experiment, preset)
        write_bundle(bundle, self.out, self.max_mib * 2**20)
        size = sum(about["bytes"] for about in read_manifest(self.out)["files"].values())
        print(f"written: {self.out}, {size / 2**20:.2f} MiB of at most {self.max_mib:g}. To train what is in it:")
        print(f"  python -m tfmem.aot run {shlex.quote(str(self.out))}")


@dataclasses.dataclass(kw_only=True)
class ImportBundle:
    """Make a run folder of what `python -m tfmem.aot` trained."""

    run: Annotated[Positional[PathArgument], arg(metavar="BUNDLE_RUN")]
    """run folder of the bundle's runner"""
    out: Annotated[Positional[PathArgument], arg(metavar="OUT_RUN")]
    """run folder to write"""
    finish: FlagCreatePairsOff[bool] = False
    """take the updates made as the whole run: evaluate, draw, export; `run --continue` trains it longer"""

    def __call__(self, modules, argv):
        source, out = RunFolder(self.run), RunFolder(self.out)
        about = run_config(source)
        if "bundle" not in about:
            raise RunFolderError(f"{self.run} is not a run of `python -m tfmem.aot`; it can be used as it is")
        if self.out.exists():
            raise UsageError(f"OUT_RUN: {self.out}, must not exist")
        module, experiment, checkpoint = open_run(self.run, modules)
        from tfmem.training import run_description, train

        if self.finish:
            experiment = module.Experiment(dataclasses.replace(experiment.config, num_updates=checkpoint.update))
        out.claim(run_description(experiment, about["preset"]))
        try:
            for row in source.metrics():
                if row["update"] <= checkpoint.update:
                    out.append_metrics(row.pop("update"), row)
            out.save(checkpoint)
        finally:
            out.release()
        if self.finish:
            result = train(experiment, self.out, about["preset"], module.PAPER)
            trained = run_result(source)
            if trained is not None and trained["updates"] == result["updates"]:  # the machine that trained it
                out.write_result(result | {n: trained[n] for n in MACHINE if n in trained})
            _print_scores(result["ours"], module.PAPER)
            print(f"written: {self.out}, {result['updates']} updates")
            return
        print(f"written: {self.out}. `reproduce evaluate` and `export` take it; to resume, or to finish it:")
        seed = experiment.config.seed
        print(f"  reproduce run {about['experiment']} --preset {about['preset']} --seed {seed} --folder {self.out}")


if __name__ == "__main__":
    sys.exit(main())
