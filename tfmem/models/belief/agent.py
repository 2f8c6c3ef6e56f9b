"""The agent's networks: frame encoder, belief network, simulation network and model of frames."""

import math
from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.axes import leading_sizes, merge_leading, split_leading
from tfmem.cores.base import Linear, check_features
from tfmem.interop import as_sonnet_core
from tfmem.recurrence import swap_batch_and_time, unroll
from tfmem.validation import check_positive, check_sizes

HE = snt.initializers.VarianceScaling(scale=2.0)  # He et al. 2015, for layers before a ReLU


class FrameEncoder(snt.Module):
    """Frames [..., height, width, channels] to embeddings [..., embedding_size].

    Not specified; we use 4x4 convolutions of stride 2 with ReLU, as those of Appendix A that change the stride, then a
    linear map with ReLU. Weights start with a variance of 2 / fan-in (He et al. 2015). Values, from 0 to 1, enter as
    4 (x - 1/2). Differences between frames then keep their size. With x and Sonnet's start a twentieth of them is left
    after four layers, and hardly anything reaches the beliefs.

    Args:
      frame_shape: (height, width, channels).
      channels: of each convolution.
      embedding_size: of the output.
    """

    def __init__(self, frame_shape, channels=(16, 32, 32), embedding_size=256, name="FrameEncoder"):
        super().__init__(name=name)
        check_sizes(frame_shape=frame_shape, channels=channels)
        check_positive(embedding_size=embedding_size)
        self.frame_shape = tuple(frame_shape)
        self.convolutions = [snt.Conv2D(n, 4, stride=2, w_init=HE) for n in channels]
        self.linear = Linear(embedding_size, w_init=HE)
        self(tf.zeros([1, *self.frame_shape]))  # makes the variables

    def __call__(self, frames):
        if frames.shape[-3:] != tf.TensorShape(self.frame_shape):
            raise ValueError(f"frames: shape {frames.shape}, must end with {self.frame_shape}")
        if frames.dtype != tf.float32:
            raise ValueError(f"frames: {frames.dtype.name}, must be float32, from 0 to 1")
        x = 4 * (merge_leading(frames, frames.shape.rank - 3) - 0.5)
        for convolution in self.convolutions:
            x = tf.nn.relu(convolution(x))
        x = tf.reshape(x, [-1, math.prod(x.shape[1:])])
        return split_leading(tf.nn.relu(self.linear(x)), frames, 3)


def simulation_core(core):
    """Return a core, Sonnet's or Keras's, as the Sonnet core of a simulation; with `read_only` it does not write."""
    core = core if isinstance(core, snt.Module) else as_sonnet_core(core)
    return core.read_only() if hasattr(core, "read_only") else core


def render(frame_model, beliefs, seed):
    """Frames [..., height, width, channels] that a model of frames samples given beliefs [..., C]; seed: int32 [2]."""
    frames = frame_model.sample(merge_leading(beliefs, beliefs.shape.rank - 1), seed)
    return split_leading(frames, beliefs, 1)


class Beliefs(NamedTuple):
    """Output of `BeliefModel.belief` for a trajectory."""

    beliefs: tf.Tensor  # [T, B, C]
    states: Any  # nest of [T, B, ...], the core's state after each frame, where rollouts start
    final_state: Any  # nest of [B, ...]


class BeliefModel(snt.Module):
    """Belief network, simulation network and model of frames.

        model = BeliefModel((64, 64, 3), 5, functools.partial(ConvDRAW, (64, 64, 3)), KanervaConfig(hidden_size=512))
        beliefs, states, _ = model.belief(frames, actions)                    # then SimCoreHead's loss, see there
        now = tf.nest.map_structure(lambda s: s[70], states)
        simulated, _ = model.simulate(now, actions[71:83])
        samples = model.render(simulated, seed=[0, 1])                        # a rollout: [12, B, 64, 64, 3]

    All variables are made here. Those of the rollouts are `simulation`'s and `frame_model`'s.

    Args:
      frame_shape: (height, width, channels).
      num_actions: size of the one-hot actions.
      frame_model: function of the belief's size that makes the model of frames given a belief; see `SimCoreHead`.
      core: the core of both networks, a configuration of `tfmem.cores.config` or any with its `make`. Its output is a
        vector. The simulation does not write where the core has `read_only`. Other cores write to a copy. SimCore's
        loss trains the belief network through its states: an output layer behind them, as DNC has, stays as it is.
      encoder_channels, embedding_size: of the `FrameEncoder`.

    Attributes:
      belief_size: C, size of a belief: the core's output.

    Raises:
      ValueError: an argument is out of range, the core's output is not a vector, or its state grows.
    """

    def __init__(
        self,
        frame_shape,
        num_actions,
        frame_model,
        core,
        encoder_channels=(16, 32, 32),
        embedding_size=256,
        name="BeliefModel",
    ):
        super().__init__(name=name)
        check_positive(num_actions=num_actions)
        self.num_actions = num_actions
        self.encoder = FrameEncoder(frame_shape, encoder_channels, embedding_size)
        made = core.make()
        self.core = made if isinstance(made, snt.Module) else as_sonnet_core(made)
        self.simulation = simulation_core(core.make())
        self.core.project_inputs(tf.zeros([1, embedding_size + num_actions]))
        self.simulation.project_inputs(tf.zeros([1, num_actions]))
        size, state = self.core.output_size, self.core.initial_state(1)
        if tf.nest.is_nested(size) or tf.TensorShape(size).rank != 1:
            raise ValueError(f"core: {core!r}, must be a core whose output is a vector")
        if any(0 in x.shape for x in tf.nest.flatten(state)):
            raise ValueError(f"core: {core!r}, must be a core whose state has a constant size")
        self.belief_size = tf.TensorShape(size).num_elements()
        self.frame_model = frame_model(self.belief_size)

    def initial_state(self, batch_size):
        """The belief core's state before the first frame."""
        return self.core.initial_state(batch_size)

    def belief(self, frames, actions, state=None):
        """The `Beliefs` of trajectories.

        Args:
          frames: [T, B, height, width, channels], float32.
          actions: [T, B, num_actions], one-hot, those that led to the frames.
          state: nest of [B, ...] before the first frame. Default: `initial_state`.

        Raises:
          ValueError: a shape does not fit.
        """
        frames, actions = tf.convert_to_tensor(frames), tf.convert_to_tensor(actions)
        check_features(actions, self.num_actions, "actions")
        if state is None:
            state = self.initial_state(leading_sizes(frames, 2)[1])
        inputs = tf.concat([self.encoder(frames), actions], -1)

        if hasattr(self.core, "scan_states"):
            return Beliefs(*self.core.scan_states(self.core.project_inputs(inputs), state))

        def step(projected, state):
            belief, state = self.core.step(projected, state)
            return (belief, state), state

        (beliefs, states), final_state = unroll(step, self.core.project_inputs(inputs), state)
        return Beliefs(beliefs, states, final_state)

    def simulate(self, state, actions):
        """`(beliefs [T, B, C], state)` without frames: from a state [B, ...] and actions [T, B, num_actions]."""
        check_features(actions, self.num_actions, "actions")
        return unroll(self.simulation, actions, state)

    def render(self, beliefs, seed):
        """Frames [..., height, width, channels] sampled given beliefs [..., C]; seed: int32 [2]."""
        return render(self.frame_model, beliefs, seed)

    def export_functions(self):
        """Signatures for `tfmem.export.saved_model`, batch-major: `step`, `initial_state`, `simulate` and `render`.

        step           frame [B, height, width, channels], action [B, num_actions], state -> belief [B, C], state
        initial_state  batch_size -> state
        simulate       state, actions [B, T, num_actions] -> beliefs [B, T, C], state
        render         belief [N, C], seed int32 [2] -> frame [N, height, width, channels]
        """
        own = self.initial_state(1)
        state = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), own)

        def step(frame, action, state):
            beliefs, _, state = self.belief(frame[tf.newaxis], action[tf.newaxis], state)
            return {"belief": beliefs[0], "state": state}

        def simulate(state, actions):
            beliefs, state = self.simulate(state, swap_batch_and_time(actions))
            return {"beliefs": swap_batch_and_time(beliefs), "state": state}

        def render(belief, seed):
            return {"frame": self.render(belief, seed)}

        frame = tf.TensorSpec([None, *self.encoder.frame_shape])
        action = tf.TensorSpec([None, self.num_actions])
        actions = tf.TensorSpec([None, None, self.num_actions])
        belief = tf.TensorSpec([None, self.belief_size])
        return {
            "step": (step, {"frame": frame, "action": action, "state": state}),
            "initial_state": (
                lambda batch_size: {"state": self.initial_state(batch_size)},
                {"batch_size": tf.TensorSpec([], tf.int32)},
            ),
            "simulate": (simulate, {"state": state, "actions": actions}),
            "render": (render, {"belief": belief, "seed": tf.TensorSpec([2], tf.int32)}),
        }
