"""Learning: the actor-critic loss of a trajectory, and the update that acts in worlds and learns from them.

The learner runs the agent over all T + 1 entries of a record (`tfmem.rl.rollout`). The first entry is the last of the
previous record. Then both are shifted against each other, as in scalable_agent:

    actions, actors' logits, rewards, dones    entries 1 ... T
    learner's logits and values                entries 0 ... T - 1; the value of entry T is the bootstrap

An update (`ActorCritic.train_step`) is T steps of B worlds, the loss and the optimizer, in one graph. It is the
`train_step` of a `tfmem.training.Experiment`, which adds exact resume, run folders and bundles.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from tfmem.backend import keras
from tfmem.rl import losses, returns
from tfmem.rl.rollout import ActorState, draw_uniforms, initial_actor_state, rollout
from tfmem.training import Evaluation
from tfmem.validation import check_bool, check_range, is_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings of the learner's loss; the defaults are scalable_agent's."""

    discount: float = 0.99
    """Discount of rewards per step; 0 where an episode ended."""
    lambda_: float = 1.0
    """Lambda of the trace."""
    clip_rho_threshold: float | None = 1.0
    """Bound of the ratios in the temporal differences."""
    clip_c_threshold: float | None = 1.0
    """Bound of the ratios in the trace."""
    clip_pg_rho_threshold: float | None = 1.0
    """Bound of the ratios in the advantages."""
    baseline_cost: float = 0.5
    """Weight of half the squared error of the values."""
    entropy_cost: float = 0.00025
    """Weight of the negative entropy, or of the concentration."""
    regularizer: Literal["entropy", "concentration"] = "entropy"
    """Regularizer of the policy: the negative entropy, or the sum of p^2 (Miconi et al. 2018)."""
    reward_mode: Literal["none", "abs_one", "soft_asymmetric"] = "abs_one"
    """Clipping of rewards (`returns.clip_rewards`)."""
    reward_scale: float = 1.0
    """Factor of rewards before the clipping. Public code: 1."""
    reduction: Literal["sum", "mean"] = "sum"
    """Reduction over time and batch."""
    correction: Literal["vtrace", "none"] = "vtrace"
    """Correction for actors with older weights: V-trace's ratios; none: all ratios are 1."""
    bootstrap_truncated: bool = False
    """End a truncated episode in the value of its last observation. Public code: no, its discount is 0 as well."""

    def __post_init__(self):
        for name in ("discount", "lambda_"):
            check_range(name, getattr(self, name), 0, 1)
        check_bool("bootstrap_truncated", self.bootstrap_truncated)
        if not is_number(self.reward_scale) or not 0 < self.reward_scale < float("inf"):
            raise ValueError(f"reward_scale: {self.reward_scale!r}, must be greater than 0 and finite")
        for name in ("clip_rho_threshold", "clip_c_threshold", "clip_pg_rho_threshold"):
            threshold = getattr(self, name)
            if threshold is not None and not (is_number(threshold) and threshold > 0):
                raise ValueError(f"{name}: {threshold!r}, must be greater than 0, or None")
        for name in ("baseline_cost", "entropy_cost"):
            check_range(name, getattr(self, name), 0)
        for name, choices in (
            ("regularizer", ("entropy", "concentration")),
            ("reward_mode", returns.REWARD_MODES),
            ("correction", ("vtrace", "none")),
            ("reduction", losses.REDUCTIONS),
        ):
            if getattr(self, name) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise ValueError(f"{name}: {getattr(self, name)!r}, must be one of {allowed}")


class Loss(NamedTuple):
    """Total loss, its unweighted parts, and the quantities behind them, [T, B] after the shift."""

    total: tf.Tensor
    policy_gradient: tf.Tensor
    baseline: tf.Tensor
    regularizer: tf.Tensor
    log_rhos: tf.Tensor
    discounts: tf.Tensor
    rewards: tf.Tensor
    targets: returns.VTrace


def actor_critic_loss(objective, entries, output):
    """Loss of a record.

    Args:
      objective: an `Objective`.
      entries: of a `Trajectory`, [T + 1, B, ...].
      output: `AgentOutput` of the learner over these; with `last_value` where the objective bootstraps.

    Returns:
      A `Loss`.
    """
    shifted = tf.nest.map_structure(lambda x: x[1:], entries)
    logits_tm1, v_tm1, v_t = output.logits[:-1], output.value[:-1], output.value[1:]
    ended, lambda_ = shifted.done, objective.lambda_
    if objective.bootstrap_truncated:
        ended = shifted.done & ~shifted.truncated
        lambda_ = tf.where(shifted.truncated, 0.0, lambda_)
        v_t = tf.where(shifted.truncated, output.last_value[1:], v_t)
    rewards = returns.clip_rewards(objective.reward_scale * shifted.reward, objective.reward_mode)
    discounts = tf.where(ended, 0.0, objective.discount)
    log_probs = losses.action_log_probs(logits_tm1, shifted.action)
    log_rhos = log_probs - losses.action_log_probs(shifted.logits, shifted.action)
    targets = returns.vtrace(
        v_tm1,
        v_t,
        rewards,
        discounts,
        tf.exp(log_rhos) if objective.correction == "vtrace" else tf.ones_like(log_rhos),
        lambda_,
        objective.clip_rho_threshold,
        objective.clip_c_threshold,
        objective.clip_pg_rho_threshold,
    )
    reduction = objective.reduction
    policy_gradient = losses.policy_gradient_loss(logits_tm1, shifted.action, targets.pg_advantages, reduction)
    baseline = losses.baseline_loss(targets.vs - v_tm1, reduction)
    regularizers = {"entropy": losses.entropy_loss, "concentration": losses.concentration_loss}
    regularizer = regularizers[objective.regularizer](logits_tm1, reduction)
    total = policy_gradient + objective.baseline_cost * baseline + objective.entropy_cost * regularizer
    return Loss(total, policy_gradient, baseline, regularizer, log_rhos, discounts, rewards, targets)


class AuxiliaryLoss(NamedTuple):
    """Value of an auxiliary loss.

    loss: scalar, added to the agent's loss.
    metrics: scalars by name.
    watched: `{metric: nest of tensors behind the loss}`; the metric is the norm of the gradient at them.
    """

    loss: tf.Tensor
    metrics: Any = {}  # noqa: RUF012 - never written to
    watched: Any = {}  # noqa: RUF012


@dataclasses.dataclass
class Auxiliary:
    """Loss that an agent's core has besides the actor-critic loss, in the same update.

    Attributes:
      loss: function `(entries, output, update) -> AuxiliaryLoss`: of a record's entries [T + 1, B, ...], the
        `AgentOutput` over them, and the update's number, from which draws follow.
      needs_states: the output also has the core's states.
      variables: those that the agent's optimizer trains with the agent's own.
      own_variables: those whose gradients `learn` gets.
      learn: function of gradients that updates `own_variables`.
    """

    loss: Callable
    needs_states: bool = False
    variables: Sequence = ()
    own_variables: Sequence = ()
    learn: Callable | None = None


class Episodes(NamedTuple):
    """Ended episode of each world, [B], and the number of ended ones; zeros before the first."""

    episode_return: tf.Tensor
    length: tf.Tensor
    solved: tf.Tensor
    number: tf.Tensor

    @classmethod
    def none(cls, batch_size):
        zeros = tf.zeros([batch_size])
        return cls(zeros, zeros, zeros, tf.zeros([batch_size], tf.int32))

    def after(self, entries, keep_first=False):
        """Update with the episodes that ended in a record: the latest of each world, or the first with `keep_first`."""
        new = tf.nest.map_structure(lambda x: x[1:], entries)
        count = tf.cumsum(tf.cast(new.done, tf.int32), reverse=not keep_first)
        chosen = new.done & (count == 1)
        seen = tf.reduce_any(chosen, 0)
        if keep_first:
            seen &= self.number == 0
        values = (new.episode_return, tf.cast(new.episode_length, tf.float32), tf.cast(new.solved, tf.float32))
        values = [tf.reduce_sum(tf.where(chosen, x, 0.0), 0) for x in values]
        values = [tf.where(seen, x, old) for x, old in zip(values, self[:3], strict=True)]
        return Episodes(*values, self.number + tf.reduce_sum(tf.cast(new.done, tf.int32), 0))

    def scores(self):
        """Means over the worlds with an ended episode, by name; 0 while there is none."""
        known = tf.cast(self.number > 0, tf.float32)
        names = ("episode_return", "episode_length", "solved")
        return {
            name: tf.math.divide_no_nan(tf.reduce_sum(known * x), tf.reduce_sum(known))
            for name, x in zip(names, self[:3], strict=True)
        }


class Carry(NamedTuple):
    """State that one update passes to the next.

    actor: `ActorState`.
    episodes: `Episodes`, the latest of each world.
    weights: the agent's weights before the last updates, [policy_lag + 1, ...] each; () without lag.
    """

    actor: ActorState
    episodes: Episodes
    weights: tuple


@dataclasses.dataclass
class ActorCritic:
    """Actors and learner of an agent's `Experiment`.

    The experiment's `initial_carry` and `train_step` call those of this class. Its `variables` are the agent's and the
    optimizer's; the carry holds everything else.

    Args:
      agent: an `Agent`, built for the world.
      world: see `tfmem.rl.rollout`.
      optimizer: a Keras optimizer, built for the agent's trainable variables; its `global_clipnorm` clips.
      objective: an `Objective`.
      num_worlds: B.
      unroll_length: T.
      policy_lag: age in updates of the actors' weights (at first: the initial ones). Default 0: on policy (A2C);
        IMPALA's queue has a lag of 1 or more.
      auxiliary: `Auxiliary` or None (default). The optimizer is then also built for its `variables`, after the agent's.

    Raises:
      ValueError: an argument is out of its range, or the agent's number of actions is not the world's.
    """

    agent: Any
    world: Any
    optimizer: Any
    objective: Objective
    num_worlds: int
    unroll_length: int
    policy_lag: int = 0
    auxiliary: Auxiliary | None = None

    def __post_init__(self):
        for name, least in (("num_worlds", 1), ("unroll_length", 1), ("policy_lag", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r}, must be an integer of at least {least}")
        if self.agent.num_actions != self.world.num_actions:
            raise ValueError(f"agent: {self.agent.num_actions} actions, must have the world's {self.world.num_actions}")

    def initial_carry(self, levels, seed):
        """Return the `Carry` of the first update.

        Args:
          levels: of the world, () if it has none.
          seed: an integer from 0 to 2^31 - 1.
        """
        actor = initial_actor_state(
            self.agent,
            self.world,
            levels,
            self.num_worlds,
            self.world.draw(tf.constant([seed, 0], tf.int64), self.num_worlds),
            keep_last=self.objective.bootstrap_truncated,
        )
        weights = ()
        if self.policy_lag:
            weights = tuple(tf.zeros([self.policy_lag + 1, *w.shape], w.dtype) for w in self.agent.weights)
        return Carry(actor, Episodes.none(self.num_worlds), weights)

    def train_step(self, update, levels, carry, seed):
        """Run one update, as `Experiment.train_step`: `(carry, metrics)`.

        Args:
          update: int64 scalar tensor, from 0.
          levels: of the world: the batch, or tensors that stay the same.
          carry: a `Carry`.
          seed: an integer from 0 to 2^31 - 1; all draws follow from it and from `update`.

        Metrics: "loss" and its parts; "gradient_norm" before clipping; "mean_rho", the mean ratio of learner's and
        actors' policies; means of "episode_return", "episode_length" and "solved" (see `Entry.solved`) of each world's
        latest ended episode; "episodes" and "frames" so far. A row of metrics.csv has their means.
        """
        uniforms, seeds = draws(seed, update, self.unroll_length, self.num_worlds)
        return self.act_and_learn(update, levels, carry, uniforms, seeds)

    def act_and_learn(self, update, levels, carry, uniforms, seeds):
        """Run `train_step` with given draws: uniforms [T, B] choose actions, seeds [T, 2] are the world's."""
        weights = self._remembered(update, carry.weights)
        actor, trajectory = self._act(update, levels, carry.actor, weights, uniforms, seeds)
        episodes, metrics = self.learn_and_count(update, trajectory, carry.episodes)
        return Carry(actor, episodes, weights), metrics

    def learn_and_count(self, update, trajectory, episodes):
        """Run the learner's half of `train_step`: learn from the record of all worlds; `(Episodes, metrics)`."""
        loss, metrics = self.learn(trajectory, update)
        episodes = episodes.after(trajectory.entries)
        number = tf.reduce_sum(tf.cast(episodes.number, tf.float32))
        frames = tf.cast((update + 1) * self.unroll_length * self.num_worlds, tf.float32)
        metrics |= {**episodes.scores(), "episodes": number, "frames": frames}
        return episodes, {"loss": loss, **metrics}

    def learn(self, trajectory, update=0):
        """Apply the gradient of a `Trajectory`; returns `(loss, metrics)`. `update`: number, for the auxiliary loss."""
        auxiliary, variables, own = self.auxiliary, self.trained_variables(), ()
        with tf.GradientTape() as tape:
            loss, extra = self.loss(trajectory, update)
            total = loss.total + extra.loss
        # Keras's variables name their dtype by a string, which an eager gradient of zeros does not understand.
        sources = [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]
        if auxiliary is not None:
            own = list(auxiliary.own_variables)
        found = tape.gradient(total, [sources, own, extra.watched])
        gradients, of_own = (
            [tf.zeros_like(v) if g is None else g for v, g in zip(part, of_part, strict=True)]
            for part, of_part in zip((sources, own), found, strict=False)
        )
        metrics = {
            "policy_gradient_loss": loss.policy_gradient,
            "baseline_loss": loss.baseline,
            f"{self.objective.regularizer}_loss": loss.regularizer,
            "mean_rho": tf.reduce_mean(tf.exp(loss.log_rhos)),
            "gradient_norm": tf.linalg.global_norm(gradients),
        }
        if auxiliary is not None:
            metrics |= {"auxiliary_loss": extra.loss, **extra.metrics}
            for name, at in found[2].items():
                metrics[name] = tf.linalg.global_norm([g for g in tf.nest.flatten(at) if g is not None])
        self.optimizer.apply(gradients, variables)
        if own:
            auxiliary.learn(of_own)
        return total, metrics

    def trained_variables(self):
        """List the variables of the optimizer: the agent's, then the auxiliary loss's."""
        extra = [] if self.auxiliary is None else self.auxiliary.variables
        return [*self.agent.trainable_variables, *extra]

    def loss(self, trajectory, update=0):
        """Return the `Loss` of a trajectory, and the `AuxiliaryLoss` for an update's number."""
        entries, auxiliary = trajectory.entries, self.auxiliary
        last = entries.last_observation if self.objective.bootstrap_truncated else None
        frames = (entries.observation, entries.action, entries.reward, entries.done)
        keep_states = auxiliary is not None and auxiliary.needs_states
        output, _ = self.agent.unroll(*frames, trajectory.core_state, last, keep_states)
        loss = actor_critic_loss(self.objective, entries, output)
        return loss, AuxiliaryLoss(tf.constant(0.0)) if auxiliary is None else auxiliary.loss(entries, output, update)

    def _remembered(self, update, weights):
        """Store the current weights in the history, in place of those that no actor needs any more."""
        if not self.policy_lag:
            return ()
        slot = tf.cast(update % (self.policy_lag + 1), tf.int32)[tf.newaxis, tf.newaxis]
        return tuple(
            tf.tensor_scatter_nd_update(history, slot, tf.convert_to_tensor(w)[tf.newaxis])
            for history, w in zip(weights, self.agent.weights, strict=True)
        )

    def _act(self, update, levels, actor, weights, uniforms, seeds):
        """Run a rollout with the weights of `policy_lag` updates ago, then restore the agent's own."""
        arguments = (self.agent, self.world, levels, actor, uniforms, seeds)
        if not self.policy_lag:
            return rollout(*arguments)
        own = [tf.identity(w) for w in self.agent.weights]
        slot = tf.maximum(update - self.policy_lag, 0) % (self.policy_lag + 1)
        for w, history in zip(self.agent.weights, weights, strict=True):
            w.assign(tf.gather(history, slot))
        result = rollout(*arguments)
        for w, value in zip(self.agent.weights, own, strict=True):
            w.assign(value)
        return result


def evaluation(
    agent, world, levels, num_worlds, unroll_length, num_steps, seed, jit_compile=False, measure=None, totals=()
):
    """Make the `Evaluation` of the first episode in each of B worlds; in world i on level i of the pool.

    Its scores are "episode_return", "episode_length", "solved" (means over the worlds whose episode has ended) and
    "ended", the share of these worlds. Actions are drawn from the policy.

    Args:
      agent, world, levels: as for `ActorCritic`.
      num_worlds: B.
      unroll_length: world steps in one step of the evaluation.
      num_steps: steps of the evaluation.
      seed: an integer of at least 0, another than in training.
      jit_compile: compile the step by XLA. Default False.
      measure: function of the step's number, its `Trajectory` and `totals` to `(totals, scores)`, for further scores.
      totals: nest of tensors that its first call gets.

    Returns:
      `Evaluation`; its last carry is `(actor, episodes, totals)`, an `ActorState`, the `Episodes` and those of
      `measure`.
    """

    def step(number, batch, carry):
        actor, episodes, totals = carry
        uniforms, seeds = draws(seed, number, unroll_length, num_worlds)
        actor, trajectory = rollout(agent, world, levels, actor, uniforms, seeds)
        episodes = episodes.after(trajectory.entries, keep_first=True)
        ended = tf.cast(tf.math.count_nonzero(episodes.number), tf.float32) / num_worlds
        totals, scores = (totals, {}) if measure is None else measure(number, trajectory, totals)
        return (actor, episodes, totals), {**episodes.scores(), "ended": ended, **scores}

    decisions = world.draw(tf.constant([seed, 0], tf.int64), num_worlds)
    if "level" in getattr(decisions, "_fields", ()):
        decisions = decisions._replace(level=tf.range(num_worlds, dtype=decisions.level.dtype))
    actor = initial_actor_state(agent, world, levels, num_worlds, decisions)
    return Evaluation(
        num_steps,
        (actor, Episodes.none(num_worlds), totals),
        tf.function(step, jit_compile=jit_compile, autograph=False),
    )


def draws(seed, update, unroll_length, num_worlds):
    """Draw an update's numbers that choose actions, [T, B], and seeds of the worlds' draws, [T, 2].

    The worlds' seeds are [seed, step], with steps from 1 (0: the start); those of actions [2^31 + seed, update].
    """
    uniforms = draw_uniforms(tf.stack([tf.constant(2**31 + seed, tf.int64), update]), [unroll_length, num_worlds])
    steps = 1 + update * unroll_length + tf.range(unroll_length, dtype=tf.int64)
    return uniforms, tf.stack([tf.fill([unroll_length], tf.constant(seed, tf.int64)), steps], -1)
