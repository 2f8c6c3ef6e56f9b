"""Recurrent network with differentiable plasticity (Miconi, Clune and Stanley 2018, arXiv 1804.02464).

Each recurrent connection has a fixed weight w and a plastic part, alpha times a Hebbian trace that is the memory:

    y_j(t) = tanh( sum_i (w_ij + alpha_ij Hebb_ij(t)) y_i(t-1) + sum_k V_kj x_k(t) + b_j )      (1)
    decay: Hebb_ij(t+1) = (1 - eta) Hebb_ij(t) + eta y_i(t-1) y_j(t)                            (2)
    Oja:   Hebb_ij(t+1) = Hebb_ij(t) + eta y_j(t) (y_i(t-1) - y_j(t) Hebb_ij(t))                (3)

w, alpha and the scalar eta are trained. In the homogeneous network all connections share one alpha. Public code:
uber-research/differentiable-plasticity, simple/full.py and omniglot/omniglot.py. Initial values are from there:
w ~ N(0, 0.01), alpha ~ U(0, 0.01) (homogeneous: 0.01), eta = 0.01. The input's map with bias is that of maze/maze.py.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.keras_base import Cell, drop, linear
from tfmem.validation import check_choice, check_positive


class PlasticState(NamedTuple):
    hidden: tf.Tensor  # y(t): [B, units]
    hebb: tf.Tensor  # Hebb_ij: [B, units (from i), units (to j)]


@keras.saving.register_keras_serializable(package="tfmem")
class PlasticRNN(Cell):
    """Recurrent layer with Hebbian traces, the baseline of the maze experiments of Munkhdalai et al. 2019 (§4.3).

    Input [B, features]; output y(t) [B, units]; state: `PlasticState`, zero at first.

    Args:
      units: number of neurons.
      rule: "hebb" (decay, Eq. 2) or "oja" (Eq. 3). Default "hebb".
      homogeneous: share one alpha among all connections. Default False.
      initial_eta: initial value of the plasticity rate eta. Default 0.01.
      **kwargs: initializers, regularizers, constraints, dropout (`tfmem.cores.keras_base`); "recurrent" is w.

    Raises:
      ValueError: units is not a positive integer, or rule is not one of the two.
    """

    def __init__(self, units, rule="hebb", homogeneous=False, initial_eta=0.01, **kwargs):
        super().__init__(**kwargs)
        check_positive(units=units)
        check_choice("rule", rule, ("hebb", "oja"))
        self.units = int(units)
        self.rule = rule
        self.homogeneous = homogeneous
        self.initial_eta = initial_eta

    @property
    def state_size(self):
        return PlasticState(tf.TensorShape([self.units]), tf.TensorShape([self.units, self.units]))

    @property
    def output_size(self):
        return self.units

    def build(self, input_shape):
        square = (self.units, self.units)
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="glorot_uniform", role="kernel", name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", role="bias", name="bias")
        self.w = self.add_weight(
            shape=square, initializer=keras.initializers.RandomNormal(stddev=0.01), role="recurrent", name="w"
        )
        if self.homogeneous:
            self.alpha = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.01), name="alpha")
        else:
            uniform = keras.initializers.RandomUniform(0.0, 0.01)
            self.alpha = self.add_weight(shape=square, initializer=uniform, name="alpha")
        self.eta = self.add_weight(shape=(), initializer=keras.initializers.Constant(self.initial_eta), name="eta")

    def get_initial_state(self, batch_size=None, dtype=None):
        return self.zero_state(batch_size, dtype)

    def project_inputs(self, inputs):
        """Contribution of the inputs to every neuron: [..., units]."""
        self.ensure_built(inputs)
        return linear(inputs, self.kernel, self.bias)

    def step(self, projected, states, mask=None):
        before, hebb = states
        w, alpha, eta = (tf.cast(v, hebb.dtype) for v in (self.w, self.alpha, self.eta))
        # (1)
        hidden = tf.tanh(tf.einsum("bi,bij->bj", drop(before, mask), w + alpha * hebb) + projected)
        # (2), (3)
        pre, post = before[:, :, tf.newaxis], hidden[:, tf.newaxis, :]
        if self.rule == "hebb":
            hebb = (1.0 - eta) * hebb + eta * pre * post
        else:
            hebb += eta * post * (pre - post * hebb)
        return hidden, PlasticState(hidden, hebb)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "rule": self.rule,
            "homogeneous": self.homogeneous,
            "initial_eta": self.initial_eta,
        }
