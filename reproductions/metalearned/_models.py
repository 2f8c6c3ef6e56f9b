"""What the algorithmic experiments of Munkhdalai et al. 2019 share: the four models, their loss and their scores.

An input is embedded (d_i numbers), the core gives d_o numbers, a linear map of them the logits (§3.1, "external
modules"). Table 2 and App. A below are the paper's.
"""

import abc
import dataclasses
import functools
from typing import ClassVar, Literal

import tensorflow as tf

from reproductions._sequence import SequenceConfig, SequenceExperiment
from tfmem.cores import LookupMemory, LSTMStack, MetalearnedMemory
from tfmem.losses.sequence import accuracy, cross_entropy, solved
from tfmem.models.sequence import SequenceModel
from tfmem.training import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmicConfig(SequenceConfig, abc.ABC):
    """Fields of the algorithmic experiments; those of the memory are of the MNM, some of the look-up table too."""

    model: Literal["mnm_p", "mnm_g", "lstm", "lstm_salu"] = "mnm_p"
    """MNM with the local or the gradient write, LSTM, LSTM with a look-up table; §4.1 compares these."""
    units: int = 100
    """Hidden units of the controller, d_h; Table 2. Of the LSTM as well; §4.1 does not say."""
    embedding_size: int = 100
    """What an input is embedded to, d_i; Table 2. That it starts as standard normal numbers is our choice."""
    word_size: int = 100
    """Size of keys and values, d_k = d_v; Table 2. Also of the look-up table's; our choice."""
    num_heads: int = 1
    """Keys and values of each kind, H; Table 2."""
    memory_layers: int = 3
    """Layers of the memory; Table 2."""
    memory_size: int = 100
    """Width of the memory's hidden layers, D_l; Table 2."""
    meta_weight: float = 1.0
    """Of the meta loss beside the task's; Eq. 6."""
    recall_delay: int = 0
    """The largest delay of Eq. 5; §3.5."""
    recall_weights: tuple[float, ...] = (1.0,)
    """lambda_0 to lambda_recall_delay of Eq. 5, one more than recall_delay."""
    mean_error: bool = False
    """Whether Eqs. 2 and 5 divide by d_v, as Eq. 9 does; as printed they do not."""
    initial_rate: float = 0.05
    """beta at the start; unknown, our choice: at 1/2 MNM-g diverges, and MNM-p does on long sequences."""
    memory_gain: float = 3**0.5
    """phi_0 is uniform in +-gain/sqrt(fan-in); unknown, our choice: activations keep their size, MNM-g then learns."""
    read_first: bool = False
    """Whether the memory is read before the step's write; the paper says both, our choice."""
    output_activation: Literal["tanh", "linear"] = "tanh"
    """Of the memory's last layer; App. A, tanh."""
    feedback_activation: str = "tanh"
    """Of MNM-p's q^l; unknown, our choice."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("units", "embedding_size", "word_size", "num_heads", "memory_layers", "memory_size"):
            check_range(self, name, 1)
        for name in ("meta_weight", "recall_delay"):
            check_range(self, name, 0)
        if len(self.recall_weights) != self.recall_delay + 1:
            raise ValueError(
                f"recall_weights: {self.recall_weights}, must be recall_delay + 1 = {self.recall_delay + 1} numbers"
            )
        self.data()  # raises where the task's fields are out of range

    @abc.abstractmethod
    def data(self):
        """The task: a function of a seed with num_steps and target_size."""

    def core(self):
        match self.model:
            case "lstm":
                return LSTMStack(self.units, num_layers=1, dtype=self.policy)
            case "lstm_salu":
                return LookupMemory(
                    self.units,
                    self.num_heads,
                    self.word_size,
                    max_steps=self.data().num_steps,
                    dtype=self.policy,
                )
            case "mnm_p" | "mnm_g":
                return MetalearnedMemory(
                    self.units,
                    num_heads=self.num_heads,
                    memory_layers=self.memory_layers,
                    memory_size=self.memory_size,
                    word_size=self.word_size,
                    write="local" if self.model == "mnm_p" else "gradient",
                    read_first=self.read_first,
                    return_meta_loss=True,
                    recall_delay=self.recall_delay,
                    recall_weights=self.recall_weights,
                    mean_error=self.mean_error,
                    output_activation=self.output_activation,
                    feedback_activation=self.feedback_activation,
                    initial_rate=self.initial_rate,
                    memory_gain=self.memory_gain,
                    dtype=self.policy,
                )


PAPER_SETTINGS = dict(
    batch_size=32,  # App. A
    learning_rate=1e-3,  # App. A: Adam's default, as beta_1 = 0.9
    gradient_norm_clip=10.0,  # unknown, our choice: above the norms of training that goes well
    num_updates=100_000,  # unknown, our choice
    updates_per_call=20,
    log_every=100,
    eval_every=1_000,
    checkpoint_seconds=600.0,
)
# Ours: the paper's batch and learning rate with a tenth of the memory's weights. Shorter keys bear a higher rate.
DEMO_SETTINGS = dict(
    units=64,
    word_size=32,
    memory_size=32,
    initial_rate=0.25,
    batch_size=32,
    learning_rate=1e-3,
    gradient_norm_clip=10.0,
    updates_per_call=20,
    log_every=20,
    eval_every=500,
    eval_batches=40,
    jit_compile=True,  # without convolutions it is faster on a CPU
)
TINY = dict(
    units=8,
    embedding_size=4,
    word_size=4,
    memory_size=4,
    memory_layers=2,
    batch_size=2,
    learning_rate=1e-3,
    num_updates=8,
    updates_per_call=2,
    log_every=2,
    checkpoint_every=4,
    eval_batches=2,
)


class AlgorithmicExperiment(SequenceExperiment):
    """`loss` = `task_loss` + meta_weight * `meta_loss` (Eq. 6), each a mean: over what is asked for, and over steps.

    `error` is the share of wrong characters, `unsolved` that of episodes with a wrong one.
    """

    @functools.cached_property
    def data(self):
        return self.config.data()

    def input_size(self):
        return self.data.vocabulary_size

    def make_model(self):
        config = self.config
        model = SequenceModel(
            config.core(),
            self.data.target_size,
            (),
            return_sequences=True,
            embedding_size=config.embedding_size,
            dtype=config.policy,
        )
        model.build((None, None, self.input_size()))
        return model

    def task(self, seed):
        observations, target, mask = self.data(seed)
        return {"inputs": tf.one_hot(observations, self.data.vocabulary_size), "target": target, "mask": mask}

    def task_scores(self, logits, target, mask):
        """`{name: (sum, count)}` with "task_loss"."""
        right, count = accuracy(logits, target, mask)
        answered, episodes = solved(logits, target, mask)
        return {
            "task_loss": cross_entropy(logits, target, mask),
            "error": (count - right, count),
            "unsolved": (episodes - answered, episodes),
        }

    def scores(self, batch, outputs):
        scores = self.task_scores(outputs.logits, batch["target"], batch["mask"])
        loss, count = scores["task_loss"]
        loss /= count
        if self.config.model in ("mnm_p", "mnm_g"):
            scores["meta_loss"] = tf.reduce_mean(tf.cast(outputs.outputs.meta_loss, tf.float32))
            loss += self.config.meta_weight * scores["meta_loss"]
        return {"loss": loss, **scores}
