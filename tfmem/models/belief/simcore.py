"""SimCore: beliefs shaped by a model of future frames (Gregor et al. 2019, appendix E and the listing in K).

    t_1 ... t_{N_t} from 0 ... T - L_o - 1,  d_1 ... d_{N_g} from 0 ... L_o - 1, both without replacement
    loss = mean over i, j, batch of L(x_{t_j + 1 + d_i} | b_{t_j, d_i})  with any model of frames given a vector

Letters as in `tfmem.models.belief`. The frame at a start is never modeled. Gradients pass from the simulation into the
belief states (K).
"""

from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.axes import leading_sizes, merge_leading
from tfmem.recurrence import unroll
from tfmem.validation import check_positive


def windows(x, starts, size):
    """The steps after each start: x[1 + start + d] for d = 0 ... size - 1.

    Args:
      x: [T, B, ...].
      starts: int32 [N, B], or [N, 1] where they serve the whole batch; less than T - size.

    Returns:
      [size, N, B, ...].
    """
    return _at(x, 1 + tf.range(size)[:, tf.newaxis, tf.newaxis] + starts)


def _at(x, times):
    """x [T, B, ...] at times [..., B], or [..., 1] for the whole batch: [..., B, ...]."""
    if hasattr(x, "at"):  # a core's own table of states, such as `MemoryOverTime`
        return x.at(times)
    if times.shape[-1] == 1:
        return tf.gather(x, times[..., 0])
    elements = tf.broadcast_to(tf.range(tf.shape(times)[-1]), tf.shape(times))
    return tf.gather_nd(x, tf.stack([times, elements], -1))


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
    leading = leading_sizes(staggered, 3)
    staggered = tf.reshape(staggered, [sim_length, leading[1] * leading[2], *staggered.shape[3:]])
    initial_state = tf.nest.map_structure(lambda s: merge_leading(_at(s, starts), 2), init_states)
    sim_outputs, final_state = unroll(core, staggered, initial_state)
    return tf.reshape(sim_outputs, [*leading, sim_outputs.shape[-1]]), final_state


class SimCoreLoss(NamedTuple):
    """Output of a `SimCoreHead` for N = N_g N_t B frames, ordered by offset, then start, then batch element.

    The mean of `error` is the loss of a deterministic model, `GECO(...)(output.error, output.kl)` that of one with
    latents.
    """

    error: tf.Tensor  # [N], the model's squared error, summed over the frame
    kl: tf.Tensor  # [N], nats
    reconstruction: tf.Tensor  # [N, height, width, channels]
    frames: tf.Tensor  # [N, height, width, channels], the modeled frames
    conditioning: tf.Tensor  # [N, C], the simulated beliefs
    sim_outputs: tf.Tensor  # [L_o, N_t, B, C], those of whole rollouts
    sim_time_indices: tf.Tensor  # [N_t, 1 or B], the starts
    dt: tf.Tensor  # [N_g, 1 or B], the offsets
    frame_indices: tf.Tensor  # [N_g, N_t, 1 or B], 1 + start + offset


class SimCoreHead(snt.Module):
    """The loss that shapes beliefs: frames modeled at random places of rollouts from random steps.

        head = SimCoreHead(model.simulation, model.frame_model, sim_length=12, num_to_model_time=6, num_to_model_sim=2)
        beliefs, states, _ = model.belief(frames, actions)
        output = head(frames, actions, states, seed=[0, 1])
        loss = tf.reduce_mean(output.error)

    Args:
      core: the simulation core; see `unroll_sim`.
      model: a model of frames given a vector, such as `ConvDRAW`: `model(frames [N, height, width, channels],
        conditioning [N, C], seed)` is a tuple with `error` [N], `kl` [N] and `reconstruction`.
      sim_length: L_o, steps of a rollout.
      num_to_model_time: N_t, rollouts of a trajectory, at most T - L_o.
      num_to_model_sim: N_g, frames modeled of a rollout, at most L_o.
      per_element: draw starts and offsets for each element of the batch. Paper: once for the whole batch (default).

    Raises:
      ValueError: a number is not a positive integer.

    Source: `SimCoreHead` of Appendix K.
    """

    def __init__(
        self, core, model, sim_length, num_to_model_time, num_to_model_sim, per_element=False, name="SimCoreHead"
    ):
        super().__init__(name=name)
        check_positive(sim_length=sim_length, num_to_model_time=num_to_model_time, num_to_model_sim=num_to_model_sim)
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
        conditioning = merge_leading(tf.transpose(_at(every_start, dt), [0, 2, 1, 3]), 3)
        frame_indices = 1 + dt[:, tf.newaxis] + sim_time_indices
        frames_dt = merge_leading(_at(frames, frame_indices), 3)
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
                    raise ValueError(f"{name}: shape {x.shape}, must start with those of frames, {leading}")
        if leading[0] is not None and leading[0] <= self.sim_length:
            raise ValueError(f"frames: {leading[0]} steps, must have more than sim_length = {self.sim_length}")
        return leading_sizes(frames, 2)


def _permutations(n, columns, seed):
    """`columns` random orders of 0 ... n - 1, int32 [n, columns]."""
    keys = tf.random.stateless_uniform([n, columns], seed, None, None, tf.int32, alg="philox")
    return tf.argsort(keys, axis=0, stable=True)


def _columns(permutation):
    permutation = tf.convert_to_tensor(permutation, tf.int32)
    return permutation[:, tf.newaxis] if permutation.shape.rank == 1 else permutation
