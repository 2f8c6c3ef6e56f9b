"""Dictionary inference (Munkhdalai et al. 2019, §4.1, App. A): translate a word after k examples of the language.

Every episode divides the 26 letters into 13 source and 13 target letters and draws a bijection F between them. Its
support set shows k words of l source letters (drawn with replacement), each with its translation letter by letter;
then comes a new word of letters that the support set has shown, to be translated:

    observation   w_1..w_l / F(w_1)..F(w_l) ,   k times, the last time with ";" for ","    q_1..q_l /   ? .. ?
    target                                                                                              F(q_1)..F(q_l)
    mask          0                                                                        0            1

The paper names these four special characters (end of a sequence, example separator, end of the support set,
placeholder for the target). Their places: not specified; we use those above. The query's letters: not specified; we
use uniform draws from the different letters shown. The query is "previously unseen": a word of the support set is
drawn again, up to QUERY_DRAWS times. With l = 1 there is no unseen word, and the query is a letter of the support set.
"""

import dataclasses

import tensorflow as tf

from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_range

NUM_LETTERS = 26
NUM_PAIRS = NUM_LETTERS // 2
END_OF_SEQUENCE, SEPARATOR, END_OF_SUPPORT, PLACEHOLDER = range(NUM_LETTERS, NUM_LETTERS + 4)
QUERY_DRAWS = 4


@dataclasses.dataclass(frozen=True)
class DictionaryInference(Task):
    """Batches of the dictionary inference task.

    Args:
      support_size: k, examples of the support set.
      length: l, letters of a word.
      new_alphabets: each episode draws the source letters; else they are a to m, and only F is drawn.

    Raises:
      ValueError: a size is less than one, or an array would be too large.
    """

    support_size: int = 4
    length: int = 1
    new_alphabets: bool = True

    def __post_init__(self):
        for name in ("support_size", "length"):
            check_range(name, getattr(self, name), 1)
        sizes = {name: getattr(self, name) for name in ("support_size", "length")}
        check_array(self.support_size + 1, self.length, max(QUERY_DRAWS, NUM_PAIRS), **sizes)

    @property
    def num_steps(self):
        """T: an example takes 2l + 2 steps, the query 2l + 1."""
        return (self.support_size + 1) * (2 * self.length + 2) - 1

    @property
    def input_size(self):
        """Different inputs: letters and special characters."""
        return NUM_LETTERS + 4

    @property
    def output_size(self):
        """Different targets: letters."""
        return NUM_LETTERS

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2]: tokens and classes (0 where the mask is 0)."""
        letters_seed, support_seed, query_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))

        def integers(seed, shape, high=tf.int32.max):  # floats would differ between the plain graph and XLA
            return tf.random.stateless_uniform([batch_size, *shape], seed, 0, high, tf.int32, alg="philox")

        if self.new_alphabets:
            letters = tf.reshape(tf.argsort(integers(letters_seed, [NUM_LETTERS])), [-1, 2, NUM_PAIRS])
        else:
            shuffled = tf.argsort(integers(letters_seed, [NUM_PAIRS]))
            letters = tf.stack([tf.zeros_like(shuffled) + tf.range(NUM_PAIRS), NUM_PAIRS + shuffled], axis=1)
        support = integers(support_seed, [self.support_size, self.length], NUM_PAIRS)
        # The largest of random numbers of the shown letters: a uniform choice among them.
        shown = tf.reduce_any(support[..., tf.newaxis] == tf.range(NUM_PAIRS), axis=[1, 2])
        noise = integers(query_seed, [QUERY_DRAWS, self.length, NUM_PAIRS])
        draws = tf.where(shown[:, tf.newaxis, tf.newaxis], noise, -1)
        draws = tf.argmax(draws, axis=-1, output_type=tf.int32)
        seen = tf.reduce_any(tf.reduce_all(draws[:, :, tf.newaxis] == support[:, tf.newaxis], axis=-1), axis=-1)
        first_unseen = tf.argmin(tf.cast(seen, tf.int32), axis=1)
        return self.batch(letters, support, tf.gather(draws, first_unseen, batch_dims=1))

    def batch(self, letters, support, query):
        """The batch of given episodes.

        Args:
          letters: int32 [B, 2, 13]: the source letters, from 0 to 25, and the letter that F gives for each.
          support: int32 [B, k, l] of numbers from 0 to 12, the places of the words' letters in `letters`.
          query: int32 [B, l], likewise.

        Returns:
          A `Batch`.
        """
        batch_size = tf.shape(query)[0]

        def words(places):  # their source and target letters
            flat = tf.reshape(places, [batch_size, -1])
            return [tf.reshape(tf.gather(letters[:, i], flat, batch_dims=1), tf.shape(places)) for i in (0, 1)]

        def mark(character, *shape):
            return tf.fill([batch_size, *shape], character)

        source, target = words(support)
        ends = tf.concat([mark(SEPARATOR, self.support_size - 1, 1), mark(END_OF_SUPPORT, 1, 1)], axis=1)
        examples = tf.concat([source, mark(END_OF_SEQUENCE, self.support_size, 1), target, ends], axis=-1)
        question, answer = words(query)
        inputs = tf.concat(
            [
                tf.reshape(examples, [batch_size, self.support_size * (2 * self.length + 2)]),
                question,
                mark(END_OF_SEQUENCE, 1),
                mark(PLACEHOLDER, self.length),
            ],
            axis=1,
        )
        before = self.num_steps - self.length
        return Batch(
            inputs=tf.transpose(inputs),
            targets=tf.pad(tf.transpose(answer), [[before, 0], [0, 0]]),
            mask=tf.pad(tf.ones([self.length, batch_size]), [[before, 0], [0, 0]]),
        )
