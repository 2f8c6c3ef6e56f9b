"""Cores of the table that are not the package's: the smallest one of each framework with a tensor-shaped state, and a
DNC whose memory has been used."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmem.cores.base import Linear, RNNCore, check_features
from tfmem.cores.dnc import DNC


class ToyState(NamedTuple):
    slots: tf.Tensor  # [B, 2, units], starts at one
    steps: tf.Tensor  # int32 [B]


class ToyOutput(NamedTuple):
    value: tf.Tensor  # [B, units]
    slots: tf.Tensor  # [B, 2, units]


def toy_step(projected, recurrent, state):
    """slots' = 0.9 slots + tanh(x W + slots U), with the output of the first slot and of all of them."""
    slots = 0.9 * state.slots + tf.tanh(projected[:, tf.newaxis] + recurrent)
    return ToyOutput(slots[:, 0], slots), ToyState(slots, state.steps + 1)


class SonnetToy(RNNCore):
    def __init__(self, units, options, w_init=None, name=None):
        super().__init__(name=name)
        if units < 1:
            raise ValueError(f"units is {units!r}, it must be a positive integer")
        self.units = units
        self.options = options
        self.w_init = w_init
        self.inputs = Linear(units, w_init=w_init, name="inputs")
        self.recurrent = Linear(units, with_bias=False, name="recurrent")

    state_size = property(lambda self: ToyState(tf.TensorShape([2, self.units]), tf.TensorShape([])))
    output_size = property(lambda self: ToyOutput(tf.TensorShape([self.units]), tf.TensorShape([2, self.units])))

    def initial_state(self, batch_size, dtype=tf.float32):
        return ToyState(tf.ones([batch_size, 2, self.units], dtype), tf.zeros([batch_size], tf.int32))

    def project_inputs(self, inputs):
        self.recurrent.initialize(self.units, inputs.dtype)
        return self.inputs(inputs)

    def step(self, projected, state):
        return toy_step(projected, self.recurrent(state.slots), state)


@keras.saving.register_keras_serializable(package="tfmem_tests")
class KerasToy(keras.layers.Layer):
    """Two inputs [B, features], summed: the smallest pyramid."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units is {units!r}, it must be a positive integer")
        self.units = units

    state_size = property(lambda self: ToyState(tf.TensorShape([2, self.units]), tf.TensorShape([])))
    output_size = property(lambda self: ToyOutput(tf.TensorShape([self.units]), tf.TensorShape([2, self.units])))

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[0][-1], self.units))
        self.recurrent_kernel = self.add_weight(name="recurrent_kernel", shape=(self.units, self.units))

    def get_initial_state(self, batch_size=None):
        return ToyState(tf.ones([batch_size, 2, self.units], self.compute_dtype), tf.zeros([batch_size], tf.int32))

    def project_inputs(self, inputs):
        inputs = inputs[0] + inputs[1]
        check_features(inputs, self.kernel.shape[0])
        return tf.matmul(inputs, tf.cast(self.kernel, inputs.dtype))

    def step(self, projected, states):
        return toy_step(projected, tf.matmul(states.slots, tf.cast(self.recurrent_kernel, projected.dtype)), states)

    def call(self, inputs, states, training=False):
        return self.step(self.project_inputs(inputs), states)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class UsedDNC(DNC):
    """A DNC that starts from a memory in use.

    From zeros all unwritten slots tie, and which one of them is written next is a matter of rounding.
    """

    def initial_state(self, batch_size, dtype=tf.float32):
        state = super().initial_state(batch_size, dtype)
        access = state.access_state
        slots, words = access.memory.shape[1:]
        usage = tf.linspace(tf.constant(0.1, dtype), 0.8, slots)
        memory = tf.reshape(tf.sin(tf.range(1.0, slots * words + 1)), [slots, words])
        return state._replace(
            access_state=access._replace(
                usage=access.usage + tf.cast(usage, dtype), memory=access.memory + tf.cast(memory, dtype)
            )
        )
