"""Losses against the public IMPALA code's arrays: values and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.rl import losses, returns
from tfmem.rl.agent import AgentOutput
from tfmem.rl.learner import Objective, actor_critic_loss
from tfmem.rl.rollout import Entry


def value_and_gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return value, tape.gradient(value, x)


def test_losses_equal_the_public_code(golden):
    data = np.load(golden("vtrace/losses.npz"))
    cases = {
        "baseline_loss": ("advantages", losses.baseline_loss),
        "entropy_loss": ("logits", losses.entropy_loss),
        "policy_gradient_loss": (
            "logits",
            lambda x: losses.policy_gradient_loss(x, data["actions"], data["advantages"]),
        ),
    }
    for name, (argument, function) in cases.items():
        value, gradient = value_and_gradient(function, data[argument])
        assert relative_error(value, data[name]) < 1e-5
        assert relative_error(gradient, data[f"{name}_grad_{argument}"]) < 1e-5
    _, gradient = value_and_gradient(
        lambda x: losses.policy_gradient_loss(data["logits"], data["actions"], x), data["advantages"]
    )
    assert gradient is None


def test_gradients_of_log_probabilities_equal_the_public_code(golden):
    data = np.load(golden("vtrace/vtrace.npz"))
    actions, target, behaviour = (
        data[f"in/{x}"] for x in ("actions", "target_policy_logits", "behaviour_policy_logits")
    )
    for name, sign, x in (
        ("target_action_log_probs_wrt_target", 1, target),
        ("log_rhos_wrt_target", 1, target),
        ("log_rhos_wrt_behaviour", -1, behaviour),
    ):
        cotangent = data[f"logits/cotangent_{name.split('_wrt_')[0]}"]
        _, gradient = value_and_gradient(
            lambda x, c=sign * cotangent: tf.reduce_sum(losses.action_log_probs(x, actions) * c), x
        )
        assert relative_error(gradient, data[f"logits/grad_{name}_policy_logits"]) < 1e-5


@pytest.mark.parametrize("mode", ["abs_one", "soft_asymmetric"])
def test_the_learners_total_and_gradients_equal_the_public_code(golden, mode):
    data = np.load(golden("vtrace/losses.npz"))

    def later(name, dtype=None):
        """As in a record: entry 0 is there and not used."""
        array = data[f"learner/{name}"]
        return tf.constant(np.concatenate([np.zeros_like(array[:1]), array]), dtype)

    fields = dict.fromkeys(Entry._fields, ()) | {
        "action": later("actions"),
        "logits": later("behaviour_policy_logits"),
        "reward": later("rewards"),
        "done": later("done"),
    }
    logits, baseline = (tf.constant(data[f"learner/{name}"]) for name in ("target_policy_logits", "baseline"))
    with tf.GradientTape() as tape:
        tape.watch([logits, baseline])
        value = tf.concat([baseline, data["learner/bootstrap_value"][np.newaxis]], 0)
        output = AgentOutput(tf.concat([logits, logits[-1:]], 0), value, (), ())
        loss = actor_critic_loss(Objective(reward_mode=mode), Entry(**fields), output)
    gradients = tape.gradient(loss.total, [logits, baseline])
    for name, actual in (
        ("discounts", loss.discounts),
        ("clipped_rewards", loss.rewards),
        ("vs", loss.targets.vs),
        ("pg_advantages", loss.targets.pg_advantages),
        ("total_loss", loss.total),
        ("grad_target_policy_logits", gradients[0]),
        ("grad_baseline", gradients[1]),
    ):
        assert relative_error(actual, data[f"learner/{mode}/{name}"]) < 1e-5, name


def test_means_are_sums_over_steps_and_batch(rng):
    logits, actions = rng.normal(size=[5, 3, 4]).astype(np.float32), rng.integers(4, size=[5, 3])
    advantages = rng.normal(size=[5, 3]).astype(np.float32)
    for function in (
        lambda **k: losses.policy_gradient_loss(logits, actions, advantages, **k),
        lambda **k: losses.baseline_loss(advantages, **k),
        lambda **k: losses.entropy_loss(logits, **k),
        lambda **k: losses.concentration_loss(logits, **k),
    ):
        np.testing.assert_allclose(function() / 15, function(reduction="mean"), rtol=1e-5)


def test_concentration_is_the_sum_of_squares(rng):
    logits = rng.normal(size=[5, 3, 4])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(losses.concentration_loss(logits), (p**2).sum(), rtol=1e-12)


def test_reward_modes_equal_the_public_code(golden):
    data = np.load(golden("vtrace/losses.npz"))
    for mode in ("abs_one", "soft_asymmetric"):
        clipped = returns.clip_rewards(data["learner/rewards"], mode)
        assert relative_error(clipped, data[f"learner/{mode}/clipped_rewards"]) < 1e-6
    np.testing.assert_array_equal(returns.clip_rewards(data["learner/rewards"], "none"), data["learner/rewards"])


def test_bad_arguments():
    with pytest.raises(ValueError, match="reduction: 'max', must be one of 'sum', 'mean'"):
        losses.baseline_loss(np.zeros([4, 2]), "max")
    with pytest.raises(ValueError, match=r"adv_tm1: shape \(2,\), must be \(4, 2\)"):
        losses.policy_gradient_loss(np.zeros([4, 2, 3]), np.zeros([4, 2], np.int32), np.zeros([2]))
