"""The ConvDRAW experiment: its numbers against those of a Gaussian, what an update moves, and its pictures."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from reproductions.belief_states import convdraw
from tfmem.data.images import ImageStream
from tfmem.plotting import image_grid


@pytest.fixture
def experiment(rng, monkeypatch):
    images = rng.integers(0, 256, (8, 32, 32, 1), np.uint8)
    monkeypatch.setattr(convdraw, "mnist_stream", lambda split, **kwargs: ImageStream(images, **kwargs))
    return convdraw.Experiment(dataclasses.replace(convdraw.PRESETS["smoke"], kappa=0.2))


def test_scores_are_those_of_all_test_images(experiment):
    images = experiment.stream("evaluation").images.reshape(2, 4, 32, 32, 1) / np.float32(255)
    told = [experiment.model(images[n], None, tf.constant([convdraw.EVALUATION_SEED, n])) for n in range(2)]
    likelihood = tfp.distributions.Normal(np.concatenate([t.reconstruction for t in told]), np.float32(0.2**0.5))
    log_density = np.sum(likelihood.log_prob(np.concatenate(images)), (1, 2, 3))
    kl = np.concatenate([t.kl for t in told])
    scores = experiment.evaluate()
    np.testing.assert_allclose(scores["error_per_pixel"], np.mean([t.error for t in told]) / 1024, rtol=1e-5)
    np.testing.assert_allclose(scores["kl_nats"], kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(scores["bound_nats_per_dim"], np.mean(kl - log_density) / 1024, rtol=1e-4)


def test_an_update_moves_model_and_multiplier_against_each_other(experiment):
    weights = [v.numpy() for v in experiment.model.trainable_variables]
    for update in range(3):
        batch = tf.nest.map_structure(tf.constant, experiment.batch(update))
        _, metrics = experiment.train_step(tf.constant(update, tf.int64), batch, ())
    moved = [np.any(v != w) for v, w in zip(experiment.model.trainable_variables, weights, strict=True)]
    assert all(moved)
    assert metrics["constraint"] > 0  # the images are noise around 0.5, so their square is 1/3
    assert metrics["multiplier"] > 1
    assert experiment.geco.multiplier() > metrics["multiplier"]


def test_image_grid():
    images = np.zeros((2, 3, 4, 5, 1))
    images[1, 2] = 0.5
    picture = np.asarray(image_grid(images, scale=2, gap=1))
    assert picture.shape == (2 * 8 + 1, 3 * 10 + 2)
    assert np.all(picture[8] == 255)
    assert np.all(picture[9:, 22:] == 128)
    assert not picture[:8, :10].any()
    assert image_grid(np.ones((1, 1, 4, 4, 3)), scale=1).mode == "RGB"


def test_frames_of_random_city(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMEM_CACHE_DIR", str(tmp_path))
    experiment = convdraw.Experiment(dataclasses.replace(convdraw.PRESETS["smoke"], data="random_city"))
    assert experiment.stream("train").images.shape == (10 * convdraw.EPISODE_FRAMES, 8, 8, 3)
    assert experiment.model.first_canvas == 0.5
    scores = experiment.evaluate()
    assert scores.keys() == {"error_per_pixel", "kl_nats", "bound_nats_per_dim"}
    train = experiment.stream("train").images.reshape(10, -1)
    unseen = experiment.stream("evaluation").images.reshape(1, -1)
    assert not (train == unseen).all(1).any()


def test_a_batch_larger_than_the_evaluation_is_refused():
    with pytest.raises(ValueError, match="batch_size: 21"):
        dataclasses.replace(convdraw.PRESETS["smoke"], data="random_city", batch_size=21)


def test_an_evaluation_has_no_image_twice(experiment):
    number = experiment.stream("evaluation").batches_per_pass
    with pytest.raises(ValueError, match=rf"eval_batches: {number + 1}, must be from 1 to {number}"):
        convdraw.Experiment(dataclasses.replace(experiment.config, eval_batches=number + 1))
