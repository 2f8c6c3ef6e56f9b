"""ConvDRAW against a slow reference and the printed sizes; noise, gradients, XLA, export; the deterministic model."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.references import convdraw as reference
from tests.support import first_of, relative_error
from tfmem import export
from tfmem.losses.geco import GECO
from tfmem.models.convdraw import ConvDRAW, DeterministicFrameModel
from tfmem.noise import normal_of_bits, standard_normal

SMALL = dict(
    latent_channels=2,
    encoder_hidden=(3, 4),
    encoder_channels=5,
    prior_channels=6,
    decoder_channels=7,
    decoder_hidden=(4, 3),
    conditioning_channels=3,
)
SMALL_DECODER = {name: SMALL[name] for name in ("decoder_channels", "decoder_hidden", "conditioning_channels")}
FRAME, SIZE, BATCH = (16, 24, 2), 9, 3  # states are 2 x 3


@pytest.fixture(scope="module")
def conditional():
    return small_model(SIZE)


@pytest.fixture(scope="module")
def unconditional():
    return small_model(None, num_steps=2)


def small_model(size, num_steps=3):
    """Far from where weights start: all of them, biases too, matter."""
    model = ConvDRAW(FRAME, conditioning_size=size, num_steps=num_steps, **SMALL)
    scatter(model.trainable_variables, 5)
    return model


def scatter(variables, seed, stddev=0.15):
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign_add(rng.normal(size=variable.shape, scale=stddev).astype(np.float32))


@pytest.fixture
def frames(rng):
    return rng.uniform(size=(BATCH, *FRAME)).astype(np.float32)


@pytest.fixture
def beliefs(rng):
    return rng.normal(size=(BATCH, SIZE)).astype(np.float32)


# --- what the appendix prints ---


def test_sizes_of_the_appendix():
    """64 x 64 frames: every map has the printed size, and the parameters are counted."""
    model = ConvDRAW((64, 64, 3), conditioning_size=512)
    encoder, decoder = model.encoders[0], model.decoders[-1]
    x = tf.concat([tf.zeros([1, 64, 64, 3])] * 2, -1)
    first = encoder.layers[0](x)
    second = encoder.layers[1](first)
    state, canvas = decoder(tf.zeros([1, 8, 8, 16]), tf.zeros([1, 8, 8, 64]), tf.zeros([1, 64, 64, 3]))
    hidden = decoder.layers[0](state)
    assert first.shape[1:] == (32, 32, 16)
    assert second.shape[1:] == (16, 16, 16)
    assert encoder.from_frame(second).shape[1:] == (8, 8, 2 * 64)  # before tanh times sigmoid
    assert state.shape[1:] == (8, 8, 64)
    assert hidden.shape[1:] == (16, 16, 32)
    assert decoder.layers[1](hidden).shape[1:] == (32, 32, 32)
    assert canvas.shape[1:] == (64, 64, 3)
    assert [len(part) for part in (model.first_prior, model.later_prior, model.encoders, model.decoders)] == [
        4,
        7,
        8,
        8,
    ]
    sizes = {v.shape[0] for v in model.trainable_variables if v.shape.rank == 4}
    assert sizes == {4, 5}

    def conv(size, inputs, outputs):
        return size * size * inputs * outputs + outputs

    z, e, h = 16, 16, 64
    step = conv(4, 6, 16) + conv(4, 16, 16) + conv(4, 16, 2 * h) + conv(5, 3 * h, 2 * h)  # encoder
    step += 2 * conv(5, h, 2 * z)  # posterior and prior
    step += conv(5, h + z, 2 * h) + conv(4, h, 32) + conv(4, 32, 32) + conv(4, 32, 3)  # decoder
    expected = 8 * step + 4 * conv(5, h + e, 2 * h) + 7 * conv(5, h + z + e, 2 * h) + (512 + 1) * 8 * 8 * e
    assert sum(v.shape.num_elements() for v in model.trainable_variables) == expected == 12_200_600


def test_equals_the_slow_reference(conditional, frames, beliefs):
    seed = [3, 4]
    error, kl, reconstruction = conditional(frames, beliefs, seed)
    samples = conditional.sample(beliefs, seed)
    assert reconstruction.shape == samples.shape == frames.shape
    e = conditional.conditioning(beliefs).numpy()
    w, b = conditional.conditioning.linear.w.numpy(), conditional.conditioning.linear.b.numpy()
    assert relative_error(e.reshape(BATCH, -1), beliefs @ w + b) < 1e-5
    noise = standard_normal([3, BATCH, 2, 3, SMALL["latent_channels"]], seed).numpy()
    for n in range(BATCH):
        canvas, expected = reference.convdraw(conditional, e[n], noise[:, n], frames[n])
        assert relative_error(reconstruction[n], canvas) < 1e-5
        np.testing.assert_allclose(kl[n], expected, rtol=1e-5)
        np.testing.assert_allclose(error[n], np.sum((frames[n] - canvas) ** 2), rtol=1e-5)
        canvas, _ = reference.convdraw(conditional, e[n], noise[:, n])
        assert relative_error(samples[n], canvas) < 1e-5


def test_kl_is_zero_where_posterior_and_prior_are_the_same(frames):
    model = ConvDRAW(FRAME, num_steps=2, **SMALL)
    assert np.all(model(frames, None, [0, 1]).kl > 1e-3)
    for posterior, prior in zip(model.posteriors, model.priors, strict=True):
        for gaussian in (posterior, prior):
            gaussian.convolution.w.assign(tf.zeros_like(gaussian.convolution.w))
            gaussian.convolution.b.assign([0.3, -0.2, 0.5, -1.0])
    np.testing.assert_allclose(model(frames, None, [0, 1]).kl, 0, atol=1e-6)


# --- noise ---


def test_noise_is_normal():
    noise = np.sort(standard_normal([100_000], [7, 8]))
    quantiles = [-2.3263, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 2.3263]
    places = np.searchsorted(noise, quantiles) / len(noise)
    np.testing.assert_allclose(places, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], atol=5e-3)


@pytest.mark.parametrize("jit", [False, True])
def test_the_largest_noise_is_finite(jit):
    bits = tf.constant([-(2**31), -1, 0, 2**31 - 1], tf.int32)
    noise = tf.function(normal_of_bits, jit_compile=jit)(bits).numpy()
    np.testing.assert_allclose(noise[[0, 1]], -noise[[3, 2]], rtol=1e-3)
    assert 5 < noise[3] < 5.5
    assert 0 < noise[2] < 1e-6


def test_noise_is_a_function_of_the_seed(unconditional, frames):
    first, again, other = (unconditional.sample(4, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, *FRAME)
    assert np.abs(first - other).max() > 1e-2
    assert np.abs(first[0] - first[1]).max() > 1e-2
    told = [unconditional(frames, None, seed).error.numpy() for seed in ([1, 2], [1, 2], [1, 3])]
    np.testing.assert_array_equal(told[0], told[1])
    assert np.abs(told[0] - told[2]).min() > 1e-3


def test_samples_know_the_prior_and_the_decoder_alone(beliefs):
    model = small_model(SIZE, num_steps=2)
    before = model.sample(beliefs, [0, 1])
    for part in (model.encoders, model.posteriors):
        for module in part:
            scatter(module.trainable_variables, 6)
    np.testing.assert_array_equal(model.sample(beliefs, [0, 1]), before)
    scatter(model.priors[0].trainable_variables, 7)
    assert np.abs(model.sample(beliefs, [0, 1]) - before).max() > 1e-2
    assert np.abs(model.sample(beliefs[::-1].copy(), [0, 1])[::-1] - before).max() > 1e-2


# --- gradients and XLA ---


def run(model, frames, conditioning, seed):
    """(FrameLoss, samples, gradients of error + KL) of a model."""
    with tf.GradientTape() as tape:
        told = model(frames, conditioning, seed)
        loss = tf.reduce_mean(told.error + told.kl)
    samples = model.sample(BATCH if conditioning is None else conditioning, seed)
    return told, samples, tape.gradient(loss, model.trainable_variables)


@pytest.fixture(scope="module")
def deterministic():
    return DeterministicFrameModel(FRAME, SIZE, num_steps=3, **SMALL_DECODER)


@pytest.mark.parametrize("kind", ["conditional", "unconditional", "deterministic"])
def test_gradients_reach_every_variable(kind, request, frames, beliefs):
    model = request.getfixturevalue(kind)
    _, _, gradients = run(model, frames, None if kind == "unconditional" else beliefs, [5, 6])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        assert np.all(np.isfinite(gradient)), variable.name
        assert np.any(gradient != 0), variable.name


@pytest.mark.parametrize("kind", first_of(["deterministic", "conditional"]))
def test_xla_agrees(kind, request, frames, beliefs):
    function = functools.partial(run, request.getfixturevalue(kind), tf.constant(frames), tf.constant(beliefs))
    plain, compiled = (
        tf.function(function, jit_compile=jit, autograph=False)(tf.constant([5, 6])) for jit in (False, True)
    )
    for a, b in zip(tf.nest.flatten(plain[:2]), tf.nest.flatten(compiled[:2]), strict=True):
        assert relative_error(b, a) < 1e-5
    for a, b in zip(plain[2], compiled[2], strict=True):
        assert relative_error(b, a) < 1e-4


@pytest.mark.parametrize(("side", "steps"), [(8, 1), (16, 3), (64, 8)])
def test_differences_of_beliefs_reach_the_frames_from_the_start(rng, side, steps):
    beliefs = rng.normal(scale=0.25, size=[32, 128]).astype(np.float32)
    model = DeterministicFrameModel((side, side, 3), 128, num_steps=steps, conditioning_channels=32)
    assert 0.025 < np.std(model.sample(beliefs, [0, 1]), axis=0).mean() < 0.3


@pytest.mark.parametrize(("side", "steps"), [(8, 1), (16, 3), (64, 8)])
def test_noise_of_latents_fades_at_the_start(side, steps):
    model = ConvDRAW((side, side, 3), num_steps=steps)
    assert 0.003 < np.std(model.sample(32, [0, 1]), axis=0).mean() < 0.03


@pytest.mark.long
def test_geco_reaches_kappa_and_then_lowers_the_kl():
    """One random number a frame: lambda rises until the error is below kappa, then falls, and the KL with it."""
    basis = tf.constant(np.random.default_rng(0).normal(size=(1, 64), scale=0.5).astype(np.float32))
    sizes = dict(SMALL, latent_channels=6, encoder_channels=16, decoder_channels=16, decoder_hidden=(8, 8))
    model, kappa = ConvDRAW((8, 8, 1), num_steps=2, **{**sizes, "encoder_hidden": (8, 8)}), 0.05
    geco, optimizer = GECO(kappa, dimensions=64, initial=2.0, rate=0.1, decay=0.9), keras.optimizers.Adam(0.005)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(update):
        frames = tf.reshape(standard_normal([32, 1], tf.stack([1, update])) @ basis, [32, 8, 8, 1])
        with tf.GradientTape() as tape:
            told = geco(*model(frames, None, tf.stack([0, update]))[:2])
        *gradients, ascent = tape.gradient(told.loss, [*model.trainable_variables, geco.multiplier.w])
        optimizer.apply(gradients, model.trainable_variables)
        geco.multiplier.w.assign_sub(ascent)
        return told

    told = [step(update) for update in tf.range(400)]
    error, multiplier, kl = (np.array([getattr(t, name) for t in told]) for name in ("error", "multiplier", "kl"))
    met = int(np.argmax(error < kappa))
    assert 0 < met < 100
    assert error[:10].mean() > 2 * kappa
    assert 5 < np.argmax(multiplier) - met < 50  # the average follows the error
    assert multiplier.max() > 10
    assert multiplier[-1] < 0.1 * multiplier.max()
    assert kl[-50:].mean() < 0.5 * kl.max()
    assert error[150:200].mean() < error[-50:].mean() < kappa  # back up to what is allowed


# --- the baseline, saving, errors ---


def test_the_deterministic_model_has_one_frame_for_a_conditioning(deterministic, frames, beliefs):
    model = deterministic
    error, kl, reconstruction = model(frames, beliefs, [0, 1])
    np.testing.assert_array_equal(kl, np.zeros(BATCH))
    np.testing.assert_array_equal(reconstruction, model.sample(beliefs, [2, 3]))
    np.testing.assert_allclose(error, np.sum((frames - reconstruction) ** 2, (1, 2, 3)), rtol=1e-5)
    twin = ConvDRAW(FRAME, SIZE, **{**SMALL, "latent_channels": SMALL["conditioning_channels"]})
    shapes = [[v.shape for v in m.decoders[0].trainable_variables] for m in (model, twin)]
    assert shapes[0] == shapes[1]  # the same decoder


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_saved_model(kind, request, tmp_path, frames, beliefs):
    model = request.getfixturevalue(kind)
    export.saved_model(model, tmp_path / "saved")
    signatures = tf.saved_model.load(tmp_path / "saved").signatures
    seed, given = tf.constant([5, 6]), {} if kind == "unconditional" else {"conditioning": tf.constant(beliefs)}
    number = given or {"num_frames": tf.constant(BATCH)}
    samples = signatures["sample"](seed=seed, **number)["frames"]
    assert relative_error(samples, model.sample(*number.values(), seed)) < 1e-5
    told = signatures["reconstruct"](frames=tf.constant(frames), seed=seed, **given)
    for name, expected in model(frames, given.get("conditioning"), seed)._asdict().items():
        assert relative_error(told[name], expected) < 1e-5


def test_checkpoint_round_trip(unconditional, tmp_path):
    path = tf.train.Checkpoint(model=unconditional).write(str(tmp_path / "checkpoint"))
    other = ConvDRAW(FRAME, num_steps=2, **SMALL)
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other.sample(2, [0, 1]), unconditional.sample(2, [0, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(frame_shape=(28, 28, 1)), r"frame_shape: \(28, 28, 1\), must be .* 8 must divide height and width"),
        (dict(frame_shape=(32, 32)), "frame_shape: .*must be"),
        (dict(num_steps=0), "num_steps: 0"),
        (dict(encoder_hidden=(16, 0)), r"encoder_hidden: \(16, 0\), must be two integers greater than 0"),
        (dict(decoder_hidden=(16,)), r"decoder_hidden: \(16,\), must be two integers"),
        (dict(conditioning_size=0), "conditioning_size: 0"),
        (dict(latent_channels=1.5), r"latent_channels: 1\.5"),
        (dict(min_stddev=1.0), r"min_stddev: 1\.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvDRAW(**{"frame_shape": FRAME, "num_steps": 1, **SMALL, **arguments})


def test_the_deterministic_model_needs_a_conditioning():
    with pytest.raises(ValueError, match="conditioning_size: None, must be an integer"):
        DeterministicFrameModel(FRAME, None)


def test_bad_inputs(conditional, unconditional, frames, beliefs):
    with pytest.raises(ValueError, match=r"frames: .* must be \[N, 16, 24, 2\]"):
        conditional(frames[:, :8], beliefs, [0, 1])
    with pytest.raises(ValueError, match=r"conditioning: shape \(3, 8\), must be \[N, 9\]"):
        conditional.sample(tf.zeros([3, 8]), [0, 1])
    with pytest.raises(ValueError, match=r"conditioning: shape <unknown>, must be \[N, 9\]"):
        conditional(frames, None, [0, 1])
    with pytest.raises(ValueError, match="conditioning: a tensor, must be None"):
        unconditional(frames, beliefs, [0, 1])
    with pytest.raises(ValueError, match="frames: uint8, must be float32, from 0 to 1"):
        conditional(np.zeros(frames.shape, np.uint8), beliefs, [0, 1])


def test_a_conditioning_for_each_frame(conditional, deterministic, frames, beliefs):
    for model in (conditional, deterministic):
        with pytest.raises(ValueError, match=rf"conditioning: shape \(1, 9\), must be \[{BATCH}, C\]"):
            model(frames, beliefs[:1], [0, 1])
