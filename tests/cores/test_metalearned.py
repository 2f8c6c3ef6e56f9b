import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.cores.keras_cells import assert_follows_contract, assert_hands_over, assert_modes_agree, randomize
from tests.references import metalearned as reference
from tests.support import first_of, relative_error
from tfmem.cores import metalearned
from tfmem.cores.metalearned import MetalearnedMemory, MetalearnedOutput, gradient_write, squared_error
from tfmem.recurrence import unroll

SMALL = {"units": 5, "num_heads": 2, "memory_layers": 3, "memory_size": 4, "word_size": 3}


@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        {**SMALL, "read_first": True, "output_activation": "linear", "mean_error": True},
        {**SMALL, "memory_layers": 1, "num_heads": 1},
        {**SMALL, "recall_delay": 2, "recall_weights": [1.0, 0.5, 0.25]},
        {**SMALL, "write": "local", "recall_delay": 1},
        {**SMALL, "write": "local", "memory_layers": 4, "num_heads": 3, "mean_error": True},
        {**SMALL, "write": "local", "memory_layers": 2, "output_activation": "linear", "read_first": True},
    ],
)
def test_equals_reference(rng, arguments):
    cell = MetalearnedMemory(**arguments, output_size=6, return_meta_loss=True, dtype="float64")
    weights = randomize(cell, rng, 4)
    inputs = rng.standard_normal([5, 2, 4])
    outputs, _ = unroll(cell, tf.constant(inputs), cell.get_initial_state(2))
    expected, meta_loss = reference.metalearned(inputs, weights, cell.get_config())
    assert relative_error(outputs.output, expected) <= 1e-12
    assert relative_error(outputs.meta_loss, meta_loss) <= 1e-12


def random_write(rng, num_layers, num_heads, batch=3, word_size=6, memory_size=9):
    sizes = [word_size, *[memory_size] * (num_layers - 1), word_size]
    memory = tuple(
        tf.constant(rng.standard_normal([batch, out, in_]) * in_**-0.5) for in_, out in itertools.pairwise(sizes)
    )
    keys, values = (tf.constant(np.tanh(rng.standard_normal([batch, num_heads, word_size]))) for _ in range(2))
    return memory, keys, values, tf.constant(rng.uniform(size=batch))


def nested_tape_write(memory, keys, values, rate, output_activation):
    """Eq. 3 by automatic differentiation of Eq. 2."""
    with tf.GradientTape() as tape:
        tape.watch(memory)
        loss = tf.reduce_mean(squared_error(memory, keys, values, output_activation), axis=1)
    gradients = tape.gradient(loss, memory)
    return tuple(m - rate[:, None, None] * g for m, g in zip(memory, gradients, strict=True))


@pytest.mark.parametrize("output_activation", ["tanh", "linear"])
@pytest.mark.parametrize(("num_layers", "num_heads"), [(1, 1), (2, 3), (3, 1), (3, 4), (5, 2)])
def test_gradient_write_is_a_nested_tapes_gradient_to_second_order(rng, num_layers, num_heads, output_activation):
    arguments = random_write(rng, num_layers, num_heads)
    probe = tf.constant(rng.standard_normal([3, 2, 6]))
    results = []
    for write in (gradient_write, nested_tape_write):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            written = write(*arguments, output_activation)
            loss = tf.reduce_sum(squared_error(written, probe, tf.sin(probe), output_activation))
        results.append([*written, *tf.nest.flatten(tape.gradient(loss, arguments))])
    for ours, tapes in zip(*results, strict=True):
        assert np.any(tapes)
        assert relative_error(ours, tapes) <= 1e-10


def test_gradient_write_stores_and_leaves_what_is_stored(rng):
    memory, keys, values, _ = random_write(rng, 3, 2)
    small = tf.fill([3], tf.constant(1e-3, tf.float64))
    before = squared_error(memory, keys, values)
    after = squared_error(gradient_write(memory, keys, values, small), keys, values)
    assert np.all(tf.reduce_mean(after, 1) < tf.reduce_mean(before, 1))
    stored = metalearned.activations(memory, keys)[-1]
    tf.nest.map_structure(np.testing.assert_array_equal, gradient_write(memory, keys, stored, small), memory)


def test_gradient_write_of_two_layers_is_sparse_distributed_memory(rng):
    """App. C: with a saturated first layer of addresses, Eq. 3 is Eq. 10, and on an empty memory SDM's own Eq. 8."""
    addresses = tf.constant(50.0 * rng.choice([-1.0, 1.0], [1, 16, 5]))
    empty = tf.zeros([1, 5, 16], tf.float64)
    key = tf.constant(rng.choice([-1.0, 1.0], [1, 1, 5]))
    value, other = (tf.constant(rng.integers(-3, 4, [1, 1, 5]), tf.float64) for _ in range(2))
    half = tf.constant([0.5], tf.float64)  # the rate that cancels the 2 of the squared error's derivative
    a = tf.sign(tf.matmul(key, addresses, transpose_b=True))
    fixed, content = gradient_write((addresses, empty), key, value, half, "linear")
    np.testing.assert_array_equal(fixed, addresses)
    np.testing.assert_allclose(content, tf.matmul(value, a, transpose_a=True))  # (8)
    _, updated = gradient_write((addresses, content), key, other, half, "linear")
    recalled = tf.matmul(a, content, transpose_b=True)
    np.testing.assert_allclose(updated, content + tf.matmul(other - recalled, a, transpose_a=True))  # (10)


@pytest.mark.parametrize("write", ["local", "gradient"])
def test_trained_write_lowers_the_read_out_error(rng, write):
    """Meta-trained on random pairs (Eq. 5), one write makes the memory recall pairs never seen in training."""
    keras.utils.set_random_seed(3)
    cell = MetalearnedMemory(4, memory_size=32, word_size=8, write=write)
    cell.build([None, 4])
    variables = [v.value for v in cell.trainable_variables if v.name.startswith(("rate", "feedback"))]
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(variables)

    def errors(seed):
        key, value = tf.unstack(tf.random.stateless_uniform([2, 64, 1, 8], [seed, 0], -0.9, 0.9))
        memory = cell.get_initial_state(64).memory
        written = cell.update_memory(memory, key, value, tf.ones([64, 8]))
        return tf.reduce_mean(squared_error(memory, key, value)), tf.reduce_mean(squared_error(written, key, value))

    @tf.function
    def train(seed):
        with tf.GradientTape() as tape:
            loss = errors(seed)[1]
        optimizer.apply(tape.gradient(loss, variables), variables)

    untrained = errors(100_000)[1]
    for seed in tf.range(300):
        train(seed)
    before, after = errors(100_000)
    assert after < 0.5 * before
    assert after < untrained


def test_meta_loss_leaves_the_output_as_it_is_and_trains_the_controller(rng):
    cell = MetalearnedMemory(**SMALL, return_meta_loss=True, recall_delay=3)
    randomize(cell, rng, 4)
    plain = MetalearnedMemory(**SMALL)
    plain.build([None, 4])
    plain.set_weights(cell.get_weights())
    inputs = tf.constant(rng.standard_normal([5, 2, 4]), tf.float32)
    with tf.GradientTape() as tape:
        outputs, _ = unroll(cell, inputs, cell.get_initial_state(2))
        loss = tf.reduce_mean(outputs.meta_loss)
    assert isinstance(outputs, MetalearnedOutput)
    assert outputs.meta_loss.shape == [5, 2]
    assert not cell.losses
    np.testing.assert_array_equal(outputs.output, unroll(plain, inputs, plain.get_initial_state(2))[0])
    for name, gradient in zip(
        (v.name for v in cell.trainable_variables),
        tape.gradient(loss, [v.value for v in cell.trainable_variables], unconnected_gradients="zero"),
        strict=True,
    ):
        assert np.any(gradient) != name.startswith("output"), name


def test_memory_starts_each_episode_from_the_same_weights():
    cell = MetalearnedMemory(**SMALL)
    for memory, weights in zip(cell.get_initial_state(3).memory, cell.initial_memory, strict=True):
        np.testing.assert_array_equal(memory[0], weights)
        np.testing.assert_array_equal(memory[2], weights)
        assert not weights.trainable


def test_rate_and_memory_at_the_start():
    cell = MetalearnedMemory(8, word_size=100, memory_size=50, write="local", initial_rate=0.1, memory_gain=3.0)
    cell.build((None, 4))
    np.testing.assert_allclose(tf.sigmoid(cell.rate_bias), 0.1, rtol=1e-6)
    for weights, fan_in in zip(cell.initial_memory, (100, 50, 50), strict=True):
        largest = np.abs(weights).max() * fan_in**0.5
        assert 2.9 < largest <= 3.0


def test_runs_in_keras_rnn(rng):
    cell = MetalearnedMemory(**SMALL)
    inputs = tf.constant(rng.standard_normal([5, 2, 4]), tf.float32)
    expected, _ = unroll(cell, inputs, cell.get_initial_state(2))
    outputs = keras.layers.RNN(cell, return_sequences=True)(tf.transpose(inputs, [1, 0, 2]))
    np.testing.assert_allclose(tf.transpose(outputs, [1, 0, 2]), expected, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    first_of(
        [
            {**SMALL, "memory_layers": 2, "write": "local", "return_meta_loss": True, "recall_delay": 1},
            {**SMALL, "learn_initial_memory": True},
        ]
    ),
)
def test_modes_agree(rng, arguments):
    assert_modes_agree(MetalearnedMemory(**arguments), rng)


@pytest.mark.parametrize("write", ["gradient", "local"])
def test_hands_over_and_contract(rng, write):
    assert_hands_over(MetalearnedMemory(**SMALL, write=write, return_meta_loss=True, recall_delay=2), rng)
    assert_follows_contract(
        MetalearnedMemory(
            **SMALL, write=write, return_meta_loss=True, recall_delay=1, recall_weights=[1.0, 0.5], output_size=2
        ),
        rng,
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"units": 0}, "units: 0, must be a positive integer"),
        ({"memory_layers": 0}, "memory_layers: 0, must be a positive integer"),
        ({"memory_size": "9"}, "memory_size: '9', must be a positive integer"),
        ({"write": "hebb"}, "write: 'hebb', must be one of 'gradient', 'local'"),
        ({"output_activation": "relu"}, "output_activation: 'relu', must be one of 'tanh', 'linear'"),
        ({"recall_delay": -1}, "recall_delay: -1, must be an integer of at least 0"),
        ({"recall_delay": 1}, "recall_delay: 1, must be 0 if return_meta_loss is False"),
        ({"recall_weights": [1.0, 0.5]}, r"recall_weights: .*, must be recall_delay \+ 1 = 1 numbers"),
        ({"feedback_activation": "nonsense"}, "nonsense"),
        ({"initial_rate": 1.0}, "initial_rate: 1.0, must be between 0 and 1"),
        ({"memory_gain": 0.0}, "memory_gain: 0.0, must be greater than 0"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        MetalearnedMemory(**{**SMALL, **bad})
