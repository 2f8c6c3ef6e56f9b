"""Training in a run folder.

Several updates run in one compiled call (`compiled_updates`). A thread prepares the data of the next calls meanwhile.
A checkpoint holds all that the next update depends on: variables, the carry between updates, the update's number (from
which the data follow) and the metrics of the row that is being averaged. So a run that was killed and started again
with the same command ends with the same numbers as one that was never killed. On a CPU that needs no op determinism:
convolutions, gathers, reductions and their gradients are the same to the bit in repeated runs under load.
"""

import dataclasses
import json
import shutil
import sys
import time

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from tfmem import plotting
from tfmem.atomic import replacing
from tfmem.training.config import config_defaults, config_fields
from tfmem.training.experiment import (
    checkpoint_arrays,
    compiled_updates,
    load_checkpoint,
    run_description,
    stacked_batches,
    variable_names,
)
from tfmem.training.loop import Loop
from tfmem.training.machine import describe_machine
from tfmem.training.run_folder import (
    RunFolder,
    RunFolderError,
    as_json,
    run_config,
    run_result,
    write_json,
)
from tfmem.training.workers import failures, shared_start, strategy_of

HISTORY = "num_updates_history"  # in config.json and result.json of a run that was made longer


class UpdateError(ValueError):
    """The update of a configuration cannot be built: sizes do not fit each other, or are too large."""


def train(experiment, path, preset=None, paper=None, extend=False, make_updates=compiled_updates, notes=None):
    """Run an experiment in a run folder, from its last checkpoint if it has one, to the end.

    SIGINT (Ctrl-C) and SIGTERM stop it after the current call with a checkpoint.

    Args:
      experiment: an `Experiment`.
      path: the run folder; made if it does not exist.
      preset: name of the preset, for the record.
      paper: the paper's numbers, `{metric: (value or None, source)}`, for the record.
      extend: train the folder's run longer, to the `num_updates` of this configuration. All other fields
        must be the same. Its numbers are those of a run that had as many from the start. config.json and result.json
        then list what `num_updates` has been (`num_updates_history`).
      make_updates: maker of the function of several updates, with the signature of `compiled_updates`, the default. The
        other one is `tfmem.rl.distributed.ActorPool`. Its attribute `described`, if any, is a part of config.json.
      notes: more fields of result.json, `{name: what JSON can hold}`.

    Returns:
      The content of result.json; where the run was finished already, without doing anything.

    Raises:
      OtherConfigurationError: the folder belongs to another configuration.
      RunFolderError: the folder has no readable checkpoint, cannot be written, or, with `extend`, its run has more
        updates.
      TrainingInterrupted: a signal stopped it; rerun the same call to resume.
      TrainingDivergedError: NaN or infinity, with the update's number; the last good checkpoint is kept.
      UpdateError: the update of a new run cannot be built; no folder was made.
      WorkerError: another process of the run has failed; rerun the same call to resume.
    """
    folder = RunFolder(path)
    there = run_config(folder) if extend or folder.config_path.exists() else None
    # Workers trace the same functions in the same order, and the others do not know the folder.
    functions = {} if there or strategy_of(experiment) else _first_function(experiment, make_updates)
    described = _as_described(there, as_json(run_description(experiment, preset)), experiment.config)
    described |= getattr(make_updates, "described", {})
    wanted = experiment.config.num_updates
    updates = there["config"].get("num_updates") if extend else None
    if isinstance(updates, int):
        described["config"]["num_updates"] = updates  # all other fields must be the same
    else:
        updates = wanted
    folder.claim(described)
    try:
        if wanted < updates:
            raise RunFolderError(f"num_updates: {wanted}, must be at least {updates}, the updates of the run in {path}")
        if wanted > updates:
            described = _extended(folder, described, wanted)
        finished = run_result(folder)
        if finished is None:
            finished = _Run(experiment, folder, described, make_updates, functions).finish(paper or {}, notes or {})
        return finished
    finally:
        folder.release()


def _as_described(there, described, config):
    """A run's description in the words of the config.json that is `there` (None: there is none), for comparison.

    A field that an older version did not write had its default; earlier values of `num_updates` stand there alone.
    """
    if there is None:
        return described
    return {
        **described,
        "config": _as_written(config, there["config"]),
        **({HISTORY: there[HISTORY]} if HISTORY in there else {}),
    }


def _as_written(config, there):
    """Fields of a configuration, without defaults that an older version's fields, `there`, lack; nested ones alike."""
    fields, defaults = as_json(config_fields(config)), as_json(config_defaults(type(config)))
    kept = {name: value for name, value in fields.items() if name in there or value != defaults.get(name)}
    for name in kept:
        nested, before = getattr(config, name), there.get(name)
        if dataclasses.is_dataclass(nested) and isinstance(before, dict):
            kept[name] = {"type": type(nested).__name__, **_as_written(nested, before)}
    return kept


def _extended(folder, described, num_updates):
    """Extend a claimed folder's run to `num_updates`; returns the new content of config.json."""
    before, every = described["config"]["num_updates"], described["config"]["eval_every"]
    checkpoint, _ = folder.restore()
    if folder.result_path.exists() and checkpoint is None:
        raise RunFolderError(f"{folder.path} has no checkpoint to continue from; it is left as it is")
    if folder.result_path.exists() and (not every or before % every):
        text = f"the run of {before} updates was evaluated at its end, where one of {num_updates} is not"
        print(f"{text}; weights that it kept as its best may be of there", file=sys.stderr)
    described = {
        **described,
        "config": described["config"] | {"num_updates": num_updates},
        HISTORY: [*described.get(HISTORY, [before]), num_updates],
    }
    folder.result_path.unlink(missing_ok=True)  # first: no result with a configuration of more updates
    write_json(folder.config_path, described)
    return described


def _first_function(experiment, make_updates):
    """The function of a run's first call, by its size: that it can be built is seen before anything is written."""
    size = min(experiment.config.updates_per_call, experiment.config.num_updates)
    function = make_updates(experiment, size)

    def spec(array):
        return tf.TensorSpec([size, *np.shape(array)], np.asarray(array).dtype)

    batches = tf.nest.map_structure(spec, experiment.batch(0))
    try:
        function.get_concrete_function(tf.TensorSpec([], tf.int64), batches, experiment.initial_carry())
    except (ValueError, OverflowError, MemoryError, tf.errors.OpError) as error:
        raise UpdateError(f"the update cannot be built: {error}") from error
    return {size: function}


class _Run(Loop):
    """A run with TensorFlow; `described` is what its config.json says."""

    def __init__(self, experiment, folder, described, make_updates, functions):
        super().__init__(folder, experiment.config, experiment.config.num_updates)
        self.experiment, self.carry = experiment, experiment.initial_carry()
        self.make_updates, self.functions = make_updates, functions
        self.described, self.names = described, variable_names(experiment)
        self.called, self.timed, self.seconds = set(), 0, 0.0  # sizes of calls; updates and seconds since a row
        self.resume()
        self.update, self.carry = shared_start(experiment, self.update, self.carry)

    def finish(self, paper, notes):
        """Train to the end and write the files of a finished run."""
        experiment, folder, config = self.experiment, self.folder, self.schedule
        writer = tf.summary.create_file_writer(str(folder.tensorboard))
        with writer.as_default():
            fields = config_fields(config)
            hparams.hparams({n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in fields.items()})
            text = json.dumps(self.described, indent=4)
            tf.summary.text("config", "\n".join(f"    {line}" for line in text.splitlines()), step=self.update)
            self.run()
        writer.close()
        evaluation = self.evaluation if self.evaluation is not None else experiment.evaluate()
        metrics = experiment.result(evaluation)
        for name, best in experiment.top_scores.items():
            seen = [row[f"eval/{name}"] for row in folder.metrics() if f"eval/{name}" in row]
            metrics = {**metrics, f"top_{name}": best([*seen, evaluation[name]])}
        try:
            self.draw_and_export()
        except (OSError, tf.errors.OpError) as error:  # each library has its own for a full disk
            raise RunFolderError(f"cannot finish {folder.path}: {error}; its checkpoints are kept") from error
        result = {
            "experiment": experiment.name,
            "preset": self.described["preset"],
            "paper": {name: {"value": value, "source": source} for name, (value, source) in paper.items()},
            "ours": {name: float(value) for name, value in metrics.items()},
            "seeds": [config.seed],
            "updates": self.update,
            **({HISTORY: self.described[HISTORY]} if HISTORY in self.described else {}),
            "wall_time_seconds": round(self.wall_time(), 1),
            **({} if self.cpu_time() is None else {"cpu_time_seconds": round(self.cpu_time(), 1)}),
            **notes,
            **describe_machine([device.name for device in tf.config.list_logical_devices("GPU")]),
        }
        folder.write_result(result)
        return result

    def _account(self, metrics, display):
        super()._account(metrics, display)
        if self._due(self.schedule.figures_every):
            figures = self.folder.path / f"figures_{self.update}"
            figures.mkdir(exist_ok=True)
            self.draw(figures)

    def draw(self, figures):
        """Draw the loss and the experiment's pictures of the present weights into a folder in the run's."""
        rows = [row for row in self.folder.metrics() if "train/loss" in row]
        updates, losses = [row["update"] for row in rows], [row["train/loss"] for row in rows]
        if losses:
            loss = plotting.loss_figure(updates, losses, "updates", title=self.experiment.name, log=min(losses) > 0)
            loss.savefig(figures / "loss.png", dpi=120)
        self.experiment.figures(figures)

    def draw_and_export(self):
        experiment, folder = self.experiment, self.folder
        self.draw(folder.figures)
        shutil.rmtree(folder.saved_model, ignore_errors=True)
        with replacing(folder.saved_model) as partial:
            experiment.export(partial)

    def load(self, checkpoint):
        self.carry, _ = load_checkpoint(self.experiment, checkpoint)

    def arrays(self):
        return checkpoint_arrays(self.experiment, self.carry)

    def batches(self, first, size):
        return stacked_batches(self.experiment, first, size)

    def call(self, first, size, batches):
        start, known = time.perf_counter(), size in self.called
        if size not in self.functions:
            self.functions[size] = self.make_updates(self.experiment, size)
        with failures(self.experiment):
            self.carry, metrics = self.functions[size](tf.constant(first, tf.int64), batches, self.carry)
            metrics = {name: values.numpy() for name, values in metrics.items()}
        if known:  # the first call of its size compiles
            self.timed, self.seconds = self.timed + size, self.seconds + time.perf_counter() - start
        self.called.add(size)
        return metrics

    def evaluate(self):
        return self.experiment.evaluate()

    def record(self, row):
        super().record(row)
        for name, value in row.items():
            tf.summary.scalar(name, value, step=self.update)
        if self.timed:
            tf.summary.scalar("updates_per_second", self.timed / self.seconds, step=self.update)
            self.timed, self.seconds = 0, 0.0
