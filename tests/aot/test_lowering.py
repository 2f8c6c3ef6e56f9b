"""TensorFlow's modules for XLA, as jax reads them: loops with their gradients, constants of booleans."""

import jax
import numpy as np
import tensorflow as tf

from tfmem.aot.bundle import Leaf, Program
from tfmem.aot.lowering import lower, obstacles
from tfmem.aot.runner import Executable
from tfmem.aot.stablehlo import arithmetic

STEPS, BATCH, SIZE = 5, 4, 3


def test_loops_of_gradients_are_counted_in_full():
    w = tf.Variable(tf.eye(SIZE))

    def forward(x):
        def step(i, s):
            return i + 1, tf.tanh(x[i] + s @ w)

        start = (0, tf.ones([BATCH, SIZE]))
        return tf.reduce_sum(tf.while_loop(lambda i, s: i < STEPS, step, start, maximum_iterations=STEPS)[1])

    def gradient(x):
        with tf.GradientTape() as tape:
            loss = forward(x)
        return tape.gradient(loss, w)

    x = tf.TensorSpec([STEPS, BATCH, SIZE])
    product = 2 * BATCH * SIZE * SIZE
    assert arithmetic(lower(forward, x)[0]) == STEPS * product
    assert arithmetic(lower(gradient, x)[0]) == 3 * STEPS * product  # forward, and of the state and the weights


def test_constants_of_booleans():
    mask = np.random.default_rng(0).random([7, 33]) < 0.3
    text, _ = lower(lambda x: tf.where(mask, x, 0.0), tf.TensorSpec(mask.shape))
    run = Executable(
        Program(text, [Leaf("carry/0", mask.shape, "float32")], [Leaf("metrics/x", mask.shape, "float32")]), "float32"
    )
    result = jax.device_get(run({"carry/0": run.put(np.ones(mask.shape, np.float32))})["metrics/x"])
    np.testing.assert_array_equal(result, mask.astype(np.float32))


def test_other_dialects_than_stablehlo_are_obstacles():
    text = "func.func @main(%arg0: tensor<2xf32>) -> tensor<2xf32> {\n  %0 = {} %arg0 : tensor<2xf32>\n"
    assert obstacles(text.replace("{}", "stablehlo.tanh", 1)) == []
    for operation in ("mhlo.erf", "chlo.erf", "tf.Erf"):
        assert obstacles(text.replace("{}", operation, 1)) == [operation]
        assert obstacles(text.replace("{}", f'"{operation}"', 1)) == [operation]


def test_copies_become_stablehlo():
    """Plugins of cards refuse `mhlo.copy`, which TensorFlow writes where a loop assigns a variable."""
    variable = tf.Variable(tf.ones([SIZE]))

    def loop(x):
        def body(i, s):
            variable.assign_add(s)
            return i + 1, s * variable

        return tf.while_loop(lambda i, s: i < STEPS, body, (0, x), maximum_iterations=STEPS)[1]

    text, _ = lower(loop, tf.TensorSpec([SIZE]))
    assert "stablehlo.convert" in text
    assert "mhlo.copy" not in text
