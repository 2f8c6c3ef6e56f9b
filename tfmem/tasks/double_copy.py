"""Double copy (Munkhdalai et al. 2019, §4.1, App. A): repeat a random sequence of characters twice.

    step          0..l-1   l     l+1..2l   2l+1..3l
    input         x        end   ?         ?
    target        0        0     x         x
    mask          0        0     1         1

The paper has l = 50 and ten characters, drawn with replacement. End mark and placeholder: not specified; we use
those of its dictionary inference.
"""

import dataclasses

import tensorflow as tf

from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_range


@dataclasses.dataclass(frozen=True)
class DoubleCopy(Task):
    """Batches of the double copy task.

    Args:
      length: l, characters of the sequence.
      num_characters: different characters, from 0; the end mark follows them, then the placeholder.

    Raises:
      ValueError: a size is less than one, or an array would be too large.
    """

    length: int = 50
    num_characters: int = 10

    def __post_init__(self):
        for name in ("length", "num_characters"):
            check_range(name, getattr(self, name), 1)
        check_array(self.num_steps, length=self.length)
        check_array(self.input_size, num_characters=self.num_characters)

    @property
    def num_steps(self):
        return 3 * self.length + 1

    @property
    def input_size(self):
        """Different inputs: characters, end mark, placeholder."""
        return self.num_characters + 2

    @property
    def output_size(self):
        """Different targets: characters."""
        return self.num_characters

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2]: tokens and classes (0 where the mask is 0)."""
        shape = [self.length, batch_size]
        return self.batch(tf.random.stateless_uniform(shape, seed, 0, self.num_characters, tf.int32, alg="philox"))

    def batch(self, characters):
        """The `Batch` of given characters, int32 [l, B]."""
        end, placeholder = self.num_characters, self.num_characters + 1
        twice = tf.concat([characters, characters], axis=0)
        before = [[self.length + 1, 0], [0, 0]]
        return Batch(
            inputs=tf.concat(
                [characters, tf.fill(tf.shape(characters[:1]), end), tf.fill(tf.shape(twice), placeholder)], axis=0
            ),
            targets=tf.pad(twice, before),
            mask=tf.pad(tf.ones(tf.shape(twice)), before),
        )
