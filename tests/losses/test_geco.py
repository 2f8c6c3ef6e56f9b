"""Lagrange multipliers against Sonnet 1's arrays; GECO's Lagrangian against hand formulae; a Keras model with it."""

import json
import re

import keras
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.support import find_golden, relative_error
from tfmem.losses.geco import GECO, LagrangeMultiplier, MovingAverage
from tfmem.losses.gradients import clip_ascending, clip_gradient, scale_gradient

CONFIG = json.loads(find_golden("geco/config.json").read_text())


def stored(prefix):
    """Return the parts of the arrays' names between a prefix and the next slash."""
    keys = [key for key in np.load(find_golden("geco/geco.npz")).files if key.startswith(prefix)]
    return sorted({key.removeprefix(prefix).split("/")[0] for key in keys})


@pytest.fixture
def arrays(golden):
    return np.load(golden("geco/geco.npz"))


def with_gradient(function, x, upstream=None):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x, upstream)


# --- the public code's arrays ---


@pytest.mark.parametrize("rate", [float(rate) for rate in stored("parametrisation/grad_rate_")])
def test_parametrisation(arrays, rate):
    w = arrays["parametrisation/w"]
    multiplier = LagrangeMultiplier(rate=rate, shape=w.shape)
    multiplier.w.assign(w)
    with tf.GradientTape() as tape:
        value = multiplier()
    gradient = tape.gradient(value, multiplier.w)
    assert relative_error(value, arrays["parametrisation/lambda"]) < 1e-6
    expected = arrays[f"parametrisation/grad_rate_{rate}"]
    if rate == 0:
        assert gradient is None
        assert not expected.any()
    else:
        np.testing.assert_allclose(gradient, expected, rtol=2e-6)


def test_initial_values(arrays):
    multiplier = LagrangeMultiplier(arrays["inverse/lambda"])
    np.testing.assert_allclose(multiplier.w, arrays["inverse/w"], rtol=1e-5)
    np.testing.assert_allclose(multiplier(), arrays["inverse/lambda"], rtol=1e-5)


def test_clip_lets_what_is_outside_come_back(arrays):
    low, high = float(arrays["clamp/min"]), float(arrays["clamp/max"])
    y, gradient = with_gradient(lambda x: clip_ascending(x, low, high), arrays["clamp/x"], arrays["clamp/upstream"])
    np.testing.assert_array_equal(y, arrays["clamp/y"])
    np.testing.assert_array_equal(gradient, arrays["clamp/grad_x"])


@pytest.mark.parametrize("case", stored("multiplier/"))
def test_multiplier_of_a_constraint(arrays, case):
    given = dict(CONFIG[f"multiplier/{case}"]["kwargs"])
    sign = 1.0 if given.pop("maximize", True) else -1.0  # Sonnet 1's maximize=False is the negated multiplier
    multiplier = LagrangeMultiplier(given.pop("initializer", 1.0), **given)
    expected = {name: arrays[f"multiplier/{case}/{name}"] for name in ("w", "lambda", "constraint", "grad_w")}
    with tf.GradientTape() as tape:
        value = sign * multiplier()
        penalty = tf.reduce_sum(value * expected["constraint"])
    assert relative_error(multiplier.w, expected["w"]) < 1e-6
    assert relative_error(value, expected["lambda"]) < 1e-6
    assert relative_error(tape.gradient(penalty, multiplier.w), expected["grad_w"]) < 1e-6


def toy(arrays, kind):
    """Variables, multipliers, and the function that gives (objective + penalty, penalty, constraints)."""
    theta = tf.Variable(arrays[f"{kind}/theta0"])
    goal, limit = arrays[f"{kind}/goal"], arrays[f"{kind}/limit"]
    inside = {"rate": 0.5, "valid_range": (1e-3, 20.0)}
    multipliers = [
        LagrangeMultiplier(shape=theta.shape, **inside),
        LagrangeMultiplier(**{**inside, "rate": 2.0}),
        LagrangeMultiplier(0.4, **inside),
        LagrangeMultiplier(**{**inside, "valid_range": (0.01, 2.0)}),
    ]

    def lagrangian():
        constraints = [
            theta - limit,  # theta < limit
            -1.0 - tf.reduce_sum(theta),  # sum(theta) > -1
            tf.reduce_mean(theta**2) - 1.5,  # mean(theta^2) <= 1.5
            0.1 - theta[0],  # theta[0] >= 0.1
        ]
        penalty = tf.add_n([tf.reduce_sum(m() * c) for m, c in zip(multipliers, constraints, strict=True)])
        return tf.reduce_sum((theta - goal) ** 2) + penalty, penalty, constraints

    return [theta, *(m.w for m in multipliers)], multipliers, lagrangian


@pytest.mark.parametrize("kind", [f"toy_{name}" for name in stored("toy_")])
def test_sixty_steps_of_one_optimiser_for_both_players(arrays, golden, kind):
    variables, multipliers, lagrangian = toy(arrays, kind)
    names = [name for name, _ in CONFIG["toy"]["variables"]]
    optimizer = {"toy_sgd": snt.optimizers.SGD, "toy_adam": snt.optimizers.Adam}[kind](0.05)
    trajectories = {f"trajectory/{name}": [] for name in names} | {"loss": [], "penalty": []}

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss, penalty, constraints = lagrangian()
        gradients = tape.gradient(loss, variables)
        optimizer.apply(gradients, variables)
        return loss, penalty, constraints, gradients

    for index, (multiplier, variable) in enumerate(zip(multipliers, variables[1:], strict=True)):
        assert relative_error(variable, arrays[f"{kind}/var0/{names[index + 1]}"]) < 1e-6
        assert relative_error(multiplier(), arrays[f"{kind}/lambda{index}"]) < 1e-6
    for number in range(len(arrays[f"{kind}/loss"])):
        loss, penalty, constraints, gradients = step()
        if number == 0:
            for index, constraint in enumerate(constraints):
                assert relative_error(constraint, arrays[f"{kind}/constraint{index}"]) < 1e-6
            for name, gradient in zip(names, gradients, strict=True):
                assert relative_error(gradient, arrays[f"{kind}/grad/{name}"]) < 1e-6, name
        trajectories["loss"].append(loss)
        trajectories["penalty"].append(penalty)
        for name, variable in zip(names, variables, strict=True):
            trajectories[f"trajectory/{name}"].append(variable.numpy())
    for name, values in trajectories.items():
        assert relative_error(values, arrays[f"{kind}/{name}"]) < 1e-5, name

    if kind == "toy_adam":
        checkpoint = tf.train.load_checkpoint(str(golden("geco/toy_adam_step60.ckpt")))
        for name, variable, m, v in zip(names, variables, optimizer.m, optimizer.v, strict=True):
            assert relative_error(variable, checkpoint.get_tensor(name)) < 1e-5, name
            assert relative_error(m, checkpoint.get_tensor(f"{name}/Adam")) < 1e-4, name
            assert relative_error(v, checkpoint.get_tensor(f"{name}/Adam_1")) < 1e-4, name


def test_scaled_and_clipped_gradients(arrays):
    x, upstream = arrays["helpers/x"], arrays["helpers/upstream"]
    helpers = {"scale_gradient": scale_gradient, "clip_gradient": clip_gradient}
    for name in [name for name in stored("helpers/") if name not in ("x", "upstream")]:  # e.g. clip_gradient_-0.7_1.1
        kind, numbers = re.fullmatch(r"([a-z_]+?)_([-\d._]+)", name).groups()
        numbers = map(float, numbers.split("_"))
        y, gradient = with_gradient(lambda x, kind=kind, numbers=numbers: helpers[kind](x, *numbers), x, upstream)
        np.testing.assert_array_equal(y, arrays[f"helpers/{name}/y"])
        assert relative_error(gradient, arrays[f"helpers/{name}/grad"]) < 1e-6, name


@pytest.mark.parametrize("decay", [float(decay) for decay in stored("moving_average_")])
def test_moving_average(arrays, decay):
    average = MovingAverage(decay, shape=arrays[f"moving_average_{decay}/x"].shape[1:])
    for x, y, expected in zip(
        *(arrays[f"moving_average_{decay}/{name}"] for name in ("x", "y", "grad_x_for_upstream_1_-2_3")), strict=True
    ):
        value, gradient = with_gradient(average, x, tf.constant([1.0, -2.0, 3.0]))
        assert relative_error(value, y) < 1e-6
        np.testing.assert_array_equal(gradient, expected)


# --- the Lagrangian of Appendix G ---


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dimensions", [1, 12])
def test_lagrangian_against_hand_formulae(rng, dimensions, jit):
    kappa, decay, initial = 0.3, 0.9, 2.5
    geco = GECO(kappa, dimensions, initial=initial, decay=decay)

    @tf.function(jit_compile=jit)
    def run(error, kl):
        with tf.GradientTape() as tape:
            tape.watch([error, kl])
            told = geco(error, kl)
        return told, tape.gradient(told.loss, [error, kl, geco.multiplier.w])

    average, w = None, geco.multiplier.w.numpy()
    for _ in range(3):
        error, kl = rng.uniform(0, 9, 5).astype(np.float32), rng.uniform(0, 9, 5).astype(np.float32)
        told, (d_error, d_kl, d_w) = run(error, kl)
        constraint = np.mean(error) - kappa * dimensions
        average = constraint if average is None else decay * average + (1 - decay) * constraint
        slope = 2 * np.log1p(np.exp(w)) / (1 + np.exp(-w))
        for actual, expected in (
            (told.loss, np.mean(kl) + initial * average),
            (told.kl, np.mean(kl)),
            (told.error, np.mean(error) / dimensions),
            (told.constraint, average / dimensions),
            (told.multiplier, initial),
            (d_error, np.full(5, initial / 5)),  # the gradient of the batch, not of the average
            (d_kl, np.full(5, 1 / 5)),
            (d_w, -average / dimensions * slope),  # turned round: lambda ascends
        ):
            np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_multiplier_stays_at_a_thousand_and_comes_back():
    geco = GECO(kappa=1.0, dimensions=1, initial=990.0, rate=0.01, decay=0.0)

    def ascend(error):
        with tf.GradientTape() as tape:
            told = geco(tf.constant([error]), tf.constant([0.0]))
        geco.multiplier.w.assign_sub(tape.gradient(told.loss, geco.multiplier.w))
        return float(told.multiplier)

    assert [ascend(3.0) for _ in range(4)][1:] == [1000.0] * 3
    w = geco.multiplier.w.numpy()
    ascend(3.0)
    assert geco.multiplier.w.numpy() == w
    assert [ascend(0.5) for _ in range(9)][-1] < 1000


def test_keras_model_meets_the_constraint():
    """min |a|^2 so that the mean of (x - a)^2 is kappa: the solution is known."""
    x, kappa = tf.constant([[3.0], [1.0]]), 2.0  # around their mean of 2: errors 1 + (2 - a)^2

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.geco = GECO(kappa, dimensions=1, rate=0.2, decay=0.5)
            self.shared = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

        def call(self, x):
            return self.shared(tf.ones_like(x))

        def train_step(self, data):
            images = data[0]
            with tf.GradientTape() as tape:
                code = self(images)
                told = self.geco(tf.reduce_sum((images - code) ** 2, -1), tf.reduce_sum(code**2, -1))
            weights, multipliers = self.trainable_variables, self.geco.trainable_variables
            gradients = tape.gradient(told.loss, [v.value for v in weights] + list(multipliers))
            self.optimizer.apply(gradients, [*weights, *multipliers])
            return told._asdict()

    model = Model()
    model(x)
    model.optimizer = keras.optimizers.SGD(0.05)
    model.optimizer.build([*model.trainable_variables, *model.geco.trainable_variables])
    step = tf.function(lambda: model.train_step((x,)))
    for _ in range(500):
        told = step()
    assert len(model.trainable_variables) == 1  # Keras does not take the multiplier for a weight
    np.testing.assert_allclose(told["error"], kappa, rtol=1e-3)
    np.testing.assert_allclose(model(x), 1.0, rtol=1e-3)
    np.testing.assert_allclose(told["multiplier"], 1.0, rtol=1e-2)  # d/da of a^2 + lambda (1 + (2 - a)^2) is 0 at a = 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GECO(0.0, 4), "kappa: 0.0"),
        (lambda: GECO(1e-3, 0), "dimensions: 0"),
        (lambda: LagrangeMultiplier([1.0, 0.0]), r"initial: \[1.0, 0.0\]"),
        (lambda: LagrangeMultiplier(rate=-1.0), "rate: -1.0"),
        (lambda: LagrangeMultiplier(valid_range=(2.0, 1.0)), r"valid_range: \(2.0, 1.0\)"),
        (lambda: MovingAverage(1.0), "decay: 1.0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
