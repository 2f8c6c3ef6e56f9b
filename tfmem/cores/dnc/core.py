"""Differentiable neural computer (Graves et al. 2016): controller and memory access.

    controller    h_t, c_t = controller([x_t; reads_{t-1}], h_{t-1}, c_{t-1}), clipped to ±clip_value
    access        reads_t = access(W_ξ h_t)
    output        y_t = W_y [h_t; reads_t], clipped

Faithful to google-deepmind/dnc, dnc.py, with the LSTM of Sonnet 1 as its controller; deeper and feed-forward
controllers follow the paper's Methods ("Controller network").
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import Linear, RNNCore, lstm_update
from tfmem.cores.dnc.access import AccessState, MemoryAccess
from tfmem.validation import positive_int


class DNCState(NamedTuple):
    """access_output [B, R, W], `AccessState`, and the controller's state (see `DNC`)."""

    access_output: tf.Tensor
    access_state: AccessState
    controller_state: Any


class LSTMController(snt.Module):
    """Stack of LSTM layers; each gets the input and the layer below, and the output holds all hidden states.

    (i, j, f, o) = W [x_t; reads_{t-1}; h^{l-1}_t; h^l_{t-1}] + b,    c_t = σ(f + 1) c_{t-1} + σ(i) tanh(j),
    h_t = tanh(c_t) σ(o). W's rows for x_t are in `inputs`, the others in `recurrent`.
    """

    def __init__(self, hidden_size, num_layers, name="lstm"):
        super().__init__(name=name)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.output_size = hidden_size * num_layers

    @property
    def state_size(self):
        layer = snt.LSTMState(tf.TensorShape([self.hidden_size]), tf.TensorShape([self.hidden_size]))
        return layer if self.num_layers == 1 else (layer,) * self.num_layers

    @snt.once
    def initialize(self, input_size, read_size, dtype):
        self.inputs, self.recurrent = [], []
        for layer in range(self.num_layers):
            recurrent_size = read_size + self.hidden_size * min(layer + 1, 2)
            init = snt.initializers.TruncatedNormal(stddev=(input_size + recurrent_size) ** -0.5)  # also of the bias
            self.inputs.append(Linear(4 * self.hidden_size, w_init=init, b_init=init, name=f"inputs_{layer}"))
            self.recurrent.append(Linear(4 * self.hidden_size, False, w_init=init, name=f"recurrent_{layer}"))
            self.inputs[-1].initialize(input_size, dtype)
            self.recurrent[-1].initialize(recurrent_size, dtype)

    def project_inputs(self, inputs):
        """Contribution of the inputs to each layer's gates."""
        return tuple(layer(inputs) for layer in self.inputs)

    def step(self, projected, reads, state):
        outputs, states = [], []
        layer_states = (state,) if self.num_layers == 1 else state
        for gates, recurrent, (hidden, cell) in zip(projected, self.recurrent, layer_states, strict=True):
            below = [reads, *outputs[-1:], tf.cast(hidden, gates.dtype)]
            states.append(lstm_update(gates + recurrent(tf.concat(below, axis=-1)), tf.cast(cell, gates.dtype)))
            outputs.append(states[-1].hidden)
        return tf.concat(outputs, axis=-1), states[0] if self.num_layers == 1 else tuple(states)


class FeedForwardController(snt.Module):
    """Stack of stateless layers `relu(W x + b)` over [x_t; reads_{t-1}]."""

    def __init__(self, hidden_size, num_layers, name="feedforward"):
        super().__init__(name=name)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.output_size = hidden_size
        self.state_size = ()
        self.layers = [Linear(hidden_size, name=f"layer_{i}") for i in range(1, num_layers)]

    @snt.once
    def initialize(self, input_size, read_size, dtype):
        init = snt.initializers.TruncatedNormal(stddev=(input_size + read_size) ** -0.5)
        self.inputs = Linear(self.hidden_size, w_init=init, name="inputs")
        self.reads = Linear(self.hidden_size, with_bias=False, w_init=init, name="reads")
        self.inputs.initialize(input_size, dtype)
        self.reads.initialize(read_size, dtype)
        for layer in self.layers:
            layer.initialize(self.hidden_size, dtype)

    def project_inputs(self, inputs):
        """Contribution of the inputs to the first layer."""
        return self.inputs(inputs)

    def step(self, projected, reads, state):
        output = tf.nn.relu(projected + self.reads(reads))
        for layer in self.layers:
            output = tf.nn.relu(layer(output))
        return output, state


CONTROLLERS = {"lstm": LSTMController, "feedforward": FeedForwardController}


class DNC(RNNCore):
    """Differentiable neural computer: a controller network with an external memory.

    Maps inputs [B, I] and a `DNCState` to (output [B, output_size], next state). Equal slots are allocated in the order
    of their index: an empty memory is filled from slot 0 on, up to rounding.

    Args:
      access_config: arguments of `MemoryAccess`: memory_size (slots, default 128), word_size (default 20), num_reads
        and num_writes (heads, default 1).
      controller_config: `hidden_size` (units of each layer); `type`, "lstm" (default) or "feedforward"; `num_layers`
        (default 1). Public code: only the one-layer LSTM. `controller_state` is an `snt.LSTMState` for one LSTM
        layer, a tuple of them for more, and () for the feed-forward controller.
      output_size: size of the last axis of the output.
      clip_value: bound ±clip_value of the controller's output and state and of the core's output; None or 0 for no
        clipping.

    Raises:
      ValueError: an argument or the shape of inputs or state is not as above.
    """

    input_layout = "features"

    def __init__(self, access_config, controller_config, output_size, clip_value=None, name="dnc"):
        super().__init__(name=name)
        _check_keys("access_config", access_config, ["memory_size", "word_size", "num_reads", "num_writes"])
        _check_keys("controller_config", controller_config, ["hidden_size", "num_layers", "type"], ["hidden_size"])
        if clip_value is not None and not clip_value >= 0:
            raise ValueError(f"clip_value: {clip_value!r}, must be None or at least 0")
        kind = controller_config.get("type", "lstm")
        if kind not in CONTROLLERS:
            raise ValueError(f"controller_config: type {kind!r}, must be one of {sorted(CONTROLLERS)}")
        self.controller = CONTROLLERS[kind](
            positive_int("hidden_size", controller_config["hidden_size"]),
            positive_int("num_layers", controller_config.get("num_layers", 1)),
        )
        self.access = MemoryAccess(**access_config)
        self.output_size = positive_int("output_size", output_size)
        self.clip_value = clip_value
        self.output_linear = Linear(output_size, name="output_linear")

    @property
    def access_config(self):
        a = self.access
        return dict(memory_size=a.memory_size, word_size=a.word_size, num_reads=a.num_reads, num_writes=a.num_writes)

    @property
    def controller_config(self):
        kind = next(name for name, cls in CONTROLLERS.items() if type(self.controller) is cls)
        return dict(type=kind, hidden_size=self.controller.hidden_size, num_layers=self.controller.num_layers)

    @property
    def state_size(self):
        return DNCState(self.access.output_size, self.access.state_size, self.controller.state_size)

    def initial_state(self, batch_size, dtype=tf.float32):
        """State of zeros."""
        return tf.nest.map_structure(lambda shape: tf.zeros([batch_size, *shape], dtype), self.state_size)

    @snt.once
    def _initialize(self, input_size, dtype):
        read_size = self.access.output_size.num_elements()
        self._input_size = input_size
        self.controller.initialize(input_size, read_size, dtype)
        self.access.interface.initialize(self.controller.output_size, dtype)
        self.output_linear.initialize(self.controller.output_size + read_size, dtype)

    def project_inputs(self, inputs):
        """Contribution of inputs [..., I] to the controller's first product."""
        inputs = tf.convert_to_tensor(inputs)
        if inputs.shape.rank is None or inputs.shape.rank < 2 or inputs.shape[-1] is None:
            raise ValueError(f"inputs: shape {inputs.shape}, must be [..., B, I] with I known")
        self._initialize(inputs.shape[-1], inputs.dtype)
        if inputs.shape[-1] != self._input_size:
            raise ValueError(f"inputs: shape {inputs.shape}, must have a last axis of {self._input_size}")
        return self.controller.project_inputs(inputs)

    def step(self, projected, state):
        _check_state(state, self.state_size)
        dtype = tf.nest.flatten(projected)[0].dtype
        flat = [-1, self.access.output_size.num_elements()]
        reads = tf.reshape(tf.cast(state.access_output, dtype), flat)
        controller_output, controller_state = self.controller.step(projected, reads, state.controller_state)
        controller_output, controller_state = tf.nest.map_structure(self._clip, (controller_output, controller_state))

        interface = self.access.project_inputs(controller_output)
        access_output, access_state = self.access.step(interface, state.access_state)

        output_inputs = tf.concat([controller_output, tf.reshape(access_output, flat)], axis=-1)
        output = self._clip(self.output_linear(output_inputs))
        next_state = DNCState(access_output, access_state, controller_state)
        return output, tf.nest.map_structure(lambda n, s: tf.cast(n, s.dtype), next_state, state)

    def _clip(self, x):
        return tf.clip_by_value(x, -self.clip_value, self.clip_value) if self.clip_value else x


def _check_keys(name, config, allowed, required=()):
    must = "".join(f"include {key} and " for key in required) + f"be among {', '.join(allowed)}"
    if not isinstance(config, Mapping):
        raise ValueError(f"{name}: {config!r}, must be a dict, whose keys must {must}")
    if not set(required) <= set(config) <= set(allowed):
        raise ValueError(f"{name}: keys {', '.join(map(repr, config)) or 'none'}, must {must}")


def _check_state(state, state_size):
    tf.nest.assert_same_structure(state, state_size, check_types=False)
    for tensor, size in zip(tf.nest.flatten(state), tf.nest.flatten(state_size), strict=True):
        if not tensor.shape[1:].is_compatible_with(size):
            raise ValueError(f"state: shape {tensor.shape}, must be [B, {', '.join(map(str, size))}]")
