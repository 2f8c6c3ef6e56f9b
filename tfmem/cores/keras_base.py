"""What all Keras cells of this package share: the core contract of `tfmem.cores.base`, as a Keras layer.

A cell maps `(inputs [B, features], states) -> (output, next states)`; its state is a NamedTuple. As for Sonnet cores,
`project_inputs` does for any leading dimensions what does not depend on the state, and `step` the rest.
"""

import keras
import tensorflow as tf

from tfmem.cores.base import is_integer, matmul
from tfmem.recurrence import checked_inputs, same_batch


class Cell(keras.layers.Layer):
    """A recurrent cell whose `call` is `step(project_inputs(inputs), states)`.

    Subclasses have `state_size` (nest of tf.TensorShape without the batch), `output_size`, `build`, `project_inputs`,
    `step`, `get_initial_state` and `get_config`.
    """

    input_layout = "features"  # the axes of an input behind the batch

    def ensure_built(self, inputs):
        """Makes the variables on the first call of `project_inputs`, where that is not `call` but an unroll."""
        if not self.built:
            self.build(inputs.shape)

    def call(self, inputs, states, training=False):
        # keras.layers.RNN turns the NamedTuple into a tuple.
        inputs = checked_inputs(self, inputs, states)
        states = same_batch(inputs, tf.nest.pack_sequence_as(self.state_size, tf.nest.flatten(states)))
        return self.step(self.project_inputs(inputs), states)

    def zero_state(self, batch_size, dtype):
        """Zeros in the shapes of `state_size`."""
        dtype = dtype or self.compute_dtype
        return tf.nest.map_structure(lambda shape: tf.zeros([batch_size, *shape], dtype), self.state_size)


def linear(inputs, kernel, bias=None):
    """`inputs kernel + bias` on the last axis, in the dtype of the inputs."""
    outputs = matmul(inputs, kernel)
    return outputs if bias is None else outputs + tf.cast(bias, inputs.dtype)


def tile_batch(variable, batch_size, dtype):
    """A variable [...] repeated to [batch_size, ...]."""
    value = tf.cast(variable, dtype)
    return tf.tile(value[tf.newaxis], [batch_size] + [1] * value.shape.rank)


def check_positive(**arguments):
    for name, value in arguments.items():
        if not is_integer(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
