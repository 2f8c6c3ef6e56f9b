"""Acting and learning in one graph: the record, the shift and the loss against goldens/impala_indexing, and an
experiment that trains, resumes and compiles.
"""

import dataclasses

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.aot.experiments import tensorflow_losses
from tests.aot.support import aot, losses
from tests.references import returns as reference
from tests.rl.experiment import Config, CueExperiment
from tests.rl.worlds import Cue, Indexing
from tests.support import first_of, relative_error
from tests.training.test_trainer import Crash, assert_same_run, state_of
from tfmem.aot.bundle import write_bundle
from tfmem.aot.lowering import make_bundle
from tfmem.cores import LSTMStack
from tfmem.envs.grid.box_world import BoxWorld
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.envs.grid.mini_pacman import MiniPacman
from tfmem.optimizers import TF1RMSprop, linear_decay
from tfmem.rl import returns
from tfmem.rl.agent import Agent, MLPTorso
from tfmem.rl.learner import ActorCritic, Auxiliary, AuxiliaryLoss, Episodes, Objective, actor_critic_loss, evaluation
from tfmem.rl.rollout import Entry, Trajectory, choose, draw_uniforms, initial_actor_state, observation_spec, rollout
from tfmem.training import TrainingDivergedError, compiled_updates, train
from tfmem.training.run_folder import RunFolder

TOLERANCE = 2e-5


# ------------------------------------------------------------------------------------------------ the golden's agent


class LinearCore(snt.RNNCore):
    """c W + x V + b."""

    def __init__(self, size, name=None):
        super().__init__(name=name)
        self.size = size

    @snt.once
    def _build(self, features):
        self.core_state, self.core_input = (
            tf.Variable(tf.zeros([self.size] * 2)),
            tf.Variable(tf.zeros([features, self.size])),
        )
        self.core_bias = tf.Variable(tf.zeros([self.size]))

    def initial_state(self, batch_size, dtype=tf.float32):
        return tf.zeros([batch_size, self.size], dtype)

    def __call__(self, inputs, state):
        self._build(inputs.shape[-1])
        state = state @ self.core_state + inputs @ self.core_input + self.core_bias
        return state, state


class Golden:
    """The arrays of goldens/impala_indexing, and an agent whose weights have their names."""

    def __init__(self, path):
        self.data = np.load(path)
        self.T, self.B, self.A, self.C, _, self.K = (int(n) for n in self.data["sizes"])
        self.world, self.levels = Indexing(self.A), tf.constant(self.data["episode_lengths"], tf.int32)
        core = LinearCore(self.C)
        self.agent = Agent(MLPTorso(), core, self.A).build_for(observation_spec(self.world))
        policy, baseline = self.agent.policy, self.agent.baseline
        self.weights = {
            **{name: getattr(core, name) for name in ("core_state", "core_input", "core_bias")},
            "policy_w": policy.kernels[0].value,
            "policy_b": policy.biases[0].value,
            "baseline_w": baseline.kernels[0].value,
            "baseline_b": baseline.biases[0].value,
        }

    def set_weights(self, perturbed=False):
        for name, variable in self.weights.items():
            value = self.data[f"weights/{name}"] + perturbed * self.data[f"perturbation/{name}"]
            variable.assign(value.reshape(variable.shape))

    def uniforms(self, k):
        return tf.constant(self.data["uniform"][k], tf.float32)

    def start(self):
        return initial_actor_state(
            self.agent, self.world, self.levels, self.B, self.world.draw(tf.constant([0, 0], tf.int64), self.B)
        )

    def act(self, actor, k):
        seeds = tf.zeros([self.T, 2], tf.int64)
        return rollout(self.agent, self.world, self.levels, actor, self.uniforms(k), seeds)

    def learn(self, trajectory, objective=None):
        """`(loss, output, states after each entry, gradients by name)`."""
        entries = trajectory.entries
        with tf.GradientTape() as tape:
            arguments = (entries.observation, entries.action, entries.reward, entries.done, trajectory.core_state)
            output, _ = self.agent.unroll(*arguments)
            loss = actor_critic_loss(objective or Objective(), entries, output)
        return loss, output, dict(zip(self.weights, tape.gradient(loss.total, [*self.weights.values()]), strict=True))

    def check(self, prefix, values):
        for name, value in values.items():
            expected = self.data[f"{prefix}/{name}"]
            value = np.asarray(value).reshape(expected.shape)
            if expected.dtype.kind in "ib":
                np.testing.assert_array_equal(value, expected, err_msg=f"{prefix}/{name}")
            elif np.max(np.abs(expected)) < 1e-6:  # zero but for rounding
                np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=f"{prefix}/{name}")
            else:
                assert relative_error(value, expected) < TOLERANCE, f"{prefix}/{name}"

    def check_record(self, prefix, trajectory):
        names = {
            "observation": "observation",
            "reward": "reward",
            "done": "done",
            "episode_return": "episode_return",
            "episode_step": "episode_length",
            "action": "action",
            "behaviour_logits": "logits",
            "behaviour_baseline": "baseline",
        }
        record = {name: getattr(trajectory.entries, field) for name, field in names.items()}
        self.check(f"{prefix}/record", {**record, "core_state": tf.nest.flatten(trajectory.core_state)[0]})


@pytest.fixture
def indexing(golden):
    return Golden(golden("impala_indexing/indexing.npz"))


def unrolls(golden, learner_perturbed):
    """The trajectories of all unrolls, acted with the start weights; afterwards the learner's are set."""
    golden.set_weights()
    actor, trajectories = golden.start(), []
    for k in range(golden.K):
        actor, trajectory = golden.act(actor, k)
        trajectories.append(trajectory)
    golden.set_weights(learner_perturbed)
    return trajectories


@pytest.mark.parametrize("scenario", ["equal", "perturbed"])
def test_records_and_losses_equal_the_reference(indexing, scenario):
    for k, trajectory in enumerate(unrolls(indexing, scenario == "perturbed")):
        prefix = f"{scenario}/unroll{k}"
        indexing.check_record(prefix, trajectory)
        loss, output, gradients = indexing.learn(trajectory)
        indexing.check(
            prefix,
            {
                "learner_logits": output.logits,
                "learner_baseline": output.value,
                "learner_core": output.core,
                "bootstrap_value": output.value[-1],
                "log_rhos": loss.log_rhos,
                "discounts": loss.discounts,
                "entropy_loss": loss.regularizer,
                **{f"grad/{name}": gradient for name, gradient in gradients.items()},
            },
        )
        if scenario == "equal":
            np.testing.assert_allclose(loss.log_rhos, np.zeros([indexing.T, indexing.B]), atol=1e-6)
        for mode in returns.REWARD_MODES:
            loss, *_ = indexing.learn(trajectory, Objective(reward_mode=mode))
            indexing.check(
                f"{prefix}/{mode}",
                {
                    "clipped_rewards": loss.rewards,
                    "vs": loss.targets.vs,
                    "pg_advantages": loss.targets.pg_advantages,
                    "policy_gradient_loss": loss.policy_gradient,
                    "baseline_loss": loss.baseline,
                    "total_loss": loss.total,
                },
            )


@pytest.mark.parametrize("scenario", ["equal", "perturbed"])
def test_unrolls_joined_at_their_shared_frames(indexing, scenario):
    trajectories = unrolls(indexing, scenario == "perturbed")
    first, *rest = (t.entries for t in trajectories)
    joined = tf.nest.map_structure(lambda x, *more: tf.concat([x, *(m[1:] for m in more)], 0), first, *rest)
    trajectory = Trajectory(joined, trajectories[0].core_state)
    indexing.check_record(f"{scenario}/joined", trajectory)
    loss, output, _ = indexing.learn(trajectory)
    values = {"learner_logits": output.logits, "learner_baseline": output.value, "learner_core": output.core}
    indexing.check(f"{scenario}/joined", {**values, "log_rhos": loss.log_rhos, "entropy_loss": loss.regularizer})
    indexing.check(f"{scenario}/joined/abs_one", {"vs": loss.targets.vs, "total_loss": loss.total})
    if scenario == "equal":
        for k, t in enumerate(trajectories):
            alone = indexing.learn(t)[1].logits
            assert relative_error(alone, output.logits[k * indexing.T : (k + 1) * indexing.T + 1]) < 1e-5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_one_update_behind_equals_the_reference(indexing, jit_compile):
    """`policy_lag=1`, TF 1's RMSProp and its falling learning rate, over all unrolls."""
    indexing.set_weights()
    optimizer = TF1RMSprop(0.02, rho=0.99, epsilon=0.1)
    optimizer.build(indexing.agent.trainable_variables)
    learner = ActorCritic(indexing.agent, indexing.world, optimizer, Objective(), indexing.B, indexing.T, policy_lag=1)
    frames_per_update = indexing.T * indexing.B * 4

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(update, carry, uniforms):
        optimizer.learning_rate.assign(linear_decay(update * frames_per_update, 0.02, 0.0, 1000))
        seeds = tf.zeros([indexing.T, 2], tf.int64)
        return learner.act_and_learn(update, indexing.levels, carry, uniforms, seeds)

    carry = learner.initial_carry(indexing.levels, 0)
    variables = {name: v for name, v in indexing.weights.items()}
    for k in range(indexing.K):
        prefix = f"training/unroll{k}"
        carry, metrics = step(tf.constant(k, tf.int64), carry, indexing.uniforms(k))
        np.testing.assert_allclose(metrics["loss"], indexing.data[f"{prefix}/abs_one/total_loss"], rtol=TOLERANCE)
        gradients = [indexing.data[f"{prefix}/grad/{name}"].ravel() for name in variables]
        np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(np.concatenate(gradients)), rtol=TOLERANCE)
        rho = np.exp(indexing.data[f"{prefix}/log_rhos"]).mean()
        np.testing.assert_allclose(metrics["mean_rho"], rho, rtol=1e-5)
        assert metrics["frames"] == (k + 1) * indexing.T * indexing.B
        indexing.check(f"{prefix}/after", variables)
        entry = tf.nest.map_structure(lambda x: x[np.newaxis], carry.actor.entry)
        for name, field in (("observation", "observation"), ("action", "action"), ("behaviour_logits", "logits")):
            expected = indexing.data[f"{prefix}/record/{name}"][-1:]
            assert relative_error(getattr(entry, field), expected) < TOLERANCE


# ------------------------------------------------------------------------------------------------------ the learner


def make_learner(lag=0, truncating=False, bootstrap=False, jit_compile=False, **objective):
    world = Cue(4, truncating)
    agent = Agent(MLPTorso(), LSTMStack(5, 1), 2).build_for(observation_spec(world))
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(agent.trainable_variables)
    learner = ActorCritic(
        agent, world, optimizer, Objective(bootstrap_truncated=bootstrap, **objective), 3, 6, policy_lag=lag
    )
    step = tf.function(lambda u, c: learner.train_step(u, (), c, 5), jit_compile=jit_compile, autograph=False)
    return learner, lambda update, carry: step(tf.constant(update, tf.int64), carry)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_actors_use_the_weights_of_so_many_updates_ago(lag):
    learner, step = make_learner(lag)
    carry, weights = learner.initial_carry((), 5), []
    for update in range(6):
        weights.append(learner.agent.get_weights())
        before = carry.actor
        carry, metrics = step(update, carry)
        now = learner.agent.get_weights()
        assert any(np.any(a != b) for a, b in zip(now, weights[-1], strict=True))
        learner.agent.set_weights(weights[max(update - lag, 0)])
        seeds = tf.constant([[5, 1 + update * 6 + t] for t in range(6)], tf.int64)
        uniforms = draw_uniforms(tf.constant([2**31 + 5, update], tf.int64), [6, 3])
        expected, _ = rollout(learner.agent, learner.world, (), before, uniforms, seeds)
        learner.agent.set_weights(now)
        for a, e in zip(tf.nest.flatten(carry.actor), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
        on_policy = lag == 0 or update == 0
        assert (abs(metrics["mean_rho"] - 1) < 1e-6) == on_policy


def test_time_limits_bootstrap_where_asked():
    """Against the slow V-trace, with the value of what each episode came to, step by step from the state before."""
    learner, _ = make_learner(truncating=True, bootstrap=True)
    agent, actor = learner.agent, learner.initial_carry((), 5).actor
    seeds = tf.constant([[5, 1 + t] for t in range(9)], tf.int64)
    _, trajectory = rollout(agent, learner.world, (), actor, draw_uniforms([1, 2], [9, 3]), seeds)
    e, state, values, last_values = trajectory.entries, trajectory.core_state, [], []
    assert np.any(e.truncated[1:])
    never = tf.zeros([3], tf.bool)
    for t in range(10):
        last_values.append(agent.step(e.last_observation[t], e.action[t], e.reward[t], never, state)[0].value)
        output, state = agent.step(e.observation[t], e.action[t], e.reward[t], e.done[t], state)
        values.append(output.value)
    values, cut = np.array(values), e.truncated.numpy()[1:]
    loss, extra = learner.loss(trajectory)
    v_t = np.where(cut, np.array(last_values)[1:], values[1:])
    ones = np.ones_like(v_t)
    clips = {"clip_rho": 1.0, "clip_c": 1.0, "clip_pg_rho": 1.0}
    expected = reference.vtrace(values[:-1], v_t, e.reward[1:], 0.99 * ones, ones, 1.0 - cut, **clips)
    assert relative_error(loss.targets.vs, expected[0]) < 1e-5
    assert relative_error(loss.targets.pg_advantages, expected[1]) < 1e-5
    plain, _ = make_learner(truncating=True)[0].loss(trajectory)
    np.testing.assert_array_equal(plain.discounts, np.where(cut, np.float32(0), np.float32(0.99)))
    assert extra.loss == 0


def test_the_published_variants(rng):
    learner, _ = make_learner()
    _, trajectory = rollout(
        learner.agent,
        learner.world,
        (),
        learner.initial_carry((), 5).actor,
        draw_uniforms([1, 2], [6, 3]),
        tf.zeros([6, 2], tf.int64),
    )

    def loss(**objective):
        learner.objective = Objective(**objective)
        return learner.loss(trajectory)[0]

    summed, mean = loss(), loss(reduction="mean")
    for part in ("total", "policy_gradient", "baseline", "regularizer"):
        np.testing.assert_allclose(getattr(summed, part) / 18, getattr(mean, part), rtol=1e-5)
    p = tf.nn.softmax(learner.agent.unroll(*_inputs(trajectory))[0].logits)[:-1].numpy()
    maze = loss(discount=0.9, baseline_cost=0.06, entropy_cost=0.1, regularizer="concentration", reduction="mean")
    np.testing.assert_allclose(maze.regularizer, (p**2).sum(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        maze.total, maze.policy_gradient + 0.06 * maze.baseline + 0.1 * maze.regularizer, rtol=1e-5
    )
    entries = trajectory.entries
    stale = trajectory._replace(entries=entries._replace(logits=entries.logits + tf.constant([1.0, -1.0])))
    corrected, plain = (learner.loss(stale)[0] for learner.objective in (Objective(), Objective(correction="none")))
    assert np.all(np.abs(corrected.log_rhos) > 0.01)
    np.testing.assert_array_equal(plain.log_rhos, corrected.log_rhos)
    np.testing.assert_allclose(plain.targets.vs, loss().targets.vs, rtol=1e-5, atol=1e-6)
    assert np.abs(plain.targets.vs - corrected.targets.vs).max() > 1e-3
    scaled = loss(reward_scale=0.1)
    np.testing.assert_allclose(scaled.rewards, 0.1 * trajectory.entries.reward[1:], rtol=1e-6)
    learner.auxiliary = Auxiliary(lambda entries, output, update: AuxiliaryLoss(tf.reduce_sum(output.core)))
    extra = learner.loss(trajectory)[1]
    np.testing.assert_allclose(extra.loss, tf.reduce_sum(learner.agent.unroll(*_inputs(trajectory))[0].core), rtol=1e-4)


def _inputs(trajectory):
    e = trajectory.entries
    return e.observation, e.action, e.reward, e.done, trajectory.core_state


def test_ended_episodes_are_counted():
    done = tf.constant(np.array([[1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0]], bool))  # entry 0 is of the record before
    numbers = tf.reshape(tf.range(12.0), [4, 3])
    fields = {name: numbers for name in Entry._fields}
    fields |= {"done": done, "truncated": tf.constant(np.array([[0, 0, 0]] * 3 + [[0, 1, 0]], bool))}
    entries = Entry(**fields)
    latest, first = (Episodes.none(3).after(entries, keep_first) for keep_first in (False, True))
    np.testing.assert_array_equal(latest.number, [1, 2, 0])
    np.testing.assert_array_equal(latest.episode_return, [6, 10, 0])
    np.testing.assert_array_equal(latest.solved, [1, 0, 0])
    np.testing.assert_array_equal(first.episode_return, [6, 4, 0])
    np.testing.assert_array_equal(first.after(entries, True).episode_return, [6, 4, 0])
    np.testing.assert_array_equal(latest.after(entries).number, [2, 4, 0])
    assert latest.scores()["episode_return"] == 8
    assert Episodes.none(3).scores()["solved"] == 0


def test_actions_follow_the_policy(rng):
    logits = tf.constant(rng.normal(size=[1, 5]), tf.float32)
    uniforms = draw_uniforms([7, 3], [20000])
    assert tf.reduce_min(uniforms) >= 0
    assert tf.reduce_max(uniforms) < 1
    actions = choose(tf.repeat(logits, 20000, 0), uniforms).numpy()
    np.testing.assert_allclose(np.bincount(actions, minlength=5) / 20000, tf.nn.softmax(logits)[0], atol=0.015)
    compiled = tf.function(draw_uniforms, jit_compile=True)(tf.constant([7, 3]), tf.constant([20000]).numpy())
    np.testing.assert_array_equal(compiled, uniforms)
    certain = tf.constant([[-1e9, 0.0, -1e9]] * 2)
    np.testing.assert_array_equal(choose(certain, tf.constant([0.0, 1 - 2.0**-24])), [1, 1])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("discount", 1.5, "discount: 1.5, must be from 0 to 1"),
        ("discount", "1", "discount: '1', must be a number, from 0 to 1"),
        ("clip_rho_threshold", "1", "clip_rho_threshold: '1', must be greater than 0, or None"),
        ("reward_scale", None, "reward_scale: None, must be greater than 0 and finite"),
        ("bootstrap_truncated", 1, "bootstrap_truncated: 1, must be True or False"),
        ("lambda_", -0.1, "lambda_: -0.1, must be from 0 to 1"),
        ("clip_c_threshold", 0, "clip_c_threshold: 0, must be greater than 0, or None"),
        ("entropy_cost", float("nan"), "entropy_cost: nan, must be at least 0"),
        ("reward_scale", 0.0, "reward_scale: 0.0, must be greater than 0 and finite"),
        ("regularizer", "l2", "regularizer: 'l2', must be one of 'entropy', 'concentration'"),
        ("reward_mode", "clip", "reward_mode: 'clip', must be one of 'none', 'abs_one', 'soft_asymmetric'"),
        ("correction", "is", "correction: 'is', must be one of 'vtrace', 'none'"),
        ("reduction", "max", "reduction: 'max', must be one of 'sum', 'mean'"),
    ],
)
def test_objectives_name_bad_arguments(argument, value, message):
    with pytest.raises(ValueError, match=message):
        Objective(**{argument: value})


def test_learners_name_bad_arguments():
    learner, _ = make_learner()
    for change, message in (
        ({"policy_lag": -1}, "policy_lag: -1, must be an integer of at least 0"),
        ({"unroll_length": 2.0}, "unroll_length: 2.0, must be an integer of at least 1"),
        ({"world": Indexing(5)}, "agent: 2 actions, must have the world's 5"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(learner, **change)


def test_a_world_that_changes_its_observation_is_refused():
    class Growing(Cue):
        def step(self, levels, state, action, cue):
            state, result = super().step(levels, state, action, cue)
            return state, result._replace(observation=tf.concat([result.observation] * 2, -1))

    learner, _ = make_learner()
    learner.world = Growing()
    with pytest.raises(ValueError, match=r"observation: float32 \(3, 6\) after a step, must be float32 \(3, 3\)"):
        learner.train_step(tf.constant(0, tf.int64), (), learner.initial_carry((), 5), 5)


# --------------------------------------------------------------------------------------------------- as an experiment

SCHEDULE = {"updates_per_call": 3, "log_every": 4, "eval_every": 6, "checkpoint_every": 6}


class CrashingExperiment(CueExperiment):
    """Loses its data at update 8."""

    def batch(self, update):
        if update == 8:
            raise Crash
        return super().batch(update)


@pytest.mark.long
def test_resumed_equals_uninterrupted(tmp_path):
    config = Config(num_updates=11, policy_lag=2, **SCHEDULE)
    train(CueExperiment(config), tmp_path / "whole")
    with pytest.raises(Crash):
        train(CrashingExperiment(config), tmp_path / "resumed")
    assert RunFolder(tmp_path / "resumed").restore()[0].update == 6
    train(CueExperiment(config), tmp_path / "resumed")
    assert_same_run(tmp_path / "resumed", state_of(tmp_path / "whole"))
    rows = RunFolder(tmp_path / "whole").metrics()
    assert {"train/loss", "train/gradient_norm", "train/mean_rho", "train/solved"} <= set(rows[0])
    assert {"eval/episode_return", "eval/solved", "eval/ended"} <= set(rows[-1])
    assert rows[-1]["eval/ended"] == 1


@pytest.mark.long
def test_a_bundle_trains_as_tensorflow_does(tmp_path):
    config = Config(num_updates=3, policy_lag=1, log_every=1)
    write_bundle(make_bundle(CueExperiment(config)), tmp_path / "bundle")
    done = aot("run", tmp_path / "bundle", "--folder", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    experiment = CueExperiment(config)
    np.testing.assert_allclose(losses(tmp_path / "run"), tensorflow_losses(experiment, 3), rtol=1e-4)
    checkpoint, _ = RunFolder(tmp_path / "run").restore()
    for name, variable in experiment.variables().items():
        np.testing.assert_allclose(checkpoint.arrays[f"variables/{name}"], variable.numpy(), rtol=1e-3, atol=1e-5)
    assert RunFolder(tmp_path / "run").result()["ours"]["ended"] == 1


def test_rewards_that_are_nan_end_a_run(tmp_path):
    with pytest.raises(TrainingDivergedError, match="loss is nan at update 5"):
        train(CueExperiment(Config(num_updates=9, nan_at=4, **SCHEDULE)), tmp_path)


@pytest.mark.parametrize("lag", first_of([0, 2]))
def test_memory_solves_what_needs_memory(lag):
    solved = {}
    for memory in (True, False):
        experiment = CueExperiment(Config(num_updates=120, updates_per_call=120, memory=memory, policy_lag=lag))
        updates, carry = compiled_updates(experiment, 120), experiment.initial_carry()
        carry, metrics = updates(tf.constant(0, tf.int64), {"extra": np.zeros([120], np.float32)}, carry)
        assert tf.reduce_all(tf.math.is_finite(metrics["loss"]))
        solved[memory] = experiment.evaluate()["solved"]
    assert solved[True] > 0.95
    assert 0.25 < solved[False] < 0.75


def test_evaluation_is_of_first_episodes():
    learner, _ = make_learner()
    found = evaluation(learner.agent, learner.world, (), 8, 3, 3, 4)
    assert found.num_steps == 3
    carry, ended = found.carry, []
    for number in range(3):
        carry, scores = found.step(tf.constant(number, tf.int64), {}, carry)
        ended.append(float(scores["ended"]))
    assert ended == [0, 1, 1]
    assert scores["episode_length"] == 4
    again = found.scores(lambda number: {})
    assert again == {name: float(score) for name, score in scores.items()}


def test_evaluation_measures_more():
    learner, _ = make_learner()

    def measure(number, trajectory, total):
        total += tf.reduce_sum(trajectory.entries.reward[1:])
        return total, {"total_reward": total, "number": number}

    found = evaluation(learner.agent, learner.world, (), 8, 4, 2, 4, measure=measure, totals=tf.constant(0.0))
    (actor, episodes, total), scores = found.run(lambda number: {})
    assert scores["number"] == 1
    assert total == scores["total_reward"] == tf.reduce_sum(episodes.episode_return + actor.entry.episode_return)


class Labeled(Cue):
    def labels(self, state):
        return {"cue": state.cue, "time": state.time}


def test_records_hold_the_labels_of_every_frame():
    world = Labeled(4)
    agent = Agent(MLPTorso(), LSTMStack(5, 1), 2).build_for(observation_spec(world))
    seeds = tf.stack([tf.fill([6], 3), tf.range(6)], -1)
    actor = initial_actor_state(agent, world, (), 3, world.draw([0, 0], 3))
    _, trajectory = rollout(agent, world, (), actor, draw_uniforms([1, 2], [6, 3]), tf.cast(seeds, tf.int64))
    entries = trajectory.entries
    np.testing.assert_array_equal(entries.labels["time"], np.tile(np.arange(7)[:, None] % 4, 3))
    shown = entries.observation.numpy()[..., :2]
    cues = np.argmax(shown, -1)[[0, 0, 0, 0, 4, 4, 4]]
    np.testing.assert_array_equal(entries.labels["cue"], cues)


@pytest.mark.parametrize(
    "world",
    first_of([BoxWorld(max_steps=5), GoalMaze(max_steps=5), MiniPacman(max_steps=5)]),
    ids=lambda w: type(w).__name__,
)
def test_grid_worlds_compile_with_an_agent(world):
    levels = tf.nest.map_structure(tf.constant, world.levels(6, seed=0))
    agent = Agent(MLPTorso((8,)), LSTMStack(4, 1), world.num_actions).build_for(observation_spec(world))
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(agent.trainable_variables)
    learner = ActorCritic(agent, world, optimizer, Objective(bootstrap_truncated=True), 3, 8, policy_lag=1)
    step = tf.function(lambda *inputs: learner.train_step(*inputs, 0), jit_compile=True, autograph=False)
    _, metrics = step(tf.constant(0, tf.int64), levels, learner.initial_carry(levels, 0))
    assert np.isfinite(metrics["loss"])
    assert metrics["episodes"] >= 3
