"""Metalearned Neural Memory (Munkhdalai et al. 2019, arXiv 1907.09720): a memory that is a neural network.

The memory is a feed-forward network f with weights phi_t = {M^l}, one set per sequence of the batch. Reading evaluates
it; writing changes its weights.

    z^l = tanh(M^l z^{l-1}),  z^0 = key                                     §3.2
    v_t^r = mean_i f_{phi_t}(k_{t,i}^r)
    L^up = 1/H sum_i || f_{phi_{t-1}}(k_i^w) - v_i^w ||^2                   (2)
    MNM-g:  M^l <- M^l - beta grad_{M^l} L^up                               (3)
    MNM-p:  M^l <- M^l - beta^l 1/H sum_i (z_i^l - q^l(v_i^w)) (z_i^{l-1})^T    (4)
    L_t^meta = 1/H sum_tau lambda_tau sum_i || f_{phi_t}(k_{t-tau,i}^w) - v_{t-tau,i}^w ||^2    (5), one term of sum_t

Points that the paper leaves open or contradicts; the only public MNM-p is taylorwwebb/emergent_symbols:
  - Order. Paper: its notation writes first and reads phi_t; §3.1's prose reads "previous time steps". Public code:
    writes first. We write first; `read_first=True` is the other order.
  - q^l. Paper: "a simple single-layer MLP with input v^w" (App. A). Public code: linear. Activation not specified; we
    use tanh, the range of the activations that are its targets (`feedback_activation`), and a bias.
  - Eq. 4 over H heads. Not specified; we use their mean, as in Eq. 2.
  - beta^l. Paper: "learned for each layer with the controller or separately". Not specified; we use
    sigmoid(W_beta beta' + b_beta) of the controller's rate vector, with one output per layer.
  - Squared error. Paper: Eqs. 2 and 5 sum over the value's units, Eq. 9 divides by their number. We sum;
    `mean_error=True` divides.
  - beta at the start. Not specified; we use 1/2 (`initial_rate`). A write of rate beta overshoots if beta |z|^2 (MNM-g:
    2 beta |z|^2) is above 2, and after many steps the gradient overflows: long sequences need a lower rate.
  - phi_0. Paper: "a fixed random parameter set". Public code: uniform in +-gain/sqrt(fan-in) with gain 1, which we use
    (`memory_gain`). A gain of sqrt(3) keeps the size of the activations from layer to layer.
  - Last layer. Paper: tanh like the others (App. A), but linear in Eq. 10. Public code: linear. We use tanh;
    `output_activation="linear"` is the other.
"""

import itertools
import math
from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.controller import MemoryController
from tfmem.cores.keras_base import linear, tile_batch
from tfmem.cores.metalearned_scan import MetalearnedScan, Weights, recall_windows, squared_errors
from tfmem.validation import check_above_zero, check_choice, check_positive, is_integer


class RecentWrites(NamedTuple):
    """Last `recall_delay` writes, latest first; zero before the start, where key and value zero have no error."""

    keys: tf.Tensor  # [B, recall_delay, H, word_size]
    values: tf.Tensor  # [B, recall_delay, H, word_size]


class MetalearnedState(NamedTuple):
    hidden: tf.Tensor  # h_t: [B, units]
    cell: tf.Tensor  # [B, units]
    read_out: tf.Tensor  # v_t^r: [B, word_size]
    memory: tuple  # phi_t: M^l [B, out, in] for each layer
    recent: tuple  # RecentWrites, or () if recall_delay is 0


class MetalearnedOutput(NamedTuple):
    output: tf.Tensor  # y_t: [B, output_size]
    meta_loss: tf.Tensor  # L_t^meta: [B]


def activations(memory, keys, output_activation="tanh"):
    """Activations [z^0, ..., z^L] of the memory for keys [B, n, in] (§3.2): a list of [B, n, size]."""
    z = [keys]
    for layer, weights in enumerate(memory, start=1):
        z.append(tf.matmul(z[-1], weights, transpose_b=True))
        if layer < len(memory) or output_activation == "tanh":
            z[-1] = tf.tanh(z[-1])
    return z


def squared_error(memory, keys, values, output_activation="tanh"):
    """Squared errors || f(k_i) - v_i ||^2 of Eqs. 2 and 5: [B, n]."""
    return tf.reduce_sum((activations(memory, keys, output_activation)[-1] - values) ** 2, axis=-1)


def gradient_write(memory, keys, values, rate, output_activation="tanh", scale=1.0):
    """Write of MNM-g: one step of gradient descent on scale * Eq. 2 with rate [B], by explicit back-propagation.

    The equations are written out instead of using a nested tape, so that they work in loops and under XLA. The outer
    gradient flows through them (the second-order terms).

    Args:
      memory: list of M^l [B, out, in].
      keys, values: [B, H, word_size].
      rate: beta [B].
      output_activation: of the last layer, "tanh" or "linear".
      scale: factor of the error, 1/d_v for a mean.

    Returns:
      The new memory, a list of [B, out, in].
    """
    z = activations(memory, keys, output_activation)
    num_heads = keys.shape[1]
    # delta^L = 2/H (z^L - v) sigma'(a^L);  delta^{l-1} = (M^l^T delta^l) sigma'(a^{l-1});  tanh' = 1 - z^2
    # delta includes beta, so that a matrix's gradient is computed, and stored for the outer gradient, only once.
    delta = rate[:, tf.newaxis, tf.newaxis] * (2.0 * scale / num_heads) * (z[-1] - values)
    if output_activation == "tanh":
        delta *= 1.0 - z[-1] ** 2
    written = []
    for layer in reversed(range(len(memory))):
        # dL/dM^l = sum_i delta_i^l (z_i^{l-1})^T
        written.insert(0, memory[layer] - tf.matmul(delta, z[layer], transpose_a=True))
        if layer > 0:
            delta = tf.matmul(delta, memory[layer]) * (1.0 - z[layer] ** 2)
    return tuple(written)


def local_write(memory, keys, targets, rates, output_activation="tanh"):
    """Write of MNM-p: the perceptron rule in each layer (Eq. 4).

    Args:
      memory: list of M^l [B, out, in].
      keys: [B, H, word_size].
      targets: q^l(v^w) of each layer, a list of [B, H, size].
      rates: beta^l [B, L].
      output_activation: of the last layer, "tanh" or "linear".

    Returns:
      The new memory, a list of [B, out, in].
    """
    z = activations(memory, keys, output_activation)
    num_heads = keys.shape[1]
    written = []
    for layer, (weights, target) in enumerate(zip(memory, targets, strict=True)):
        error = rates[:, layer, tf.newaxis, tf.newaxis] / num_heads * (z[layer + 1] - target)
        written.append(weights - tf.matmul(error, z[layer], transpose_a=True))
    return tuple(written)


@keras.saving.register_keras_serializable(package="tfmem")
class MetalearnedMemory(MemoryController):
    """LSTM controller with a metalearned neural memory, MNM-g (`write="gradient"`) or MNM-p (`write="local"`).

    Input [B, features]; output y_t [B, output_size], or with `return_meta_loss` a `MetalearnedOutput` with the step's
    meta loss [B]. Average it over time and batch and add it to the task's loss (Eq. 6: with weight one). State:
    `MetalearnedState`. The memory's weights in it start from fixed random ones: non-trainable weights
    `initial_memory_<l>`, which the constructor creates because the initial state needs them.

    Args:
      units: d_h, width of the controller.
      num_heads: H, interaction vectors of each kind. Default 1 (paper: 1 for the algorithmic tasks, else 3).
      memory_layers: layers of the memory network. Default 3.
      memory_size: D, width of its hidden layers. Default 100.
      word_size: d_k = d_v, size of keys and values. Default 100.
      output_size: d_o. Default: `units`.
      write: "gradient" (MNM-g, Eq. 3) or "local" (MNM-p, Eq. 4). Default "gradient".
      read_first: read the memory before the step's write. Default False.
      learn_initial_memory: train phi_0 (§3.5: it overfits). Default False.
      return_meta_loss: return a `MetalearnedOutput`. Default False.
      recall_delay: largest tau of Eq. 5; needs `return_meta_loss`. Default 0.
      recall_weights: lambda_0 .. lambda_{recall_delay}. Default: all 1.
      mean_error: divide squared errors by d_v, as in Eq. 9. Default False.
      output_activation: of the memory's last layer, "tanh" or "linear". Default "tanh".
      feedback_activation: of q^l (MNM-p), the name of a Keras activation. Default "tanh".
      initial_rate: beta^l at the start of training, between 0 and 1. Default 0.5.
      memory_gain: phi_0 is uniform in +-memory_gain/sqrt(fan-in). Default 1.0.
      **kwargs: initializers, regularizers, constraints, dropout (`tfmem.cores.keras_base`); they do not apply to phi_0.

    Raises:
      ValueError: an argument is out of its range.
    """

    scans_masks = True

    def __init__(
        self,
        units,
        num_heads=1,
        memory_layers=3,
        memory_size=100,
        word_size=100,
        output_size=None,
        write="gradient",
        read_first=False,
        learn_initial_memory=False,
        return_meta_loss=False,
        recall_delay=0,
        recall_weights=None,
        mean_error=False,
        output_activation="tanh",
        feedback_activation="tanh",
        initial_rate=0.5,
        memory_gain=1.0,
        **kwargs,
    ):
        super().__init__(units, num_heads, word_size, output_size, num_others=1, **kwargs)
        check_positive(memory_layers=memory_layers, memory_size=memory_size)
        check_choice("write", write, ("gradient", "local"))
        check_choice("output_activation", output_activation, ("tanh", "linear"))
        if not is_integer(recall_delay, 0):
            raise ValueError(f"recall_delay: {recall_delay!r}, must be an integer of at least 0")
        if recall_delay and not return_meta_loss:
            raise ValueError(f"recall_delay: {recall_delay}, must be 0 if return_meta_loss is False")
        if recall_weights is not None and len(recall_weights) != recall_delay + 1:
            raise ValueError(f"recall_weights: {recall_weights}, must be recall_delay + 1 = {recall_delay + 1} numbers")
        if not 0 < initial_rate < 1:
            raise ValueError(f"initial_rate: {initial_rate}, must be between 0 and 1")
        check_above_zero(memory_gain=memory_gain)
        keras.activations.get(feedback_activation)  # raises for an unknown name
        self.memory_layers = int(memory_layers)
        self.memory_size = int(memory_size)
        self.write = write
        self.read_first = read_first
        self.learn_initial_memory = learn_initial_memory
        self.return_meta_loss = return_meta_loss
        self.recall_delay = int(recall_delay)
        self.recall_weights = (1.0,) * (recall_delay + 1) if recall_weights is None else tuple(recall_weights)
        self.mean_error = mean_error
        self.output_activation = output_activation
        self.feedback_activation = feedback_activation
        self.initial_rate = initial_rate
        self.memory_gain = memory_gain
        self.initial_memory = [
            self.add_weight(
                shape=tuple(shape),
                initializer=keras.initializers.RandomUniform(
                    -memory_gain * shape[1] ** -0.5, memory_gain * shape[1] ** -0.5
                ),
                trainable=learn_initial_memory,
                name=f"initial_memory_{layer}",
            )
            for layer, shape in enumerate(self.memory_shapes)
        ]

    @property
    def memory_shapes(self):
        """Shapes [out, in] of the memory's layers."""
        sizes = [self.word_size, *[self.memory_size] * (self.memory_layers - 1), self.word_size]
        return tuple(tf.TensorShape([out, in_]) for in_, out in itertools.pairwise(sizes))

    @property
    def state_size(self):
        units, word = tf.TensorShape([self.units]), tf.TensorShape([self.word_size])
        writes = tf.TensorShape([self.recall_delay, self.num_heads, self.word_size])
        recent = RecentWrites(writes, writes) if self.recall_delay else ()
        return MetalearnedState(units, units, word, self.memory_shapes, recent)

    @property
    def output_size(self):
        if self.return_meta_loss:
            return MetalearnedOutput(tf.TensorShape([self.output_units]), tf.TensorShape([]))
        return self.output_units

    def build(self, input_shape):
        super().build(input_shape)
        num_rates = 1 if self.write == "gradient" else self.memory_layers
        self.rate_kernel = self.add_weight(
            shape=(self.word_size, num_rates), initializer="glorot_uniform", role="kernel", name="rate_kernel"
        )
        bias = keras.initializers.Constant(math.log(self.initial_rate / (1.0 - self.initial_rate)))
        self.rate_bias = self.add_weight(
            shape=(num_rates,), initializer=bias, role="bias", own_initializer=True, name="rate_bias"
        )
        if self.write == "local":
            size = sum(out for out, _ in self.memory_shapes)
            self.feedback_kernel = self.add_weight(
                shape=(self.word_size, size), initializer="glorot_uniform", role="kernel", name="feedback_kernel"
            )
            self.feedback_bias = self.add_weight(shape=(size,), initializer="zeros", role="bias", name="feedback_bias")

    def get_initial_state(self, batch_size=None, dtype=None):
        state = self.zero_state(batch_size, dtype)
        memory = tuple(tile_batch(m, batch_size, state.hidden.dtype) for m in self.initial_memory)
        return state._replace(memory=memory)

    def update_memory(self, memory, keys, values, rate_vector):
        """Compute phi_t from phi_{t-1}, keys and values [B, H, word_size] and the rate vector beta' [B, word_size]."""
        rates = tf.sigmoid(linear(rate_vector, self.rate_kernel, self.rate_bias))
        if self.write == "gradient":
            return gradient_write(memory, keys, values, rates[:, 0], self.output_activation, self.error_scale)
        targets = keras.activations.get(self.feedback_activation)(
            linear(values, self.feedback_kernel, self.feedback_bias)
        )
        targets = tf.split(targets, [out for out, _ in self.memory_shapes], axis=-1)
        return local_write(memory, keys, targets, rates, self.output_activation)

    def read(self, memory, keys):
        """Mean over heads of the memory's outputs for read keys [B, H, word_size]: [B, word_size]."""
        return tf.reduce_mean(activations(memory, keys, self.output_activation)[-1], axis=1)

    @property
    def error_scale(self):
        return 1.0 / self.word_size if self.mean_error else 1.0

    def meta_loss(self, memory, writes):
        """Meta loss L_t^meta (Eq. 5), [B], of the updated memory on this step's and the recent writes, latest first."""
        keys, values = (tf.reshape(w, [-1, len(self.recall_weights) * self.num_heads, self.word_size]) for w in writes)
        error = squared_error(memory, keys, values, self.output_activation)
        return self.weighted_error(tf.reshape(error, [-1, len(self.recall_weights), self.num_heads]))

    def weighted_error(self, error):
        """Weight the squared errors [..., recall_delay + 1, H] of a step as in Eq. 5: [...]."""
        weights = tf.constant(self.recall_weights, error.dtype)[:, tf.newaxis]
        return tf.reduce_sum(weights * error, axis=[-2, -1]) * (self.error_scale / self.num_heads)

    def step(self, projected, states, mask=None):
        hidden, cell, vectors = self.control(projected, states.hidden, states.cell, states.read_out, mask)
        keys, values = vectors.write_keys, vectors.write_values
        memory = self.update_memory(states.memory, keys, values, vectors.others[:, 0])
        read_out = self.read(states.memory if self.read_first else memory, vectors.read_keys)
        output = self.output(hidden, read_out)
        recent = ()
        if self.return_meta_loss:
            writes = RecentWrites(keys[:, tf.newaxis], values[:, tf.newaxis])
            if self.recall_delay:
                writes = RecentWrites(*(tf.concat(pair, axis=1) for pair in zip(writes, states.recent, strict=True)))
                recent = RecentWrites(writes.keys[:, :-1], writes.values[:, :-1])
            output = MetalearnedOutput(output, self.meta_loss(memory, writes))
        return output, MetalearnedState(hidden, cell, read_out, memory, recent)

    def scan(self, projected, states, valid=None):
        """All steps of projected inputs [T, B, 4 units]: (outputs [T, B, ...], final state). See `metalearned_scan`.

        `valid`, bool [T, B] or [T, 1]: steps that change the state; the others give zeros. None: all.
        """
        if valid is not None:
            projected = tf.where(valid[..., tf.newaxis], projected, tf.zeros_like(projected))
        run = MetalearnedScan(
            self.write == "local",
            self.num_heads,
            self.memory_shapes,
            self.output_activation == "linear",
            self.read_first,
            self.error_scale,
            keras.activations.get(self.feedback_activation),
        )
        weights = [
            self.recurrent_kernel, self.interaction_kernel, self.interaction_bias, self.rate_kernel, self.rate_bias
        ]  # fmt: skip
        weights += [self.feedback_kernel, self.feedback_bias] if self.write == "local" else []
        weights = Weights(*(tf.cast(w, projected.dtype) for w in weights))
        scanned = run(projected, states, weights, valid, keep_chunks=self.return_meta_loss)
        output = self.output(scanned.hidden, scanned.read_out)
        recent = ()
        if self.return_meta_loss:
            _, keys, values = (scanned.vectors[:, :, i * self.num_heads : (i + 1) * self.num_heads] for i in range(3))
            before = states.recent or RecentWrites(*[tf.zeros_like(keys[0][:, tf.newaxis])[:, :0]] * 2)
            writes, recent = zip(*map(lambda w, b: recall_windows(w, b, valid), (keys, values), before), strict=True)
            recent = RecentWrites(*recent) if self.recall_delay else ()
            error = squared_errors(scanned.chunks, *writes, self.output_activation == "linear")
            output = MetalearnedOutput(output, self.weighted_error(error))
        if valid is not None:
            output = tf.nest.map_structure(
                lambda o: tf.where(valid[..., tf.newaxis] if o.shape.rank == 3 else valid, o, tf.zeros_like(o)), output
            )
        state = MetalearnedState(scanned.hidden[-1], scanned.cell, scanned.read_out[-1], scanned.memory, recent)
        return output, state

    def get_config(self):
        return {
            **super().get_config(),
            "memory_layers": self.memory_layers,
            "memory_size": self.memory_size,
            "write": self.write,
            "read_first": self.read_first,
            "learn_initial_memory": self.learn_initial_memory,
            "return_meta_loss": self.return_meta_loss,
            "recall_delay": self.recall_delay,
            "recall_weights": list(self.recall_weights),
            "mean_error": self.mean_error,
            "output_activation": self.output_activation,
            "feedback_activation": self.feedback_activation,
            "initial_rate": self.initial_rate,
            "memory_gain": self.memory_gain,
        }
