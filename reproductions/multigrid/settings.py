"""Settings that experiments share (Huynh et al. 2020, Table 2; supplement B.2).

P-App below is the paper's supplement, CODE is github.com/trihuynh88/multigrid_mem, DNC is google-deepmind/dnc. The loss
is the cross entropy summed over batch and answers (P-App B.2.2; CODE sums); `error` is the fraction of wrong bits or
classes.
"""

import dataclasses
from typing import ClassVar

from tfmem.cores.config import DNCConfig, LSTMConfig
from tfmem.optimizers import OptimizerName
from tfmem.training import SequenceConfig
from tfmem.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicCodeConfig(SequenceConfig):
    """The training of the public code's two experiments, mapping and mnist_recall."""

    peepholes: bool = False
    """Peephole connections. Paper: yes (equations). Public code: no."""
    batch_size: int = 32
    """Mazes or sequences of an update. Public code: 32 (BATCH_SIZE)."""
    optimizer: OptimizerName = "tf1_rmsprop"
    """Optimizer. Public code: TF 1's RMSProp, momentum 0, with the two constants below."""
    rms_decay: float = 0.99
    """Decay of the mean square. Public code: 0.99."""
    epsilon: float | None = 0.1
    """Epsilon of the optimizer. Public code: 0.1."""
    learning_rate: float = 1e-3
    """Learning rate at the start. Public code: 1e-3 (INITIAL_ALPHA)."""
    final_learning_rate: float = 1e-4
    """Learning rate after decay_steps. Public code: 1e-4 (END_ALPHA)."""
    decay_steps: int = 1_000_000
    """Steps of a maze, or images per sequence, of the linear decay. Public code: 1e6 (END_DECAY_TIME)."""

    supports_mixed_precision: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_range("decay_steps", self.decay_steps, 1)
        check_range("final_learning_rate", self.final_learning_rate, 0)


LOSS = dict(loss_reduction="sum")
PAPER = dict(
    **LOSS,
    batch_size=32,  # CODE
    optimizer="tf1_rmsprop",  # CODE: decay 0.99, momentum 0, epsilon 0.1
    rms_decay=0.99,
    epsilon=0.1,
    learning_rate=1e-3,  # CODE
    final_learning_rate=1e-4,  # CODE, END_ALPHA
    decay_updates=100_000,  # CODE, MNIST recall: 1e6 images, 10 to an update
    gradient_norm_clip=1e5,  # CODE, MNIST recall: of the loss summed over the batch
    num_updates=200_000,  # CODE, MNIST recall
    updates_per_call=10,
    log_every=50,
    eval_every=5_000,
    eval_batches=100,
    checkpoint_seconds=600.0,
)
# Changes of the baselines.
DNC = dict(
    optimizer="tf1_rmsprop",  # DNC, train.py: learning rate 1e-4, no momentum, epsilon 1e-10
    rms_decay=0.9,
    epsilon=1e-10,
    learning_rate=1e-4,
    final_learning_rate=1e-4,
    gradient_norm_clip=1600.0,  # DNC: 50 for the mean over sequences, here the sum over 32
)
# Not specified; we use Adam. The paper has no LSTM here.
LSTM = dict(optimizer="adam", epsilon=1e-8, learning_rate=1e-3, final_learning_rate=1e-4, gradient_norm_clip=1600.0)
# Not specified; we use fewer items and small networks, for minutes on two CPU cores.
DEMO = dict(
    **LOSS,
    batch_size=64,
    optimizer="adam",
    gradient_norm_clip=1e3,
    updates_per_call=10,
    log_every=20,
    eval_every=200,
    eval_batches=40,
)
SMOKE = dict(
    **LOSS,
    batch_size=2,
    optimizer="tf1_rmsprop",
    rms_decay=0.99,
    epsilon=0.1,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    num_updates=8,
    updates_per_call=2,
    log_every=2,
    checkpoint_every=4,
    eval_batches=2,
)


def paper_dnc(units, answer):
    """DNC baseline of the paper, for answers of size `answer`.

    Paper: 500 slots of 16, four read heads, one write head, as many parameters as the others (P-App C). Not specified:
    the units; `units` gives that number of parameters.
    """
    return DNCConfig(memory_size=500, word_size=16, num_reads=4, hidden_size=units, output_size=answer)


def demo_dnc(answer):
    """Small DNC for answers of size `answer`."""
    return DNCConfig(memory_size=32, word_size=16, num_reads=1, hidden_size=64, output_size=answer)


DEMO_LSTM = LSTMConfig(units=64)
