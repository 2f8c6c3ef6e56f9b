"""ConvDRAW as modified by Gregor et al. 2019, "Shaping Belief States with Generative Environment Models for RL",
Appendix A, and the deterministic frame model with the same decoder.

Letters: x a frame, b its conditioning (a belief; none for an unconditional model), [., .] a concatenation of channels,
ts(a, s) = tanh(a) sigmoid(s) of the two halves of a convolution, c the canvas. All states start at 0, the canvas at a
value near the frames' mean, and no two of the functions below share weights. For steps t = 1 ... T:

    e      = reshape(L b)                                     conditioning, as a map
    h^P_1  = ts([h, e]) applied four times from h = 0         prior network
    h^P_t  = ts([h^P_{t-1}, z_{t-1}, e])                      for t > 1
    p_t    = N(mean, stddev of h^P_t)
    E_t    = x - c_{t-1}                                      error
    h^E_t  = ts(conv(conv([x, E_t])) + [h^E_{t-1}, h^D_{t-1}, h^P_t])
    q_t    = N(mean, stddev of h^E_t)                         z_t ~ q_t; to sample a frame, z_t ~ p_t
    h^D_t  = ts([h^D_{t-1}, z_t])                             decoder
    c_t    = c_{t-1} + deconv(deconv(deconv(h^D_t)))

    KL = sum_t KL[q_t; p_t],   error = |x - c_T|^2            the likelihood is N(c_T, a fixed variance), kept out

Printed in the appendix: 8 steps; a 64x64 frame goes to 32x32x16 and 16x16x16 with ReLU, all states are 8x8, those of
prior and decoder have 64 channels; the decoder's hidden layers are 16x16x32 and 32x32x32; kernels are 4x4 where the
stride changes and 5x5 elsewhere; tanh times sigmoid; the first conditioning operation four times; nothing is shared.

Not specified; we use:
  - the inputs of each recurrence as above (Figure 7 is a drawing), and the sign of E as above;
  - the channels of z, of e and of the encoder's state as in `ConvDRAW`'s defaults; ReLU in the decoder;
  - stddev = softplus + min_stddev, 1 at the start;
  - frames in [0, 1], and a canvas that starts at 1/2;
  - weights that start truncated normal with stddev 1 / sqrt(fan-in). The noise of untrained latents then fades. With
    a start that keeps its size, digits cost 1.9 times the nats at the same error after 500 updates.

The deterministic model has no noise; its weights start so that activations keep their size. With 1 / sqrt(fan-in) and a
black canvas, a hundredth of a belief's differences reached the frame, and the output stayed at the mean frame for
hundreds of updates.
"""

import math
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf
import tensorflow_probability as tfp

from tfmem.cores.base import Linear
from tfmem.noise import standard_normal
from tfmem.validation import is_integer

tfd = tfp.distributions

FIRST_APPLICATIONS = 4  # Appendix A: of the first conditioning operation


class FrameLoss(NamedTuple):
    """Output of a model of frames for N frames."""

    error: tf.Tensor  # [N], squared error summed over the frame
    kl: tf.Tensor  # [N], nats; zeros where there are no latents
    reconstruction: tf.Tensor  # [N, height, width, channels]


def _num(frames):
    """N of frames or maps [N, ...], static where it is known."""
    return frames.shape[0] or tf.shape(frames)[0]


RELU, GATED = 2.0, 4.0  # variance that a ReLU, and tanh times sigmoid, need so that as much comes out as goes in


class _Convolution(snt.Module):
    """A convolution with SAME padding: 5x5, or 4x4 with stride 2 (transposed: the sides double).

    Weights start with `variance` / fan-in, where cells beyond the edges of a `grid` that is smaller do not count.
    """

    def __init__(self, in_channels, out_channels, stride=1, transposed=False, variance=1.0, grid=(5, 5), name=None):
        super().__init__(name=name)
        size = 4 if stride > 1 else 5
        self.out_channels, self.stride, self.transposed = out_channels, stride, transposed
        seen = size**2 / (stride**2 if transposed else 1) if stride > 1 else math.prod(min(5, side) for side in grid)
        channels = (out_channels, in_channels) if transposed else (in_channels, out_channels)
        init = snt.initializers.TruncatedNormal(stddev=math.sqrt(variance / (seen * in_channels)))
        self.w = tf.Variable(init([size, size, *channels], tf.float32), name="w")
        self.b = tf.Variable(tf.zeros([out_channels]), name="b")

    def __call__(self, x):
        # `+ b`: the gradient of bias_add sums float32 over many cells imprecisely.
        if not self.transposed:
            w = self.w
            if self.stride == 1:  # on a small grid the outermost weights meet zeros alone
                rows, columns = (max(0, 3 - side) for side in x.shape[1:3])
                w = w[rows : 5 - rows, columns : 5 - columns]
            return tf.nn.conv2d(x, w, self.stride, "SAME") + self.b
        height, width = (side * self.stride for side in x.shape[1:3])
        shape = [_num(x), height, width, self.out_channels]
        return tf.nn.conv2d_transpose(x, self.w, shape, self.stride, "SAME") + self.b


def tanh_sigmoid(x):
    """The recurrence: tanh of the first half of the channels times the sigmoid of the second."""
    a, s = tf.split(x, 2, -1)
    return tf.tanh(a) * tf.sigmoid(s)


class _Recurrence(snt.Module):
    """tanh_sigmoid of a convolution of all that is given, concatenated."""

    def __init__(self, in_channels, channels, grid, variance=1.0, name=None):
        super().__init__(name=name)
        self.convolution = _Convolution(in_channels, 2 * channels, variance=variance, grid=grid)

    def __call__(self, *inputs):
        return tanh_sigmoid(self.convolution(tf.concat(inputs, -1)))


class _Gaussian(snt.Module):
    """A diagonal Gaussian map from a state: [N, h, w, channels] is one event."""

    def __init__(self, in_channels, channels, min_stddev, grid, name=None):
        super().__init__(name=name)
        self.convolution = _Convolution(in_channels, 2 * channels, grid=grid)
        self.min_stddev = min_stddev
        self.offset = math.log(math.expm1(1.0 - min_stddev))  # softplus(offset) + min_stddev = 1

    def __call__(self, state):
        mean, raw = tf.split(self.convolution(state), 2, -1)
        return tfd.Independent(tfd.Normal(mean, tf.nn.softplus(raw + self.offset) + self.min_stddev), 3)


class _Encoder(snt.Module):
    """One step of the encoder: h^E_t."""

    def __init__(self, frame_channels, hidden, state_channels, encoder_channels, grid, name=None):
        super().__init__(name=name)
        first, second = hidden
        sizes = [(2 * frame_channels, first), (first, second)]
        self.layers = [_Convolution(*channels, 2) for channels in sizes]
        self.from_frame = _Convolution(second, 2 * encoder_channels, 2, variance=0.5)
        self.from_states = _Convolution(state_channels, 2 * encoder_channels, variance=0.5, grid=grid)

    def __call__(self, frame, error, *states):
        x = tf.concat([frame, error], -1)
        for layer in self.layers:
            x = tf.nn.relu(layer(x))
        return tanh_sigmoid(self.from_frame(x) + self.from_states(tf.concat(states, -1)))


class _Decoder(snt.Module):
    """One step of the decoder: h^D_t, and what it adds to the canvas."""

    def __init__(self, in_channels, channels, hidden, frame_channels, num_steps, grid, variances=(1.0, 1.0), name=None):
        super().__init__(name=name)
        first, second = hidden
        of_relu, of_gate = variances
        self.recurrence = _Recurrence(channels + in_channels, channels, grid, of_gate)
        sizes = [(channels, first), (first, second)]
        self.layers = [_Convolution(*channels, 2, transposed=True, variance=of_relu) for channels in sizes]
        # The canvas is a sum of all steps; frames from 0 to 1 differ by about a quarter.
        self.to_canvas = _Convolution(second, frame_channels, 2, transposed=True, variance=0.5 / num_steps)

    def __call__(self, inputs, state, canvas):
        state = self.recurrence(state, inputs)
        x = state
        for layer in self.layers:
            x = tf.nn.relu(layer(x))
        return state, canvas + self.to_canvas(x)


class _Conditioning(snt.Module):
    """The map e [N, h, w, channels] of a conditioning [N, size]; without one, a map that is learned."""

    def __init__(self, size, map_shape, name=None):
        super().__init__(name=name)
        self.size, self.map_shape = size, map_shape
        if size is None:
            init = snt.initializers.TruncatedNormal(stddev=1.0)
            self.map = tf.Variable(init(map_shape, tf.float32), name="map")
        else:
            # Beliefs, outputs of an LSTM, are about a quarter in size at the start.
            self.linear = Linear(math.prod(map_shape), w_init=snt.initializers.VarianceScaling(scale=16.0))
            self.linear.initialize(size)

    def __call__(self, conditioning, num_frames=None):
        if self.size is None:
            if conditioning is not None:
                raise ValueError("conditioning: a tensor, must be None: the model is unconditional")
            return tf.broadcast_to(self.map, [num_frames, *self.map_shape])
        shape = tf.TensorShape(None) if conditioning is None else tf.convert_to_tensor(conditioning).shape
        if shape.rank != 2 or shape[1] != self.size:
            raise ValueError(f"conditioning: shape {shape}, must be [N, {self.size}]")
        return tf.reshape(self.linear(tf.convert_to_tensor(conditioning)), [-1, *self.map_shape])


class _FrameModel(snt.Module):
    """Base of both models of frames: their sizes, the conditioning, the decoder's steps."""

    def __init__(self, frame_shape, num_steps, sizes, conditioning_size, conditioning_channels, canvas, name):
        super().__init__(name=name)
        self.frame_shape = tuple(frame_shape)
        if len(self.frame_shape) != 3 or self.frame_shape[0] % 8 or self.frame_shape[1] % 8 or min(frame_shape) < 1:
            raise ValueError(
                f"frame_shape: {frame_shape}, must be (height, width, channels); 8 must divide height and width"
            )
        for argument, size in {"num_steps": num_steps, **sizes}.items():
            many = 2 if argument.endswith("_hidden") else 1
            values = tuple(size) if isinstance(size, tuple | list) else (size,)
            if len(values) != many or not all(map(is_integer, values)):
                what = "two integers" if many == 2 else "an integer"
                raise ValueError(f"{argument}: {size}, must be {what} greater than 0")
        self.num_steps, self.first_canvas = num_steps, float(canvas)
        self.grid = (self.frame_shape[0] // 8, self.frame_shape[1] // 8)
        self.conditioning = _Conditioning(conditioning_size, (*self.grid, conditioning_channels))

    def zeros(self, num_frames, channels):
        return tf.zeros([num_frames, *self.grid, channels])

    def canvas(self, num_frames):
        return tf.fill([num_frames, *self.frame_shape], self.first_canvas)

    def check(self, frames, conditioning):
        frames = tf.convert_to_tensor(frames)
        if frames.dtype != tf.float32:
            raise ValueError(f"frames: {frames.dtype.name}, must be float32, from 0 to 1")
        if frames.shape.rank != 4 or tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(f"frames: shape {frames.shape}, must be [N, {', '.join(map(str, self.frame_shape))}]")
        if conditioning is not None:
            shape = tf.convert_to_tensor(conditioning).shape
            if not shape[:1].is_compatible_with(frames.shape[:1]):
                raise ValueError(f"conditioning: shape {shape}, must be [{frames.shape[0]}, C], as many as frames")
        return frames


class ConvDRAW(_FrameModel):
    """A model of frames with latents: p(x | b), or p(x).

        model = ConvDRAW((64, 64, 3), conditioning_size=512)
        output = model(frames, belief, seed=[0, 1])             # FrameLoss, for GECO(...)(output.error, output.kl)
        samples = model.sample(belief, seed=[0, 2])             # unconditional: model.sample(num_frames, seed)

    Noise is a function of the seed alone (philox). Everything is float32.

    Source: Appendix A, except the arguments marked as not specified.

    Args:
      frame_shape: (height, width, channels); 8 must divide height and width.
      conditioning_size: C of the conditioning [N, C]; None: unconditional.
      num_steps: T.
      latent_channels: of z_t. Not specified; we use 16.
      encoder_hidden: channels of the encoder's two layers.
      encoder_channels: of h^E. Not specified; we use 64.
      prior_channels: of h^P.
      decoder_channels: of h^D.
      decoder_hidden: channels of the decoder's two layers.
      conditioning_channels: of e. Not specified; we use 16.
      canvas: c_0, best near the mean of the frames. Not specified; we use 1/2.
      min_stddev: floor of all standard deviations. Not specified; we use 0.01.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(
        self,
        frame_shape,
        conditioning_size=None,
        num_steps=8,
        latent_channels=16,
        encoder_hidden=(16, 16),
        encoder_channels=64,
        prior_channels=64,
        decoder_channels=64,
        decoder_hidden=(32, 32),
        conditioning_channels=16,
        canvas=0.5,
        min_stddev=0.01,
        name="ConvDRAW",
    ):
        sizes = {
            "latent_channels": latent_channels,
            "encoder_hidden": encoder_hidden,
            "encoder_channels": encoder_channels,
            "prior_channels": prior_channels,
            "decoder_channels": decoder_channels,
            "decoder_hidden": decoder_hidden,
            "conditioning_channels": conditioning_channels,
        }
        if conditioning_size is not None:
            sizes["conditioning_size"] = conditioning_size
        super().__init__(frame_shape, num_steps, sizes, conditioning_size, conditioning_channels, canvas, name)
        if not 0 < min_stddev < 1:
            raise ValueError(f"min_stddev: {min_stddev}, must be between 0 and 1")
        self.latent_channels, self.encoder_channels = latent_channels, encoder_channels
        self.prior_channels, self.decoder_channels = prior_channels, decoder_channels
        channels, steps = self.frame_shape[-1], range(num_steps)
        first, later = prior_channels + conditioning_channels, latent_channels
        self.first_prior = [_Recurrence(first, prior_channels, self.grid) for _ in range(FIRST_APPLICATIONS)]
        self.later_prior = [_Recurrence(first + later, prior_channels, self.grid) for _ in steps[1:]]
        self.priors = [_Gaussian(prior_channels, latent_channels, min_stddev, self.grid) for _ in steps]
        states = encoder_channels + decoder_channels + prior_channels
        self.encoders = [_Encoder(channels, encoder_hidden, states, encoder_channels, self.grid) for _ in steps]
        self.posteriors = [_Gaussian(encoder_channels, latent_channels, min_stddev, self.grid) for _ in steps]
        sizes = (latent_channels, decoder_channels, decoder_hidden, channels, num_steps, self.grid)
        self.decoders = [_Decoder(*sizes) for _ in steps]

    def __call__(self, frames, conditioning, seed):
        """The `FrameLoss` of frames [N, height, width, channels], with one sample of the posterior.

        Args:
          conditioning: [N, C]; None where the model is unconditional.
          seed: int32 [2].
        """
        frames = self.check(frames, conditioning)
        canvas, kl = self._steps(self.conditioning(conditioning, _num(frames)), seed, frames)
        return FrameLoss(tf.reduce_sum(tf.square(frames - canvas), [1, 2, 3]), kl, canvas)

    def sample(self, conditioning, seed):
        """Frames [N, height, width, channels] from the prior: the mean of the likelihood, without its noise.

        Args:
          conditioning: [N, C]; where the model is unconditional N, the number of frames.
          seed: int32 [2].
        """
        given = (None, conditioning) if self.conditioning.size is None else (conditioning,)
        return self._steps(self.conditioning(*given), seed)[0]

    def _steps(self, e, seed, frames=None):
        """Canvas and KL; z is drawn from the posterior of `frames`, or from the prior where there are none."""
        num = _num(e)
        noise = standard_normal([self.num_steps, num, *self.grid, self.latent_channels], seed)
        h_prior = self.zeros(num, self.prior_channels)
        h_encoder = self.zeros(num, self.encoder_channels)
        h_decoder = self.zeros(num, self.decoder_channels)
        canvas, kl, z = self.canvas(num), tf.zeros([num]), None
        for t in range(self.num_steps):  # unrolled: no two steps share weights
            if t == 0:
                for recurrence in self.first_prior:
                    h_prior = recurrence(h_prior, e)
            else:
                h_prior = self.later_prior[t - 1](h_prior, z, e)
            drawn_from = prior = self.priors[t](h_prior)
            if frames is not None:
                h_encoder = self.encoders[t](frames, frames - canvas, h_encoder, h_decoder, h_prior)
                drawn_from = posterior = self.posteriors[t](h_encoder)
                kl += tfd.kl_divergence(posterior, prior)
            z = drawn_from.mean() + drawn_from.stddev() * noise[t]
            h_decoder, canvas = self.decoders[t](z, h_decoder, canvas)
        return canvas, kl

    def export_functions(self):
        """Signatures for `tfmem.export.saved_model`: `sample` and `reconstruct`."""
        seed = tf.TensorSpec([2], tf.int32)
        if self.conditioning.size is None:
            given, number = {}, {"num_frames": tf.TensorSpec([], tf.int32)}
        else:
            given = number = {"conditioning": tf.TensorSpec([None, self.conditioning.size])}

        def sample(seed, **number):
            return {"frames": self.sample(*number.values(), seed)}

        def reconstruct(frames, seed, conditioning=None):
            return self(frames, conditioning, seed)._asdict()

        frames = tf.TensorSpec([None, *self.frame_shape])
        return {
            "sample": (sample, {**number, "seed": seed}),
            "reconstruct": (reconstruct, {"frames": frames, **given, "seed": seed}),
        }


class DeterministicFrameModel(_FrameModel):
    """The baseline without latents: ConvDRAW's decoder, with the conditioning's map e in the place of every z_t.

    Called as `ConvDRAW` is, so that either may be the model of a simulation; seeds make no difference. The input
    is not specified; we use the map in the place of the latents.

    Args: as `ConvDRAW`; a conditioning is needed.
    """

    def __init__(
        self,
        frame_shape,
        conditioning_size,
        num_steps=8,
        decoder_channels=64,
        decoder_hidden=(32, 32),
        conditioning_channels=16,
        canvas=0.5,
        name="DeterministicFrameModel",
    ):
        sizes = {
            "conditioning_size": conditioning_size,
            "decoder_channels": decoder_channels,
            "decoder_hidden": decoder_hidden,
            "conditioning_channels": conditioning_channels,
        }
        super().__init__(frame_shape, num_steps, sizes, conditioning_size, conditioning_channels, canvas, name)
        self.decoder_channels = decoder_channels
        channels = self.frame_shape[-1]
        sizes = (conditioning_channels, decoder_channels, decoder_hidden, channels, num_steps, self.grid)
        self.decoders = [_Decoder(*sizes, (RELU, GATED)) for _ in range(num_steps)]

    def __call__(self, frames, conditioning, seed=None):
        """The `FrameLoss` of frames [N, height, width, channels] and conditioning [N, C]; its KL is 0."""
        frames = self.check(frames, conditioning)
        canvas = self.sample(conditioning)
        error = tf.reduce_sum(tf.square(frames - canvas), [1, 2, 3])
        return FrameLoss(error, tf.zeros_like(error), canvas)

    def sample(self, conditioning, seed=None):
        """The frames [N, height, width, channels] for conditioning [N, C]."""
        e = self.conditioning(conditioning)
        state, canvas = self.zeros(_num(e), self.decoder_channels), self.canvas(_num(e))
        for decoder in self.decoders:
            state, canvas = decoder(e, state, canvas)
        return canvas
