"""Returns and V-trace against sums written out, and against the public IMPALA code's arrays."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.references import returns as reference
from tests.support import relative_error
from tfmem.rl import returns
from tfmem.rl.losses import action_log_probs

SIZES = [(1, 1), (2, 3), (7, 2), (8, 4), (33, 2)]


def sequences(rng, steps, batch, *more):
    """Rewards, discounts with some episode ends, values and lambdas [T, B]."""
    shape = (steps, batch, *more)
    discount = np.where(rng.random(shape) < 0.2, 0.0, rng.uniform(0.8, 1.0, shape))
    return rng.normal(size=shape), discount, rng.normal(size=shape), rng.random(shape)


@pytest.mark.parametrize(("steps", "batch"), SIZES)
def test_returns_equal_the_sums(rng, steps, batch):
    r, discount, v, lam = sequences(rng, steps, batch)
    for n in {1, 2, 3, steps - 1 or 1, steps, steps + 5}:
        actual = returns.n_step_returns(r, discount, v, n)
        np.testing.assert_allclose(actual, reference.n_step(r, discount, v, n=n), rtol=1e-12, atol=1e-12)
    actual = returns.discounted_returns(r, discount, v[-1])
    np.testing.assert_allclose(actual, reference.n_step(r, discount, v, n=steps), rtol=1e-12, atol=1e-12)
    actual = returns.lambda_returns(r, discount, v, lam)
    np.testing.assert_allclose(actual, reference.lambda_mixture(r, discount, v, lam), rtol=1e-12, atol=1e-12)
    whole = returns.lambda_returns(r, discount, v)
    np.testing.assert_allclose(whole, returns.discounted_returns(r, discount, v[-1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("steps", "batch"), SIZES)
def test_vtrace_equals_the_sums(rng, steps, batch):
    r, discount, v_tm1, lam = sequences(rng, steps, batch)
    v_t, rho = rng.normal(size=r.shape), np.exp(rng.normal(size=r.shape))
    for clips in itertools.product((None, 0.7, 1.0), (None, 1.2), (None, 2.0)):
        names = ("clip_rho_threshold", "clip_c_threshold", "clip_pg_rho_threshold")
        actual = returns.vtrace(v_tm1, v_t, r, discount, rho, lam, **dict(zip(names, clips, strict=True)))
        settings = dict(zip(("clip_rho", "clip_c", "clip_pg_rho"), clips, strict=True))
        expected = reference.vtrace(v_tm1, v_t, r, discount, rho, lam, **settings)
        np.testing.assert_allclose(actual.vs, expected[0], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(actual.pg_advantages, expected[1], rtol=1e-11, atol=1e-11)


def test_lambda_zero_cuts_a_sequence_in_two(rng):
    """Values before a step of lambda 0 are those of the sequence that ends there, and no later step is seen."""
    r, discount, v_tm1, _ = sequences(rng, 9, 3)
    v_t, rho = rng.normal(size=r.shape), np.exp(rng.normal(size=r.shape))
    arrays, lam = (v_tm1, v_t, r, discount, rho), np.ones_like(r)
    lam[4] = 0.0
    whole = returns.vtrace(*arrays, lam)
    for part in (slice(0, 5), slice(5, 9)):
        for actual, expected in zip(returns.vtrace(*(a[part] for a in arrays)), whole, strict=True):
            np.testing.assert_allclose(actual, expected[part], rtol=1e-12)


def test_compiled_and_its_gradient(rng):
    r, discount, v, lam = (tf.constant(a, tf.float32) for a in sequences(rng, 21, 3))

    def gradients(r, discount, v, lam):
        with tf.GradientTape() as tape:
            tape.watch([r, discount, v, lam])
            results = [
                returns.lambda_returns(r, discount, v, lam),
                returns.n_step_returns(r, discount, v, 5),
                returns.discounted_returns(r, discount, v[-1]),
            ]
            total = tf.add_n([tf.reduce_sum(tf.square(x)) for x in results])
        return results, tape.gradient(total, [r, discount, v, lam])

    for jit_compile in (False, True):
        compiled = tf.function(gradients, jit_compile=jit_compile, autograph=False)(r, discount, v, lam)
        for actual, expected in zip(
            tf.nest.flatten(compiled), tf.nest.flatten(gradients(r, discount, v, lam)), strict=True
        ):
            assert relative_error(actual, expected) < 1e-5


def test_the_graph_does_not_grow_with_time():
    def nodes(steps):
        spec = tf.TensorSpec([steps, 2])
        function = tf.function(lambda *a: returns.vtrace(*a), autograph=False)
        return len(function.get_concrete_function(*[spec] * 5).graph.get_operations())

    assert nodes(1024) < 1.5 * nodes(128)


def load(golden, name):
    return np.load(golden(f"vtrace/{name}.npz"))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_vtrace_equals_the_public_code(golden, jit_compile):
    data = load(golden, "vtrace")
    given = {name: data[f"in/{name}"] for name in ("values", "bootstrap_value", "rewards", "discounts", "log_rhos")}
    actions = data["in/actions"]
    target, behaviour = (action_log_probs(data[f"in/{x}_policy_logits"], actions) for x in ("target", "behaviour"))
    assert relative_error(target, data["logits/target_action_log_probs"]) < 1e-5
    assert relative_error(behaviour, data["logits/behaviour_action_log_probs"]) < 1e-5
    assert relative_error(target - behaviour, data["logits/log_rhos"]) < 1e-5

    cases = {"on_policy": (given, np.zeros_like(given["log_rhos"]), {})}
    rank3 = {name: data[f"rank3/in/{name}"] for name in given}
    cases["rank3"] = (rank3, rank3["log_rhos"], {})
    for prefix in sorted({k.rsplit("/", 1)[0] for k in data.files if k.endswith("/vs") and "rho_" in k}):
        kind, *rho_and_pg = prefix.split("/")
        thresholds = [None if x.endswith("None") else float(x.split("_")[1]) for x in rho_and_pg]
        thresholds = dict(zip(("clip_rho_threshold", "clip_pg_rho_threshold"), thresholds, strict=True))
        cases[prefix] = (given, given["log_rhos"] if kind == "iw" else data["logits/log_rhos"], thresholds)
    assert len(cases) >= 4

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run():
        results = {}
        for prefix, (x, log_rhos, thresholds) in cases.items():
            v_t = returns.next_values(x["values"], x["bootstrap_value"])
            arguments = [x["values"], v_t, x["rewards"], x["discounts"], tf.exp(log_rhos)]
            results[prefix] = returns.vtrace(*arguments, **thresholds)
        return results

    for prefix, actual in run().items():
        assert relative_error(actual.vs, data[f"{prefix}/vs"]) < 1e-5
        assert relative_error(actual.pg_advantages, data[f"{prefix}/pg_advantages"]) < 1e-5


def test_vtrace_has_no_gradient(rng):
    r, discount, v, lam = (tf.constant(a) for a in sequences(rng, 4, 2))
    with tf.GradientTape() as tape:
        tape.watch([r, v, lam])
        result = returns.vtrace(v, v, r, discount, tf.exp(r), lam)
    assert tape.gradient(result, [r, v, lam]) == [None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r_t": np.zeros([4, 3])}, r"r_t: shape \(4, 3\), must be \(4, 2\)"),
        ({"rho_tm1": np.zeros([4])}, r"rho_tm1: shape \(4,\), must be \(4, 2\)"),
        ({"lambda_": np.zeros([2])}, r"lambda_: shape \(2,\), must be \(4, 2\)"),
        ({"v_tm1": np.zeros([0, 2])}, r"v_tm1: shape \(0, 2\), must be \[T, B\]"),
        ({"v_tm1": np.zeros([4])}, r"v_tm1: shape \(4,\), must be \[T, B\]"),
        ({"v_tm1": np.zeros([4, 2], np.int32)}, "v_tm1: dtype int32, must be a floating-point type"),
    ],
)
def test_vtrace_names_bad_arguments(change, message):
    arguments = {name: np.zeros([4, 2]) for name in ("v_tm1", "v_t", "r_t", "discount_t", "rho_tm1")}
    with pytest.raises(ValueError, match=message):
        returns.vtrace(**(arguments | change))


def test_other_bad_arguments():
    zeros = np.zeros([4, 2])
    with pytest.raises(ValueError, match="n: 0, must be at least 1"):
        returns.n_step_returns(zeros, zeros, zeros, 0)
    with pytest.raises(ValueError, match=r"n: 1\.5, must be an integer"):
        returns.n_step_returns(zeros, zeros, zeros, 1.5)
    with pytest.raises(ValueError, match="r_t: dtype int64, must be a floating-point type"):
        returns.clip_rewards(np.zeros([4, 2], int), "abs_one")
    with pytest.raises(ValueError, match=r"bootstrap_value: shape \(3,\), must be \(2,\)"):
        returns.discounted_returns(zeros, zeros, np.zeros(3))
    with pytest.raises(ValueError, match="mode: 'clip', must be one of 'none', 'abs_one', 'soft_asymmetric'"):
        returns.clip_rewards(zeros, "clip")
    spec = tf.TensorSpec([None, 2], tf.float32)
    with pytest.raises(ValueError, match="known number of steps"):
        tf.function(returns.discounted_returns, autograph=False).get_concrete_function(
            spec, spec, tf.TensorSpec([2], tf.float32)
        )
