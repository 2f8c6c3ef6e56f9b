"""Nth farthest (Santoro et al. 2018, §4.1 and appendix A.1): the vector that is nth farthest from vector m.

    row t of a sequence     (x_t; l_t; n; m)     x_t uniform in (-1, 1), its label l_t, n and m one-hot
    target                  the label of the vector that is nth farthest (Euclidean) from the vector with label m

Labels are a random permutation, not the order in which the vectors come. n = 1 is the farthest; vector m itself is
among the candidates, at distance 0, so n = N always asks for m.
"""

import dataclasses

import tensorflow as tf

from tfmem.losses.sequence import accuracy, cross_entropy
from tfmem.tasks.base import Batch, Task
from tfmem.validation import check_array, check_range


@dataclasses.dataclass(frozen=True)
class NthFarthest(Task):
    """Batches of the task, drawn in the graph.

    Args:
      num_objects: N, vectors of a sequence.
      num_features: F, their size.
      public_example: the variant of Sonnet 1's examples/dataset_nth_farthest.py: n counts from the nearest (0 is m
        itself), and rows are (vector; label; m; n). Not the task of the paper.

    Raises:
      ValueError: a size is less than one, or an array would be too large.
    """

    num_objects: int = 8
    num_features: int = 16
    public_example: bool = False

    def __post_init__(self):
        for name in ("num_objects", "num_features"):
            check_range(name, getattr(self, name), 1)
        sizes = {name: getattr(self, name) for name in ("num_objects", "num_features")}
        check_array(self.num_objects, self.input_size, **sizes)

    every_step = False

    @property
    def num_steps(self):
        return self.num_objects

    @property
    def input_size(self):
        return self.num_features + 3 * self.num_objects

    @property
    def output_size(self):
        return self.num_objects

    def scores(self, logits, batch):
        """Compute cross entropy and accuracy."""
        return {"loss": cross_entropy(logits, batch.targets), "accuracy": accuracy(logits, batch.targets)}

    def baselines(self, batches):
        """Return the accuracy without the vectors: m if n asks for m, else any other label."""
        return {"guess_accuracy": min(2 / self.num_objects, 1.0)}

    def __call__(self, seed, batch_size):
        """Draw the `Batch` of `seed`, int32 or int64 [2]: inputs [N, B, F + 3 N], targets [B] from 0 to N - 1."""
        vector_seed, order_seed, n_seed, m_seed = tf.unstack(tf.random.split(seed, 4, alg="philox"))
        batch, count = batch_size, self.num_objects

        def integers(seed, shape, high):  # TF 2.21: integers are the same under XLA and without, floats are not
            return tf.random.stateless_uniform(shape, seed, 0, high, tf.int32, alg="philox")

        def uniform(seed, shape):
            return tf.cast(integers(seed, shape, 2**24), tf.float32) / 2**23 - 1.0

        vectors = uniform(vector_seed, [batch, count, self.num_features])
        order = tf.argsort(uniform(order_seed, [batch, count]))
        return self.batch(vectors, order, integers(n_seed, [batch], count), integers(m_seed, [batch], count))

    def batch(self, vectors, order, n, m):
        """Make the batch of given vectors.

        Args:
          vectors: float32 [B, N, F], by label.
          order: int32 [B, N], the labels in the order of their vectors.
          n, m: int32 [B], from 0: n = 0 is the farthest (`public_example`: the nearest).

        Returns:
          A `Batch`.
        """
        reference = tf.gather(vectors, m, batch_dims=1)
        distances = tf.reduce_sum(tf.square(vectors - reference[:, tf.newaxis]), -1)
        ranked = tf.argsort(distances, direction="ASCENDING" if self.public_example else "DESCENDING", stable=True)
        labels = tf.gather(ranked, n, batch_dims=1)

        def one_hot(index):
            return tf.one_hot(index, self.num_objects)

        def in_every_row(row):
            return tf.repeat(row[:, tf.newaxis], self.num_objects, axis=1)

        question = [m, n] if self.public_example else [n, m]
        rows = [tf.gather(vectors, order, batch_dims=1), one_hot(order), *(in_every_row(one_hot(q)) for q in question)]
        return Batch(tf.transpose(tf.concat(rows, -1), [1, 0, 2]), labels)
