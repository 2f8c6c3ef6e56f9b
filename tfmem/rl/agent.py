"""Agents: a torso, any core of `tfmem.cores`, and heads for the policy and the value.

At time t the agent gets the observation, the action and reward before it, and a flag if an episode starts there:

    x_t = [torso(observation_t), reward_t, onehot(action_t)]                the last two are optional
    s_t = initial state if done_t, else the state after step t - 1
    y_t, state = core(x_t, s_t)
    logits_t, value_t = heads(y_t), or heads([y_t, x_t]) with `skip`

Acting (`step`) and learning (`unroll`) run the same code. `unroll` runs the torso and the core's `project_inputs` for
all frames at once, then the core. Public code: scalable_agent (this order; `done` resets the state before a step; the
previous action is never zeroed). Not specified: `skip`; recurrent relational memories learn faster with it.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.keras_base import linear
from tfmem.interop import keras_variable, model_cell
from tfmem.models.belief.agent import FrameEncoder
from tfmem.models.sequence import Head
from tfmem.recurrence import project_inputs, step, unroll
from tfmem.validation import check_choice, check_positive

REWARD_INPUTS = (None, "clipped", "raw")


class AgentOutput(NamedTuple):
    """Output of an agent for frames [B] or [T, B].

    logits: float32 [..., A].
    value: float32 [...].
    last_value: value of the frames at which the episodes ended, [...]; () unless `unroll` gets these frames.
    core: the core's own output, a nest.
    states: the core's states after the frames, a nest; () unless `unroll` keeps them.
    """

    logits: tf.Tensor
    value: tf.Tensor
    last_value: Any
    core: Any
    states: Any = ()


@keras.saving.register_keras_serializable(package="tfmem")
class MLPTorso(keras.layers.Layer):
    """ReLU layers over all tensors of an observation, flattened and joined: [N, features].

    Args:
      sizes: widths of the layers; () for the flattened observation alone.
    """

    def __init__(self, sizes=(), **kwargs):
        super().__init__(**kwargs)
        check_positive(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        self.sizes = tuple(sizes)

    def build(self, input_shape):
        width = sum(tf.TensorShape(s[1:]).num_elements() for s in _shapes(input_shape))
        self.kernels, self.biases = [], []
        for index, size in enumerate(self.sizes):
            init = keras.initializers.TruncatedNormal(stddev=width**-0.5)
            self.kernels.append(self.add_weight(shape=(width, size), initializer=init, name=f"kernel_{index}"))
            self.biases.append(self.add_weight(shape=(size,), initializer="zeros", name=f"bias_{index}"))
            width = size

    def call(self, observation):
        x = tf.concat([_flat(_number(leaf, self.compute_dtype)) for leaf in tf.nest.flatten(observation)], -1)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = tf.nn.relu(linear(x, kernel, bias))
        return x

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes}


@keras.saving.register_keras_serializable(package="tfmem")
class FrameTorso(keras.layers.Layer):
    """Encoder of frames of the belief models (`tfmem.models.belief.FrameEncoder`): [N, embedding_size].

    An observation is a frame [N, height, width, channels]. Bytes are divided by 255.

    Args:
      channels: of each convolution.
      embedding_size: of the output.
    """

    def __init__(self, channels=(16, 32, 32), embedding_size=256, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.embedding_size = tuple(channels), embedding_size

    def build(self, input_shape):
        with tf.init_scope():
            self.encoder = FrameEncoder(input_shape[1:], self.channels, self.embedding_size)
        self.encoder_variables = [keras_variable(v) for v in self.encoder.variables]

    def call(self, observation):
        return self.encoder(_number(observation, tf.float32))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "embedding_size": self.embedding_size}


@keras.saving.register_keras_serializable(package="tfmem")
class ConvTorso(keras.layers.Layer):
    """Small convolutions over a grid, with two extra maps of each cell's x and y in [-1, 1].

    An observation is a nest of grids [N, rows, columns, channels] of one size, joined along their channels. Vectors
    [N, features] in it are repeated in every cell. Bytes are divided by 255.

    Paper: Santoro et al. 2018, appendix A.3: 12 and 24 kernels of 2x2, stride 1, ReLU, and the two maps. Not specified:
    the padding, and how the maps enter the core; we use no padding and one vector.

    Args:
      filters: kernels of the layers.
      kernel_size: side of the kernels. Default 2.
      stride: of every layer. Default 1.
      padding: "valid", or "same" for a core that needs the grid's own size.
      coordinates: append the two maps. Default True.
      output: "vector", [N, features]; "grid", [N, rows, columns, channels], for cores of grids; or "cells",
        [N, rows * columns, channels], for a relational memory with matrices as inputs.
    """

    def __init__(
        self, filters=(12, 24), kernel_size=2, stride=1, padding="valid", coordinates=True, output="vector", **kwargs
    ):
        super().__init__(**kwargs)
        check_positive(kernel_size=kernel_size, stride=stride, **{f"filters[{i}]": n for i, n in enumerate(filters)})
        check_choice("padding", padding, ("valid", "same"))
        check_choice("output", output, ("vector", "grid", "cells"))
        self.filters, self.kernel_size, self.stride = tuple(filters), kernel_size, stride
        self.padding, self.coordinates, self.output_form = padding, coordinates, output

    def build(self, input_shape):
        shapes = _shapes(input_shape)
        sides = {tuple(shape[1:3]) for shape in shapes if len(shape) == 4}
        if len(sides) != 1 or any(len(shape) not in (2, 4) for shape in shapes):
            raise ValueError(f"observation: shapes {shapes}, must be grids [N, rows, columns, channels] of one size")
        channels, ((*side,),) = sum(shape[-1] for shape in shapes), sides
        for _ in self.filters if self.padding == "valid" else ():
            if min(side) < self.kernel_size:
                raise ValueError(f"kernel_size: {self.kernel_size}, must be at most {min(side)}, the side of its input")
            side = [(n - self.kernel_size) // self.stride + 1 for n in side]
        self.kernels, self.biases = [], []
        for index, filters in enumerate(self.filters):
            shape = (self.kernel_size, self.kernel_size, channels, filters)
            init = keras.initializers.TruncatedNormal(stddev=(self.kernel_size**2 * channels) ** -0.5)
            self.kernels.append(self.add_weight(shape=shape, initializer=init, name=f"kernel_{index}"))
            self.biases.append(self.add_weight(shape=(filters,), initializer="zeros", name=f"bias_{index}"))
            channels = filters

    def call(self, observation):
        leaves = [_number(leaf, self.compute_dtype) for leaf in tf.nest.flatten(observation)]
        x = _joined(*leaves)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            patches = _patches(x, self.kernel_size, self.stride, self.padding)
            x = tf.nn.relu(linear(patches, tf.reshape(kernel, [-1, kernel.shape[-1]]), bias))
        if self.coordinates:
            rows, columns = (tf.linspace(-1.0, 1.0, n) if n > 1 else tf.zeros([1]) for n in x.shape[1:3])
            maps = tf.cast(tf.stack(tf.meshgrid(columns, rows), -1), x.dtype)  # x, then y
            x = tf.concat([x, tf.broadcast_to(maps, tf.concat([tf.shape(x)[:1], maps.shape], 0))], -1)
        if self.output_form == "cells":
            return tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])
        return _flat(x) if self.output_form == "vector" else x

    def get_config(self):
        names = ("filters", "kernel_size", "stride", "padding", "coordinates")
        return {**super().get_config(), **{n: getattr(self, n) for n in names}, "output": self.output_form}


class Restarting(tf.Module):
    """Wrapper of a cell that resets its state where an episode starts.

    Its inputs are `(x, done, last_x)`: the cell's input, bool [..., B], and the input at which the episode ended, or
    (). Its output is `(output, last_output, state)`: the cell's output; its output for `last_x` from the state before
    the reset, or (); with `keep_states` the state after the step, else (). With None as the cell, the output is the
    input.
    """

    def __init__(self, cell, keep_states=False):
        super().__init__()
        self.cell, self.keep_states = cell, keep_states

    def initial_state(self, batch_size):
        return () if self.cell is None else self.cell.get_initial_state(batch_size=batch_size)

    def project_inputs(self, inputs):
        x, done, last_x = inputs
        if self.cell is None:
            return inputs
        return project_inputs(self.cell, x), done, () if _empty(last_x) else project_inputs(self.cell, last_x)

    def step(self, projected, state):
        x, done, last_x = projected
        if self.cell is None:
            return (x, last_x, ()), state
        last_output = () if _empty(last_x) else step(self.cell, last_x, state)[0]
        first = self.initial_state(done.shape[0] or tf.shape(done)[0])
        tf.nest.assert_same_structure(first, state, check_types=False)
        started = [_where(done, i, s) for i, s in zip(tf.nest.flatten(first), tf.nest.flatten(state), strict=True)]
        output, state = step(self.cell, x, tf.nest.pack_sequence_as(state, started))
        return (output, last_output, state if self.keep_states else ()), state


@keras.saving.register_keras_serializable(package="tfmem")
class Agent(keras.Model):
    """Actor-critic agent with discrete actions and any core.

    Call `build_for` first. All methods take frames of B worlds: the observation (a nest), and the action, reward and
    done that precede it.

    Args:
      torso: a Keras layer from an observation [N, ...] to the core's input: [N, features], or with more axes; the
        previous action and the reward are then repeated in every place.
      core: a core of `tfmem.cores`, Sonnet's or Keras's, with a state of fixed size; None for an agent without memory.
        If its output is a nest of tensors, the heads read the first.
      num_actions: number of actions.
      action_input: give the core the previous action, one-hot. Default True.
      reward_input: form of the last reward in the core's input: "clipped" to [-1, 1] (public code: scalable_agent),
        "raw", or None for no reward. Default "clipped".
      skip: give the heads the core's input as well as its output. Not specified; default False.
      mlp_sizes: widths of the layers between core and logits, and between core and value. Default (), as in the public
        code.

    Raises:
      ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        torso,
        core,
        num_actions,
        action_input=True,
        reward_input="clipped",
        skip=False,
        mlp_sizes=(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(num_actions=num_actions)
        check_choice("reward_input", reward_input, REWARD_INPUTS)
        self.torso = torso
        self.cell = None if core is None else model_cell(core)
        self.num_actions, self.action_input, self.reward_input, self.skip = (
            num_actions,
            action_input,
            reward_input,
            skip,
        )
        self.policy = Head(num_actions, mlp_sizes, name="policy", dtype=self.dtype_policy)
        self.baseline = Head(1, mlp_sizes, name="baseline", dtype=self.dtype_policy)
        self.restarting = Restarting(self.cell)
        hand_on_trainable(self)

    def build_for(self, observation):
        """Create all variables.

        Args:
          observation: nest of `tf.TensorSpec` of one world's observation, without the batch.

        Raises:
          ValueError: the core's state grows with time, or the torso does not accept the observation.
        """
        self.observation_spec = observation
        zeros = tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape], s.dtype), observation)
        with tf.init_scope():
            x = self.features(zeros, tf.zeros([1], tf.int32), tf.zeros([1]))
            if self.cell is not None:
                if not self.cell.built:
                    self.cell.build(tuple(x.shape))
                sizes = tf.nest.flatten(self.cell.state_size)
                if any(None in tf.TensorShape(size).as_list() for size in sizes):
                    raise ValueError(f"core: state of sizes {sizes}, must be of fixed size")
            self.built = True
            self.step(zeros, tf.zeros([1], tf.int32), tf.zeros([1]), tf.ones([1], tf.bool), self.initial_state(1))
        return self

    def initial_state(self, batch_size):
        """Initial state of the core; () without a core."""
        return self.restarting.initial_state(batch_size)

    def features(self, observation, action, reward):
        """Core inputs for frames with any leading axes: [..., features], or with more axes between."""
        leading, static = tf.shape(reward), reward.shape
        if static.is_fully_defined():
            leading = static.as_list()
        tf.nest.assert_same_structure(self.observation_spec, observation, check_types=False)
        for leaf, spec in zip(tf.nest.flatten(observation), tf.nest.flatten(self.observation_spec), strict=True):
            if not leaf.shape[static.rank :].is_compatible_with(spec.shape) or leaf.dtype != spec.dtype:
                given = f"{leaf.dtype.name} {leaf.shape[static.rank :]}"
                raise ValueError(f"observation: {given}, must be {spec.dtype.name} {spec.shape}")
        flat = [
            tf.reshape(leaf, [-1, *spec.shape])
            for leaf, spec in zip(tf.nest.flatten(observation), tf.nest.flatten(self.observation_spec), strict=True)
        ]
        parts = [self.torso(tf.nest.pack_sequence_as(self.observation_spec, flat))]
        dtype = parts[0].dtype
        if self.reward_input is not None:
            seen = tf.clip_by_value(reward, -1.0, 1.0) if self.reward_input == "clipped" else reward
            parts.append(tf.cast(tf.reshape(seen, [-1, 1]), dtype))
        if self.action_input:
            parts.append(tf.one_hot(tf.reshape(action, [-1]), self.num_actions, dtype=dtype))
        x = _joined(*parts)
        joined = tf.reshape(x, tf.concat([leading, x.shape[1:]], 0))
        joined.set_shape([*static, *x.shape[1:]])
        return joined

    def step(self, observation, action, reward, done, state):
        """Run one step of B worlds: `(AgentOutput, next state)`."""
        inputs = self.features(observation, action, reward), done, ()
        (output, *_), state = step(self.restarting, self.restarting.project_inputs(inputs), state)
        return self._read(done, inputs[0], (), output, ()), state

    def unroll(self, observation, action, reward, done, state, last_observation=None, keep_states=False):
        """Run all frames [T, B, ...] from the state before the first: `(AgentOutput, final state)`.

        Args:
          observation, action, reward, done: time-major.
          state: of the core, before the first frame.
          last_observation: [T, B, ...], final observations of episodes that ended at a frame, for
            `AgentOutput.last_value`.
          keep_states: return `AgentOutput.states`. Default False.
        """
        x, last_x = self.features(observation, action, reward), ()
        if last_observation is not None:
            last_x = self.features(last_observation, action, reward)
        if self.cell is None:
            outputs, last_outputs, states = x, last_x, ()
        else:
            cell = Restarting(self.cell, keep_states)
            (outputs, last_outputs, states), state = unroll(cell, (x, done, last_x), state)
        return self._read(done, x, last_x, outputs, last_outputs)._replace(states=states), state

    def call(self, observation, action, reward, done, state):
        return self.unroll(observation, action, reward, done, state)

    def _read(self, done, x, last_x, output, last_output):
        """Apply the heads to the core's outputs, with `skip` also to its inputs."""

        def seen(output, x):
            parts = [tf.nest.flatten(output)[0]]
            if self.skip and self.cell is not None:
                parts.append(x)
            return tf.concat([_flat(part, done.shape.rank) for part in parts], -1)

        read = seen(output, x)
        last_value = () if _empty(last_x) else self.baseline(seen(last_output, last_x))[..., 0]
        return AgentOutput(self.policy(read), self.baseline(read)[..., 0], last_value, output)

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step` and `initial_state`.

        step   observation, previous_action, reward, done [B], state -> logits [B, A], value [B], state
        """

        def act(observation, previous_action, reward, done, state):
            output, state = self.step(observation, previous_action, reward, done, state)
            return {"logits": output.logits, "value": output.value, "state": state}

        def initial_state(batch_size):
            return {"state": self.initial_state(batch_size)}

        def batched(nest):
            return tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape], s.dtype), nest)

        state = tf.nest.map_structure(lambda s: tf.TensorSpec(s.shape[1:], s.dtype), self.initial_state(1))
        arguments = {
            "observation": batched(self.observation_spec),
            "previous_action": tf.TensorSpec([None], tf.int32),
            "reward": tf.TensorSpec([None]),
            "done": tf.TensorSpec([None], tf.bool),
            "state": batched(state),
        }
        return {
            "step": (act, arguments),
            "initial_state": (initial_state, {"batch_size": tf.TensorSpec([], tf.int32)}),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "torso": keras.saving.serialize_keras_object(self.torso),
            "core": keras.saving.serialize_keras_object(self.cell),
            "num_actions": self.num_actions,
            "action_input": self.action_input,
            "reward_input": self.reward_input,
            "skip": self.skip,
            "mlp_sizes": self.policy.mlp_sizes,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("torso", "core"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def get_build_config(self):
        spec = tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), self.observation_spec)
        return {"observation": keras.saving.serialize_keras_object(spec)}

    def build_from_config(self, config):
        spec = keras.saving.deserialize_keras_object(config["observation"])
        self.build_for(tf.nest.map_structure(lambda s: tf.TensorSpec(s.shape, s.dtype), spec))


class RandomAgent:
    """Agent that draws all actions equally often: a baseline for `tfmem.rl.learner.evaluation`.

    Args:
      num_actions: number of actions.
    """

    def __init__(self, num_actions):
        self.num_actions = num_actions

    def initial_state(self, batch_size):
        return ()

    def step(self, observation, action, reward, done, state):
        return AgentOutput(tf.zeros([*reward.shape, self.num_actions]), tf.zeros_like(reward), (), ()), state


def _shapes(nest):
    """Shapes in a nest of shapes as Keras passes it to `build`."""
    found = []
    keras.tree.map_shape_structure(found.append, nest)
    return found


def _number(leaf, dtype):
    """Cast a leaf of an observation to a dtype; bytes become fractions of 255."""
    x = tf.cast(leaf, dtype)
    return x / 255.0 if leaf.dtype == tf.uint8 else x


def _flat(x, leading=1):
    """Flatten all axes of `x` after the leading ones into one."""
    width = x.shape[leading:].num_elements()
    flat = tf.reshape(x, tf.concat([tf.shape(x)[:leading], [width]], 0))
    flat.set_shape([*x.shape[:leading], width])
    return flat


def _patches(x, size, stride, padding):
    """Windows of a convolution, [N, rows, columns, size * size * channels].

    A matrix product of them is the convolution. On CPUs XLA's own convolutions of small grids are several times slower.
    """
    if padding == "same":
        needed = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[1:3]]
        x = tf.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in needed), (0, 0)])
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    places = [(row, column) for row in range(size) for column in range(size)]
    height, width = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    return tf.concat([x[:, r : r + height : stride, c : c + width : stride] for r, c in places], -1)


def _joined(*parts):
    """Join tensors [N, (...,) features]; vectors are repeated in every place of those with more axes."""
    places = max((part.shape[1:-1] for part in parts), key=len)

    def spread(part):
        if part.shape.rank > 2:
            return part
        return tf.tile(tf.reshape(part, [-1, *[1] * len(places), part.shape[-1]]), [1, *places, 1])

    return tf.concat([spread(part) for part in parts], -1)


def _empty(nest):
    return isinstance(nest, tuple) and not nest


def _where(done, new, old):
    return tf.where(tf.reshape(done, [-1] + [1] * (old.shape.rank - 1)), new, old)
