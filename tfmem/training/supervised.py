"""Supervised experiments by composition: any core on any task.

    config = SupervisedConfig(
        task=DoubleCopy(length=8), core=DNCConfig(memory_size=64), batch_size=32, learning_rate=1e-3, num_updates=3_000
    )
    tfmem.training.train(SupervisedExperiment(config), "runs/mine")

The model is a `SequenceModel`: the core, and a head on its last output or on every output, as the task asks. Tokens
enter one-hot. A core with a loss of its own (`meta_loss` in its output) adds that, weighted by `core.meta_weight`.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfmem.cores.config import AnyCoreConfig
from tfmem.models.sequence import SequenceModel
from tfmem.tasks.base import Batch, Task
from tfmem.training.experiment import check_range
from tfmem.training.sequence import SequenceConfig, SequenceExperiment
from tfmem.validation import check_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SequenceConfig):
    """A task, a core, and how the model of the core is trained."""

    task: Task
    """What is learned: a `tfmem.tasks.base.Task`."""
    core: AnyCoreConfig
    """The memory: a configuration of `tfmem.cores.config`, or any with its `make`."""
    mlp_sizes: tuple[int, ...] = ()
    """Widths of the ReLU layers between the core's output and the logits."""
    embedding_size: int | None = None
    """Size of a linear map of each input before the core; None: no such map."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if min(self.mlp_sizes, default=1) < 1:
            raise ValueError(f"mlp_sizes: {self.mlp_sizes}, must be at least 1 each")
        if self.embedding_size is not None:
            check_range(self, "embedding_size", 1)
        task = self.task
        check_array(
            task.num_steps,
            self.batch_size,
            max(task.input_size, task.output_size),
            num_steps=task.num_steps,
            batch_size=self.batch_size,
            input_size=task.input_size,
        )


class SupervisedExperiment(SequenceExperiment):
    """The training of a `SupervisedConfig`.

    Scores are the task's. A core with a loss of its own adds `task_loss` and `meta_loss`, whose weighted sum is `loss`.
    """

    name = "supervised"

    def make_model(self):
        config, task = self.config, self.config.task
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

    def task(self, seed):
        batch = self.config.task(seed, self.config.batch_size)
        if batch.inputs.dtype.is_integer:
            batch = batch._replace(inputs=tf.one_hot(batch.inputs, self.config.task.input_size))
        return {name: value for name, value in batch._asdict().items() if value is not None}

    def scores(self, batch, outputs):
        scores = self.config.task.scores(outputs.logits, Batch(**batch))
        meta_loss = getattr(outputs.outputs, "meta_loss", None)
        if meta_loss is not None:
            loss, count = scores["loss"]
            meta_loss = tf.reduce_mean(tf.cast(meta_loss, tf.float32))
            total = loss / count + self.config.core.meta_weight * meta_loss
            scores |= {"loss": total, "task_loss": (loss, count), "meta_loss": meta_loss}
        return scores

    def result(self, evaluation):
        """The scores, and the task's baselines."""
        return {**evaluation, **self.config.task.baselines()}
