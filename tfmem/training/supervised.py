"""Supervised experiments by composition: any core on any task.

    config = SupervisedConfig(
        task=DoubleCopy(length=8), core=DNCConfig(memory_size=64), batch_size=32, learning_rate=1e-3, num_updates=3_000
    )
    tfmem.training.train(SupervisedExperiment(config), "runs/mine")

The model is a `SequenceModel`: the core, and a head on its last output or on every output, as the task asks. A
configuration with `make_model` (`tfmem.models.config`) makes a whole model instead. Tokens enter one-hot. A core with a
loss of its own (`meta_loss` in its output) adds that, weighted by `core.meta_weight`.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from tfmem.cores.config import AnyCoreConfig, check_core_config
from tfmem.losses.masking import selected
from tfmem.models.sequence import SequenceModel
from tfmem.optimizers import linear_decay
from tfmem.tasks.base import Batch, Task
from tfmem.training.experiment import numbered
from tfmem.training.sequence import EVALUATION_SEED, SequenceConfig, SequenceExperiment
from tfmem.validation import check_array, check_integer, check_range, positive_ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SequenceConfig):
    """Task, core, and training of the core's model."""

    task: Task
    """Task to learn, a `tfmem.tasks.base.Task`."""
    core: AnyCoreConfig
    """Core: a configuration of `tfmem.cores.config`, or any object with its `make`."""
    mlp_sizes: tuple[int, ...] = ()
    """Widths of the ReLU layers between the core's output and the logits."""
    embedding_size: int | None = None
    """Size of a linear map of each input before the core; None: no such map."""
    loss_reduction: Literal["mean", "sequence_sum", "sum"] = "mean"
    """Loss: mean over answers, mean over sequences of sums over their answers, or sum over the batch."""
    final_learning_rate: float | None = None
    """Final value of a linear decay over decay_updates; None: a constant learning rate."""
    decay_updates: int = 100_000
    """Updates of the decay."""
    select_by: str | None = None
    """Score whose minimum over the evaluations selects the weights of result and export; None: the last weights."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_core_config(self.core)
        if isinstance(self.task, type) or not hasattr(self.task, "num_steps"):
            raise ValueError(f"task: {self.task!r}, must be a task, such as DoubleCopy(length=8)")
        positive_ints("mlp_sizes", self.mlp_sizes)
        if self.embedding_size is not None:
            check_integer("embedding_size", self.embedding_size, 1)
        if self.final_learning_rate is not None:
            check_range("final_learning_rate", self.final_learning_rate, 0)
        check_integer("decay_updates", self.decay_updates, 1)
        if hasattr(self.core, "make_model"):
            for name, without in (("mlp_sizes", ()), ("embedding_size", None)):
                if getattr(self, name) != without:
                    raise ValueError(
                        f"{name}: {getattr(self, name)}, must be {without} for a core that is a whole model"
                    )
        if self.replicas > 1 and self.loss_reduction == "sum" and getattr(self.core, "meta_weight", 0.0):
            raise ValueError("loss_reduction: 'sum', must be a mean for replicas of a core with a loss of its own")
        task = self.task
        if task.num_steps is None:
            if isinstance(task, Task) and type(task).evaluate is Task.evaluate:
                raise ValueError(
                    f"task: {type(task).__name__}, must define evaluate, since its batches differ in length"
                )
            if self.updates_per_call != 1:
                raise ValueError(f"updates_per_call: {self.updates_per_call}, must be 1: batches differ in length")
            return
        check_array(
            task.num_steps,
            self.batch_size,
            max(task.input_size, task.output_size),
            num_steps=task.num_steps,
            batch_size=self.batch_size,
            input_size=task.input_size,
        )


class SupervisedExperiment(SequenceExperiment):
    """Training of a `SupervisedConfig`.

    Scores are the task's. A core with a loss of its own adds `task_loss` and `meta_loss`, whose weighted sum is `loss`.
    """

    name = "supervised"

    def __init__(self, config):
        super().__init__(config)
        self._predict = tf.function(self._predicted, autograph=False)
        if config.select_by is not None:
            self.best = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]
            self.best_score = tf.Variable(float("inf"), trainable=False)
            if config.task.num_steps is not None and config.select_by not in self._score_names:
                raise ValueError(f"select_by: {config.select_by!r}, must be one of {', '.join(self._score_names)}")

    def make_model(self):
        config, task = self.config, self.config.task
        if hasattr(config.core, "make_model"):
            return config.core.make_model(task, config.policy)
        model = SequenceModel(
            config.core.make(task.num_steps, config.policy),
            task.output_size,
            config.mlp_sizes,
            return_sequences=task.every_step,
            embedding_size=config.embedding_size,
            dtype=config.policy,
        )
        model.build((None, None, task.input_size))
        return model

    def learning_rate(self, update):
        config = self.config
        if config.final_learning_rate is None:
            return config.learning_rate
        return linear_decay(update, config.learning_rate, config.final_learning_rate, config.decay_updates)

    # Data

    @functools.cached_property
    def _training(self):
        return self.config.task.source("train", self.config.batch_size, self.config.seed)

    @functools.cached_property
    def _unseen(self):
        return self.config.task.source("evaluation", self.config.batch_size, self.config.seed)

    def batch(self, update):
        return {} if self._training is None else self._training.batch(update)

    def evaluation_batch(self, number):
        return {} if self._unseen is None else self._unseen.batch(number)

    def data_source(self, split="train"):
        return self.config.task.data_source(split, self.config.batch_size, self.config.seed)

    def draw(self, seed):
        return self.config.task(seed, self.config.batch_size).arrays()

    def evaluation_data(self, number):
        """Tensors of the evaluation's batch `number` by name, drawn or from files."""
        return self._drawn(tf.nest.map_structure(tf.constant, self.evaluation_batch(number)), EVALUATION_SEED, number)

    # Model and scores

    @property
    def summed_scores(self):
        return ("loss",) if self.config.loss_reduction == "sum" else ()

    def batch_axis(self, name, array):
        if name in ("targets", "mask") and not self.config.task.every_step:
            return 0
        return super().batch_axis(name, array)

    def inputs(self, batch):
        """Convert the inputs of a batch for the model: tokens become one-hot."""
        inputs = tf.convert_to_tensor(batch["inputs"])
        return tf.one_hot(inputs, self.config.task.input_size) if inputs.dtype.is_integer else inputs

    def forward(self, batch, carry, training):
        core, inputs = self.config.core, self.inputs(batch)
        if hasattr(core, "make_model"):
            return core.run(self.model, self.config.task, inputs, batch.get("lengths")), carry
        return self.model.run(inputs, lengths=batch.get("lengths")), carry

    def scores(self, batch, outputs):
        batch, logits = Batch(**batch), outputs.logits
        if self.config.task.every_step:  # a model may have logits only for the last steps
            steps = logits.shape[0] or tf.shape(logits)[0]
            targets, mask = batch.targets[-steps:], None if batch.mask is None else batch.mask[-steps:]
            batch = batch._replace(targets=targets, mask=mask)
        scores = self.config.task.scores(logits, batch)
        loss, count = scores["loss"]
        match self.config.loss_reduction:
            case "sum":
                scores["loss"] = loss
            case "sequence_sum":
                scores["loss"] = loss / tf.cast(tf.shape(batch.inputs)[1], loss.dtype)
        meta_loss = getattr(outputs.outputs, "meta_loss", None)
        if meta_loss is not None:
            task_loss = scores["loss"]
            loss = loss / count if self.config.loss_reduction == "mean" else task_loss
            meta_loss = self._mean_over_steps(tf.cast(meta_loss, tf.float32), batch.lengths)
            total = loss + self.config.core.meta_weight * meta_loss
            scores |= {"loss": total, "task_loss": task_loss, "meta_loss": meta_loss}
        return scores

    @staticmethod
    def _mean_over_steps(values, lengths):
        """Mean of values [T, B] over the steps that are not padding."""
        if lengths is None:
            return tf.reduce_mean(values)
        read = tf.range(tf.shape(values)[0])[:, tf.newaxis] < lengths
        return tf.reduce_sum(selected(values, read)) / tf.reduce_sum(tf.cast(read, tf.float32))

    # Evaluation

    def _predicted(self, batch):
        outputs, _ = self.forward(batch, self.initial_carry(), training=False)
        return tf.argmax(outputs.logits, -1)

    def predict(self, batch):
        """Predict classes for a batch of numpy arrays; returns a numpy array [T, B]."""
        return self._predict(tf.nest.map_structure(tf.constant, batch)).numpy()

    def evaluation(self):
        """Return None if batches differ in length or weights are selected; `evaluate` then does the uncompiled work."""
        if self.config.task.num_steps is None or self.config.select_by is not None:
            return None
        return super().evaluation()

    def _scored(self):
        config = self.config
        if config.task.num_steps is None:
            return config.task.evaluate(self.predict, "valid", config.batch_size)
        return super().evaluation().scores(self.evaluation_batch)

    def evaluate(self):
        """The scores; keeps the weights where `select_by` is the least so far."""
        scores, name = self._scored(), self.config.select_by
        if name is not None and name not in scores:
            raise ValueError(f"select_by: {name!r}, must be one of {', '.join(scores)}")
        if name is not None and scores[name] < self.best_score.numpy():
            self.best_score.assign(scores[name])
            for best, variable in zip(self.best, self.model.trainable_variables, strict=True):
                best.assign(variable)
        return scores

    def _take_best(self):
        if self.config.select_by is not None and np.isfinite(self.best_score.numpy()):
            for best, variable in zip(self.best, self.model.trainable_variables, strict=True):
                variable.assign(best)

    def variables(self):
        if self.config.select_by is None:
            return super().variables()
        return {**super().variables(), **numbered("best", self.best), "best_score": self.best_score}

    def export(self, folder):
        self._take_best()
        super().export(folder)

    def result(self, evaluation):
        """The scores, of the selected weights where some are, and the task's baselines."""
        config, task = self.config, self.config.task
        self._take_best()
        selected_score = {f"best_{config.select_by}": float(self.best_score.numpy())} if config.select_by else {}
        if task.num_steps is None:
            evaluation = {**task.evaluate(self.predict, "test", config.batch_size), **evaluation}
        elif config.select_by is not None:
            evaluation = self._scored()
        return {**evaluation, **selected_score, **task.baselines(self._evaluation_batches())}

    def _evaluation_batches(self):
        if self.config.task.num_steps is None:
            return
        for number in range(self.config.eval_batches):
            yield Batch(**{name: value.numpy() for name, value in self.evaluation_data(number).items()})
