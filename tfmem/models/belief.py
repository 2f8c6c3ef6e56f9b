"""SimCore: belief states shaped by a model of the frames to come (Gregor et al. 2019, "Shaping Belief States with
Generative Environment Models for RL", appendices B, C, E and the listing in K), and probes of what a belief holds.

Letters: x_t frame, a_t the one-hot action that LED TO frame t (zeros where there was none), T steps, B batch, L_o
overshoot length, N_t start points of a trajectory, N_g offsets of a rollout. All is time-major, [T, B, ...].

    e_t = encoder(x_t)                                       frame embedding
    b_t, s_t = belief core([e_t, a_t], s_{t-1})              writes its memory
    b_{t,d}, s_{t,d} = simulation core(a_{t+1+d}, s_{t,d-1}) for d = 0 ... L_o - 1, from s_{t,-1} = s_t;  does not write

    t_1 ... t_{N_t} from 0 ... T - L_o - 1,  d_1 ... d_{N_g} from 0 ... L_o - 1, both without replacement
    loss = mean over i, j, batch of L(x_{t_j + 1 + d_i} | b_{t_j, d_i})  with any model of frames given a vector

The frame of the start itself is never modelled, and gradients pass from the simulation into the belief states (K).

Both networks have the same architecture, and the simulation starts from the belief's state with its memory (B). The
paper says that the LSTMs share no weights; of the memories' projections it says nothing. Here the two networks share
none at all: our choice, and so are, for nothing is printed of them, the frame encoder and both decoders.
"""

import functools
import math
from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import Linear, RNNCore, SplitLinear, check_features, is_integer, lstm_update
from tfmem.cores.kanerva import KanervaCore
from tfmem.cores.rma import RMACore
from tfmem.recurrence import unroll

# ---- Appendix K -----------------------------------------------------------------------------------------------------


def windows(x, starts, size):
    """x[1 + start + d] for d = 0 ... size - 1: what comes after each start.

    Args:
      x: [T, B, ...].
      starts: int32 [N, B], or [N, 1] where they serve the whole batch; less than T - size.

    Returns:
      [size, N, B, ...].
    """
    return _at(x, 1 + tf.range(size)[:, tf.newaxis, tf.newaxis] + starts)


def _at(x, times):
    """x [T, B, ...] at times [..., B], or [..., 1] for the whole batch: [..., B, ...]."""
    if times.shape[-1] == 1:
        return tf.gather(x, times[..., 0])
    elements = tf.broadcast_to(tf.range(tf.shape(times)[-1]), tf.shape(times))
    return tf.gather_nd(x, tf.stack([times, elements], -1))


def _sizes(x, axes):
    """The sizes of the first `axes` axes of `x`, static where they are known."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape[:axes])]


def _merge(x, axes):
    """The first `axes` axes of `x` as one."""
    return tf.reshape(x, [-1, *x.shape[axes:]])


def unroll_sim(core, indices, init_states, inputs, sim_length):
    """Rollouts of a simulation core from several steps of a trajectory, all at once.

    Args:
      core: a core `(inputs [N, ...], state) -> (output [N, ...], next state)`.
      indices: the steps to start from, int32 [N_t], or [N_t, B] for steps of each batch element; less than T - L_o.
      init_states: nest of [T, B, ...]; `core` starts from those at `indices`.
      inputs: [T, B, features]; those of the steps after `indices` are given to `core`.
      sim_length: L_o.

    Returns:
      `(sim_outputs, final_state)`: [L_o, N_t, B, features], and the core's state [N_t B, ...], start by start.

    Source: `unroll_sim` of Appendix K.
    """
    indices = tf.convert_to_tensor(indices, tf.int32)
    starts = indices[:, tf.newaxis] if indices.shape.rank == 1 else indices
    staggered = windows(inputs, starts, sim_length)  # [L_o, N_t, B, features]
    leading = _sizes(staggered, 3)
    staggered = tf.reshape(staggered, [sim_length, leading[1] * leading[2], *staggered.shape[3:]])
    initial_state = tf.nest.map_structure(lambda s: _merge(_at(s, starts), 2), init_states)
    sim_outputs, final_state = unroll(core, staggered, initial_state)
    return tf.reshape(sim_outputs, [*leading, sim_outputs.shape[-1]]), final_state


class SimCoreLoss(NamedTuple):
    """What a `SimCoreHead` says of N = N_g N_t B frames: offset by offset, in these start by start, in these the batch.

    The mean of `error` is the loss of a deterministic model; `GECO(...)(told.error, told.kl)` that of one with latents.
    """

    error: tf.Tensor  # [N], the model's squared error, summed over the frame
    kl: tf.Tensor  # [N], nats
    reconstruction: tf.Tensor  # [N, height, width, channels]
    frames: tf.Tensor  # [N, height, width, channels], what was modelled
    conditioning: tf.Tensor  # [N, C], the simulated beliefs
    sim_outputs: tf.Tensor  # [L_o, N_t, B, C], those of whole rollouts
    sim_time_indices: tf.Tensor  # [N_t, 1 or B], the starts
    dt: tf.Tensor  # [N_g, 1 or B], the offsets
    frame_indices: tf.Tensor  # [N_g, N_t, 1 or B], 1 + start + offset


class SimCoreHead(snt.Module):
    """The loss that shapes beliefs: frames modelled at random places of rollouts from random steps.

        head = SimCoreHead(model.simulation, model.frame_model, sim_length=12, num_to_model_time=6, num_to_model_sim=2)
        beliefs, states, _ = model.belief(frames, actions)
        told = head(frames, actions, states, seed=[0, 1])
        loss = tf.reduce_mean(told.error)

    Args:
      core: the simulation core; see `unroll_sim`.
      model: a model of frames given a vector, such as `ConvDRAW`: `model(frames [N, height, width, channels],
        conditioning [N, C], seed)` is a tuple with `error` [N], `kl` [N] and `reconstruction`.
      sim_length: L_o, steps of a rollout.
      num_to_model_time: N_t, rollouts of a trajectory; where T - L_o is less, there are that many.
      num_to_model_sim: N_g, frames modelled of a rollout; where L_o is less, there are that many.
      per_element: whether each element of the batch has starts and offsets of its own. The listing draws them once.

    Raises:
      ValueError: a number is not a positive integer.

    Source: `SimCoreHead` of Appendix K.
    """

    def __init__(
        self, core, model, sim_length, num_to_model_time, num_to_model_sim, per_element=False, name="SimCoreHead"
    ):
        super().__init__(name=name)
        _check_sizes(sim_length=sim_length, num_to_model_time=num_to_model_time, num_to_model_sim=num_to_model_sim)
        self.core, self.model = core, model
        self.sim_length = sim_length
        self.num_to_model_time, self.num_to_model_sim = num_to_model_time, num_to_model_sim
        self.per_element = per_element

    def __call__(self, frames, actions, states, seed, perm_time=None, perm_sim=None):
        """The `SimCoreLoss` of a batch of trajectories.

        Args:
          frames: [T, B, height, width, channels].
          actions: [T, B, num_actions], one-hot, those that led to the frames; the first is not used.
          states: nest of [T, B, ...], the belief core's states after each frame.
          seed: int32 [2]; starts, offsets and the model's noise follow from it (philox).
          perm_time: permutation of 0 ... T - L_o - 1 to take the starts from, int32 [T - L_o] or [T - L_o, B]. Default:
            drawn.
          perm_sim: permutation of 0 ... L_o - 1 to take the offsets from, int32 [L_o] or [L_o, B]. Default: drawn.

        Raises:
          ValueError: T is not greater than L_o, or `frames`, `actions` and `states` differ in T or B.
        """
        frames, actions = tf.convert_to_tensor(frames), tf.convert_to_tensor(actions)
        num_steps, batch_size = self._check(frames, actions, states)
        time_seed, sim_seed, model_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        columns = batch_size if self.per_element else 1
        if perm_time is None:
            perm_time = _permutations(num_steps - self.sim_length, columns, time_seed)
        if perm_sim is None:
            perm_sim = _permutations(self.sim_length, columns, sim_seed)
        sim_time_indices = _columns(perm_time)[: self.num_to_model_time]
        dt = _columns(perm_sim)[: self.num_to_model_sim]

        sim_outputs, _ = unroll_sim(self.core, sim_time_indices, states, actions, self.sim_length)
        # Of each rollout the outputs at dt: [N_g, N_t, B, C].
        every_start = tf.transpose(sim_outputs, [0, 2, 1, 3])  # [L_o, B, N_t, C]
        conditioning = _merge(tf.transpose(_at(every_start, dt), [0, 2, 1, 3]), 3)
        frame_indices = 1 + dt[:, tf.newaxis] + sim_time_indices
        frames_dt = _merge(_at(frames, frame_indices), 3)
        result = self.model(frames_dt, conditioning, model_seed)
        return SimCoreLoss(
            result.error,
            result.kl,
            result.reconstruction,
            frames_dt,
            conditioning,
            sim_outputs,
            sim_time_indices,
            dt,
            frame_indices,
        )

    def _check(self, frames, actions, states):
        leading = frames.shape[:2]
        for name, tensors in (("actions", actions), ("states", states)):
            for x in tf.nest.flatten(tensors):
                if not x.shape[:2].is_compatible_with(leading):
                    raise ValueError(f"{name}: had the shape {x.shape}, must start with those of frames, {leading}")
        if leading[0] is not None and leading[0] <= self.sim_length:
            raise ValueError(
                f"frames: had {leading[0]} steps, must have more than sim_length, which was {self.sim_length}"
            )
        return _sizes(frames, 2)


def _permutations(n, columns, seed):
    """`columns` random orders of 0 ... n - 1, int32 [n, columns]."""
    keys = tf.random.stateless_uniform([n, columns], seed, None, None, tf.int32, alg="philox")
    return tf.argsort(keys, axis=0, stable=True)


def _columns(permutation):
    permutation = tf.convert_to_tensor(permutation, tf.int32)
    return permutation[:, tf.newaxis] if permutation.shape.rank == 1 else permutation


# ---- the agent's networks -------------------------------------------------------------------------------------------


class LSTM(RNNCore):
    """Sonnet 1's LSTM, with the input's share of the gates apart; the output is the hidden state [B, hidden_size].

    The state is an `snt.LSTMState`. Weights and biases start as in Sonnet 1: truncated normal, 1 / sqrt(fan-in).

    Args:
      hidden_size: units (Table 2: 512 to 1024).
    """

    input_layout = "features"

    def __init__(self, hidden_size, name="lstm"):
        super().__init__(name=name)
        _check_sizes(hidden_size=hidden_size)
        self.hidden_size = hidden_size
        self.gates = SplitLinear(4 * hidden_size, random_bias=True, name="gates")

    @property
    def output_size(self):
        return self.hidden_size

    @property
    def state_size(self):
        return snt.LSTMState(*[tf.TensorShape([self.hidden_size])] * 2)

    def initial_state(self, batch_size, dtype=tf.float32):
        return snt.LSTMState(*[tf.zeros([batch_size, self.hidden_size], dtype)] * 2)

    def project_inputs(self, inputs):
        self.gates.initialize(inputs.shape[-1], self.hidden_size, inputs.dtype)
        return self.gates.project(inputs)

    def step(self, projected, state):
        state = lstm_update(self.gates(projected, state.hidden), state.cell)
        return state.hidden, state


# RMA's order is the public code's, our choice: with Appendix C's, written for Kanerva, the word is made after the LSTM
# and stored without its gradient, and nothing in the listing's loss would teach the belief network what to write.
_CORES = {"lstm": LSTM, "rma": functools.partial(RMACore, order="code"), "kanerva": KanervaCore}


HE = snt.initializers.VarianceScaling(scale=2.0)  # He et al. 2015, for layers before a ReLU


class FrameEncoder(snt.Module):
    """Frames [..., height, width, channels] to embeddings [..., embedding_size]; ours, the paper prints none.

    4x4 convolutions of stride 2 with ReLU, as those of Appendix A that change the stride, then a linear map with ReLU.
    Weights start with a variance of 2 / fan-in (He et al. 2015) and values, from 0 to 1, enter as 4 (x - 1/2), so that
    differences between frames keep their size: with x and Sonnet's start a twentieth of it is left after four layers,
    and hardly anything of it reaches the beliefs.

    Args:
      frame_shape: (height, width, channels).
      channels: of each convolution.
      embedding_size: of the output.
    """

    def __init__(self, frame_shape, channels=(16, 32, 32), embedding_size=256, name="FrameEncoder"):
        super().__init__(name=name)
        _check_sizes(frame_shape=frame_shape, channels=channels, embedding_size=embedding_size)
        self.frame_shape = tuple(frame_shape)
        self.convolutions = [snt.Conv2D(n, 4, stride=2, w_init=HE) for n in channels]
        self.linear = Linear(embedding_size, w_init=HE)
        self(tf.zeros([1, *self.frame_shape]))  # makes the variables

    def __call__(self, frames):
        if frames.shape[-3:] != tf.TensorShape(self.frame_shape):
            raise ValueError(f"frames: had the shape {frames.shape}, must end with {self.frame_shape}")
        if frames.dtype != tf.float32:
            raise ValueError(f"frames: were {frames.dtype.name}, must be float32, from 0 to 1")
        x = 4 * (_merge(frames, frames.shape.rank - 3) - 0.5)
        for convolution in self.convolutions:
            x = tf.nn.relu(convolution(x))
        x = tf.reshape(x, [-1, math.prod(x.shape[1:])])
        return _unmerge(tf.nn.relu(self.linear(x)), frames, 3)


def _unmerge(x, like, inner):
    """`x` [N, ...] with the leading axes of `like`, all but the last `inner` ones, in the place of N."""
    return tf.reshape(x, [*_sizes(like, like.shape.rank - inner), *x.shape[1:]])


class Beliefs(NamedTuple):
    """What `BeliefModel.belief` says of a trajectory."""

    beliefs: tf.Tensor  # [T, B, C]
    states: Any  # nest of [T, B, ...], the core's state after each frame: what rollouts start from
    final_state: Any  # nest of [B, ...]


class BeliefModel(snt.Module):
    """Belief network, simulation network and model of frames.

        model = BeliefModel((64, 64, 3), 5, functools.partial(ConvDRAW, (64, 64, 3)), core="kanerva")
        beliefs, states, _ = model.belief(frames, actions)                    # then SimCoreHead's loss, see there
        now = tf.nest.map_structure(lambda s: s[70], states)
        simulated, _ = model.simulate(now, actions[71:83])
        samples = model.render(simulated, seed=[0, 1])                        # a rollout: [12, B, 64, 64, 3]

    All variables are made here. Those of the rollouts are `simulation`'s and `frame_model`'s.

    Args:
      frame_shape: (height, width, channels).
      num_actions: size of the one-hot actions.
      frame_model: function of the belief's size that makes the model of frames given a belief; see `SimCoreHead`.
      core: "lstm", "rma" (LSTM + RMA) or "kanerva" (LSTM + Kanerva), of both networks.
      hidden_size: LSTM units of each network (Table 2: 512 to 1024).
      memory: further arguments of `RMACore` or `KanervaCore`, by name; their defaults are those of Tables 3 and 4, but
        that RMA's `order` is "code" here.
      encoder_channels, embedding_size: of the `FrameEncoder`; ours.

    Attributes:
      belief_size: C, size of a belief: the core's output.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(
        self,
        frame_shape,
        num_actions,
        frame_model,
        core="lstm",
        hidden_size=512,
        memory=None,
        encoder_channels=(16, 32, 32),
        embedding_size=256,
        name="BeliefModel",
    ):
        super().__init__(name=name)
        _check_sizes(num_actions=num_actions)
        if core not in _CORES:
            raise ValueError(f"core: was {core!r}, must be one of {', '.join(_CORES)}")
        if core == "lstm" and memory:
            raise ValueError(f"memory: was {memory!r}, must be left out for an LSTM alone")
        self.num_actions = num_actions
        self.encoder = FrameEncoder(frame_shape, encoder_channels, embedding_size)
        self.core = _CORES[core](hidden_size, **memory or {}, name="belief")
        simulation = _CORES[core](hidden_size, **memory or {}, name="simulation")
        self.simulation = simulation if core == "lstm" else simulation.read_only()
        self.core.project_inputs(tf.zeros([1, embedding_size + num_actions]))
        self.simulation.project_inputs(tf.zeros([1, num_actions]))
        self.belief_size = self.core.output_size
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
            state = self.initial_state(_sizes(frames, 2)[1])
        inputs = tf.concat([self.encoder(frames), actions], -1)

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
        frames = self.frame_model.sample(_merge(beliefs, beliefs.shape.rank - 1), seed)
        return _unmerge(frames, beliefs, 1)

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
            beliefs, state = self.simulate(state, tf.transpose(actions, [1, 0, 2]))
            return {"beliefs": tf.transpose(beliefs, [1, 0, 2]), "state": state}

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


# ---- probes ---------------------------------------------------------------------------------------------------------


class MapDecoder(snt.Module):
    """Top-down maps from beliefs that it does not change: no gradient passes into them (Appendix I).

    The layers are ours: linear to a grid of an eighth of the sides, then three 4x4 transposed convolutions of stride 2,
    with ReLU between; a value is 1/2 + 1/4 of what comes out. Weights start with a variance of 2 / fan-in (He et al.
    2015): with Sonnet's start maps stood at their mean for a thousand updates, even where they taught the beliefs.

    A model of maps to sample from: `ConvDRAW(map_shape, belief_size)`, given `tf.stop_gradient` of the beliefs.

    Args:
      belief_size: C.
      map_shape: (height, width, channels) of the maps.
      channels: of the grid and of the two hidden layers.
    """

    def __init__(self, belief_size, map_shape, channels=(64, 32, 16), name="MapDecoder"):
        super().__init__(name=name)
        _check_sizes(belief_size=belief_size, map_shape=map_shape, channels=channels)
        for argument, value in {"map_shape": map_shape, "channels": channels}.items():
            if len(value) != 3:
                raise ValueError(f"{argument}: was {value!r}, must be three integers")
        height, width, map_channels = map_shape
        # From the map back to the grid; sides that are odd are halved upwards.
        sides = [(-(-height // n), -(-width // n)) for n in (1, 2, 4, 8)]
        self.grid = (*sides[3], channels[0])
        self.linear = Linear(math.prod(self.grid), w_init=HE)
        starts = [snt.initializers.TruncatedNormal(stddev=(2 / (4 * n)) ** 0.5) for n in channels]  # a cell sees four
        self.layers = [
            snt.Conv2DTranspose(n, 4, output_shape=shape, stride=2, w_init=start)
            for n, shape, start in zip([*channels[1:], map_channels], sides[2::-1], starts, strict=True)
        ]
        self(tf.zeros([1, belief_size]))  # makes the variables

    def __call__(self, beliefs):
        """Maps [..., height, width, channels] of beliefs [..., C]."""
        x = self.linear(tf.stop_gradient(_merge(beliefs, beliefs.shape.rank - 1)))
        x = tf.reshape(x, [-1, *self.grid])
        for layer in self.layers:
            x = layer(tf.nn.relu(x))
        return _unmerge(0.5 + 0.25 * x, beliefs, 1)


def map_mse(decoded, maps):
    """Mean squared error over the pixels of a map, along trajectories (Figure 12).

    Args:
      decoded: [T, B, height, width, channels].
      maps: the same, or [B, height, width, channels] where they do not change.

    Returns:
      [T, B].
    """
    return tf.reduce_mean(tf.square(decoded - maps), [-3, -2, -1])


class PositionDecoder(snt.Module):
    """The cell of a grid the agent is in, from beliefs that it does not change: no gradient passes into them.

    One hidden layer with ReLU, then a softmax over cells: ours; Appendix E speaks of the position's accuracy, no more.

        logits, cells = decoder(beliefs), position_cells(positions, side, cells_per_side)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(cells, logits)

    Args:
      belief_size: C.
      num_cells: cells of the grid.
      hidden_size: units.
    """

    def __init__(self, belief_size, num_cells, hidden_size=256, name="PositionDecoder"):
        super().__init__(name=name)
        _check_sizes(belief_size=belief_size, num_cells=num_cells, hidden_size=hidden_size)
        self.hidden, self.logits = Linear(hidden_size, w_init=HE), Linear(num_cells)
        self(tf.zeros([1, belief_size]))  # makes the variables

    def __call__(self, beliefs):
        """Logits [..., num_cells] of beliefs [..., C]."""
        return self.logits(tf.nn.relu(self.hidden(tf.stop_gradient(beliefs))))


def position_cells(positions, side, cells_per_side):
    """The cell of each position, int32 [...], for a `PositionDecoder` of `cells_per_side ** 2` cells.

    Args:
      positions: [..., 2], from the middle of a square; those outside count to the nearest cell.
      side: of the square, in the same unit.
      cells_per_side: cells along each side.
    """
    cells = tf.cast(tf.floor((positions / side + 0.5) * cells_per_side), tf.int32)
    first, second = tf.unstack(tf.clip_by_value(cells, 0, cells_per_side - 1), axis=-1)
    return first * cells_per_side + second


def _check_sizes(**sizes):
    for name, size in sizes.items():
        numbers = size if isinstance(size, tuple | list) else [size]
        if not numbers or not all(map(is_integer, numbers)):
            raise ValueError(f"{name}: was {size!r}, must be of integers greater than 0")
