"""Localisation loss, counts, scores and the map prior against slow formulae; padding never counts; XLA agrees."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import relative_error
from tfmem.losses.localization import (
    Counts,
    TargetSum,
    localization_counts,
    localization_loss,
    localization_scores,
    prior_counts,
    target_sum,
)

MASKS = {
    "none": None,
    "steps": np.array([True, True, False, True]),
    "rows": np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]], np.float32),
}


@pytest.fixture
def case(rng):
    """logits and targets [T=4, B=3, 5, 5]."""
    return rng.normal(size=(4, 3, 5, 5)) * 4, (rng.random((4, 3, 5, 5)) < 0.3).astype(np.uint8)


def rows(mask):
    """Mask of the (t, b) that count."""
    return [(t, b) for t in range(4) for b in range(3) if mask is None or np.broadcast_to(mask.T, (3, 4)).T[t, b]]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_loss_and_gradient(case, mask, jit):
    logits, targets = case
    mask = MASKS[mask]

    @tf.function(jit_compile=jit)
    def run(logits, targets):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = localization_loss(logits, targets, mask)
        return loss, tape.gradient(loss, logits)

    loss, gradient = run(tf.constant(logits), tf.constant(targets))
    expected, expected_gradient = 0.0, np.zeros_like(logits)
    for row in rows(mask):
        p, y = 1 / (1 + np.exp(-logits[row])), targets[row]
        expected += -np.sum(y * np.log(p) + (1 - y) * np.log(1 - p))
        expected_gradient[row] = p - y
    assert relative_error(loss, expected) < 1e-12
    assert relative_error(gradient, expected_gradient) < 1e-12


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_masked_maps_may_be_nan(case, garbage, jit):
    logits, targets = (tf.constant(x, tf.float32) for x in case)
    counted = MASKS["rows"][..., np.newaxis, np.newaxis] > 0

    @tf.function(jit_compile=jit)
    def run(logits, targets):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = localization_loss(logits, targets, MASKS["rows"])
        return loss, tape.gradient(loss, logits), localization_counts(logits, targets, MASKS["rows"])

    clean = run(logits, targets)
    dirty = run(tf.where(counted, logits, garbage), tf.where(counted, targets, garbage))
    tf.nest.map_structure(np.testing.assert_array_equal, clean, dirty)


def test_loss_of_the_goldens(golden):
    io = np.load(golden("multigrid/mapping/io.npz"))
    for name in ("zero", "rand", "short"):
        loss = localization_loss(io[f"{name}_logits"], io["in_labels"])
        assert relative_error(loss, io[f"{name}_loss"]) < 1e-5


def test_loss_is_finite_where_the_sigmoid_rounds_to_0_or_1():
    logits, targets = tf.constant([[[300.0, -300.0]]]), tf.constant([[[0, 1]]])
    assert float(localization_loss(logits, targets)) == 600.0
    assert localization_loss(tf.cast(logits, tf.bfloat16), targets).dtype == tf.bfloat16


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_counts_and_scores(case, mask, jit):
    logits, targets = case
    mask = MASKS[mask]
    counts = tf.function(localization_counts, jit_compile=jit)(
        tf.constant(logits), tf.constant(targets), None if mask is None else tf.constant(mask)
    )
    found = wrong = missed = 0
    for row in rows(mask):
        named = logits[row] > 0
        found += np.sum(named & (targets[row] == 1))
        wrong += np.sum(named & (targets[row] == 0))
        missed += np.sum(~named & (targets[row] == 1))
    assert [int(count) for count in counts] == [found, wrong, missed]
    precision, recall, f_score = (float(score) for score in localization_scores(counts))
    assert precision == pytest.approx(found / (found + wrong))
    assert recall == pytest.approx(found / (found + missed))
    assert f_score == pytest.approx(2 * precision * recall / (precision + recall))


def test_threshold(case):
    logits, targets = case
    counts = localization_counts(logits, targets, threshold=0.9)
    assert int(counts.true_positive + counts.false_positive) == np.sum(logits > np.log(9))


def test_counts_add_up_over_batches(case):
    logits, targets = case
    halves = [localization_counts(logits[part], targets[part]) for part in (slice(2), slice(2, 4))]
    whole = localization_counts(logits, targets)
    assert tf.nest.map_structure(int, tf.nest.map_structure(tf.add, *halves)) == tf.nest.map_structure(int, whole)


def test_scores_of_nothing_are_zero_and_large_counts_are_exact():
    assert [float(score) for score in localization_scores(Counts(0, 0, 0))] == [0, 0, 0]
    scores = localization_scores(Counts(3 * 10**10, 10**10, 10**10))
    assert [float(score) for score in scores] == pytest.approx([0.75, 0.75, 0.75])


@pytest.mark.parametrize("mask", MASKS)
def test_target_sum(case, mask):
    targets, mask = case[1], MASKS[mask]
    total = target_sum(targets, mask)
    np.testing.assert_array_equal(total.cells, sum(targets[row].astype(int) for row in rows(mask)))
    assert int(total.rows) == len(rows(mask))


def slow_prior(train, test):
    """Try every threshold on every training row; score the best on the test rows."""

    def score(named, targets):
        found, wrong = np.sum(named & targets), np.sum(named & ~targets)
        missed = np.sum(~named & targets)
        return (found, wrong, missed), 2 * found / (2 * found + wrong + missed)

    mean = train.mean(0)
    best = max(np.unique(mean), key=lambda threshold: score(mean >= threshold, train)[1])
    return score(mean >= best, test)[0]


@pytest.mark.parametrize("jit", [False, True])
def test_map_prior_is_the_best_constant_map_of_its_kind(rng, jit):
    likely = rng.random((6, 6)) ** 3
    train, test = rng.random((80, 6, 6)) < likely, rng.random((40, 6, 6)) < likely
    run = tf.function(lambda a, b: prior_counts(target_sum(a), target_sum(b)), jit_compile=jit)
    counts = run(tf.constant(train), tf.constant(test))
    assert tuple(int(count) for count in counts) == slow_prior(train, test)


def test_map_prior_of_a_constant_world_is_perfect():
    target = np.eye(4, dtype=np.int64)
    counts = prior_counts(
        TargetSum(7 * target, tf.constant(7, tf.int64)), TargetSum(2 * target, tf.constant(2, tf.int64))
    )
    assert tuple(int(count) for count in counts) == (8, 0, 0)


@pytest.mark.parametrize("measure", [localization_loss, localization_counts])
def test_bad_shapes(measure, case):
    logits, targets = case
    with pytest.raises(
        ValueError, match=r"logits: shape \(4, 3, 5, 4\), must have the shape of targets, \(4, 3, 5, 5\)"
    ):
        measure(logits[..., :4], targets)
    for shape in ((4, 3, 5, 5, 1), (3,)):
        with pytest.raises(ValueError, match=r"mask: .* must have leading axes of targets"):
            measure(logits, targets, np.ones(shape))
