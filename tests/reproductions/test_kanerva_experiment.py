"""The Kanerva machine and its experiment: the bound against distributions, cues, reads, an update, what it exports."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from reproductions.belief_states import kanerva
from tfmem import export
from tfmem.data.images import ImageStream
from tfmem.models import kanerva_machine
from tfmem.models.kanerva_machine import KanervaMachine

tfd = tfp.distributions
FRAME, T, B = (8, 16, 2), 5, 3


@pytest.fixture(scope="module")
def machine():
    tf.random.set_seed(0)
    return KanervaMachine(FRAME, code_size=6, memory_size=4, channels=(2, 3, 4), obs_noise_stddev=0.7)


@pytest.fixture
def images(rng):
    return rng.integers(0, 2, (T, B, *FRAME)).astype(np.float32)


@pytest.fixture
def experiment(rng, monkeypatch):
    images = rng.integers(0, 256, (24, 32, 32, 1), np.uint8)
    monkeypatch.setattr(kanerva, "mnist_stream", lambda split, **kwargs: ImageStream(images, **kwargs))
    return kanerva.Experiment(kanerva.PRESETS["smoke"])


def test_bound_is_that_of_the_distributions(machine, images, rng, monkeypatch):
    """With recorded noise: w = mean + sigma_w eps, M = R + L eps."""
    noise = {(T, B, 4): rng.normal(size=(T, B, 4)), (B, 4, 6): rng.normal(size=(B, 4, 6))}
    noise = {shape: tf.constant(values, tf.float32) for shape, values in noise.items()}
    monkeypatch.setattr(kanerva_machine, "standard_normal", lambda shape, seed: noise[tuple(np.asarray(shape))])
    told = machine(images, seed=[0, 1])

    memory, z = machine.memory, machine.encode(images)
    prior, state = machine.initial_state(B), machine.write(images, machine.initial_state(B))
    _, kl_w = memory.read_with_z(z, state)
    columns = [tfd.MultivariateNormalFullCovariance(tf.linalg.matrix_transpose(m)[:, c], u) for m, u in (state, prior)
               for c in range(6)]  # fmt: skip
    kl_memory = sum(tfd.kl_divergence(q, p) for q, p in zip(columns[:6], columns[6:], strict=True))
    w_mean = kanerva_machine.solve_w(memory.factorize(state.M_mean), state.M_mean, z)
    w = w_mean + memory.w_stddev() * noise[T, B, 4]
    M = state.M_mean + tf.linalg.cholesky(state.M_cov) @ noise[B, 4, 6]
    probability = machine.decode(tf.einsum("tbk,bkc->tbc", w, M))
    log_likelihood = np.sum(tfd.Bernoulli(probs=probability).log_prob(images), (2, 3, 4))
    np.testing.assert_allclose(told.reconstruction, probability, rtol=1e-5)
    np.testing.assert_allclose(told.log_likelihood, log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(told.kl_w, kl_w, rtol=1e-5)
    np.testing.assert_allclose(told.kl_memory, kl_memory, rtol=1e-3)
    np.testing.assert_allclose(told.elbo, np.sum(log_likelihood - kl_w, 0) - kl_memory, rtol=1e-4)
    np.testing.assert_allclose(told.public_kl_memory, memory.get_dkl_total(state), rtol=1e-5)


def test_reads_of_means_need_no_seed_and_samples_follow_it(machine, images):
    state = machine.write(images, machine.initial_state(B))
    reads = machine.read_iteratively(images, state, 2)
    np.testing.assert_allclose(machine(images).reconstruction, reads[0], rtol=1e-4)
    np.testing.assert_allclose(machine.read(reads[0], state), reads[1], rtol=1e-4)
    samples = [machine.sample(7, state, seed) for seed in ([0, 1], [0, 1], [0, 2])]
    assert samples[0].shape == (7, B, *FRAME)
    np.testing.assert_array_equal(samples[0], samples[1])
    assert np.abs(samples[0] - samples[2]).max() > 1e-3


def test_wrong_arguments(machine):
    with pytest.raises(ValueError, match="frame_shape"):
        KanervaMachine((28, 28, 1))
    with pytest.raises(ValueError, match="channels"):
        KanervaMachine(FRAME, channels=(2, 3))
    with pytest.raises(ValueError, match="images"):
        machine.write(np.zeros((B, *FRAME), np.float32), machine.initial_state(B))
    with pytest.raises(ValueError, match="memory_kl"):
        dataclasses.replace(kanerva.PRESETS["smoke"], memory_kl="half")


def test_cues():
    images = tf.fill([4, 50, 32, 32, 1], 0.5)
    noisy = kanerva.salt_and_pepper(images, 0.2, [0, 1]).numpy()
    shares = [np.mean(noisy == value) for value in (0, 0.5, 1)]
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.005)

    missing = kanerva.occlude(images, 12, [0, 1]).numpy()[..., 0] == 0
    firsts = set()
    for mask in missing.reshape(-1, 32, 32):
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        assert mask.sum() == 144
        assert np.ptp(rows) == np.ptp(columns) == 11
        firsts |= {rows[0], columns[0]}
    assert firsts == set(range(21))


def test_scores_are_means_over_batches(experiment):
    scores = experiment.evaluate()
    batches = [experiment.stream("evaluation").batch(n) for n in range(2)]
    each = [experiment._scores(n, batch) for n, batch in enumerate(batches)]
    assert set(scores) == set(each[0])
    for name in scores:
        np.testing.assert_allclose(scores[name], np.mean([told[name] for told in each]), rtol=1e-4, err_msg=name)
    images = np.concatenate([batch["images"] for batch in batches]) >= 128
    assert scores["clean_cue_error"] == 0
    share = experiment.config.occlusion**2 / 1024
    np.testing.assert_allclose(scores["occlusion_cue_error"], images.mean() * share, rtol=0.1)
    np.testing.assert_allclose(scores["salt_and_pepper_cue_error"], 0.15 / 2, rtol=0.1)


def test_updates_move_all_weights_and_lower_the_loss(experiment):
    weights = [v.numpy() for v in experiment.model.trainable_variables]
    batch = {"images": tf.concat([tf.zeros([6, 16, 32, 1], tf.uint8), tf.fill([6, 16, 32, 1], np.uint8(255))], 1)}
    step = tf.function(experiment.train_step, autograph=False)
    experiment.optimizer.learning_rate = 3e-3
    losses = [step(tf.constant(n, tf.int64), batch, ())[1]["loss"].numpy() for n in range(60)]
    assert all(np.any(v != w) for v, w in zip(experiment.model.trainable_variables, weights, strict=True))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_exported_memory_is_written_in_parts(machine, images, tmp_path):
    export.saved_model(machine, tmp_path / "model")
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    assert set(signatures) >= kanerva.SIGNATURES
    batch_major = tf.constant(images.swapaxes(0, 1))
    state = signatures["initial_state"](batch_size=tf.constant(B))
    for part in (batch_major[:, :2], batch_major[:, 2:]):
        state = signatures["write"](images=part, **state)
    expected = machine.write(images, machine.initial_state(B))
    for name, wanted in expected._asdict().items():
        np.testing.assert_allclose(state[f"state_{name}"], wanted, rtol=1e-3, atol=1e-4)
    read = signatures["read"](cues=batch_major, **state)["images"].numpy()
    np.testing.assert_allclose(read.swapaxes(0, 1), machine.read(images, expected), rtol=1e-3)
    drawn = signatures["sample"](num_images=tf.constant(7), seed=tf.constant([0, 3]), **state)["images"].numpy()
    np.testing.assert_allclose(drawn.swapaxes(0, 1), machine.sample(7, expected, [0, 3]), rtol=1e-3)
