"""ConvDRAW as Appendix A of Gregor et al. 2019 has it, one frame and one cell at a time, in float64 numpy."""

import numpy as np


def convolution(layer, x):
    """SAME convolution of x [h, w, in] with a layer that has `w`, `b`, `stride`, `transposed`."""
    w, b, stride = layer.w.numpy().astype(np.float64), layer.b.numpy(), layer.stride
    size, pad = w.shape[0], 1 if stride == 2 else 2
    height, width = x.shape[:2]
    if layer.transposed:  # every input cell adds its kernel; one row and column are cut off on each side
        y = np.zeros((stride * height + 2 * pad, stride * width + 2 * pad, w.shape[2]))
        for i in range(height):
            for j in range(width):
                y[stride * i : stride * i + size, stride * j : stride * j + size] += w @ x[i, j]
        return y[pad:-pad, pad:-pad] + b
    x = np.pad(x, [(pad, pad), (pad, pad), (0, 0)])
    y = np.zeros((height // stride, width // stride, w.shape[3]))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = np.tensordot(x[stride * i : stride * i + size, stride * j : stride * j + size], w, 3)
    return y + b


def ts(x):
    a, s = np.split(x, 2, -1)
    return np.tanh(a) / (1 + np.exp(-s))


def recurrence(layer, *inputs):
    return ts(convolution(layer.convolution, np.concatenate(inputs, -1)))


def gaussian(layer, state):
    mean, raw = np.split(convolution(layer.convolution, state), 2, -1)
    offset = np.log(np.exp(1 - layer.min_stddev) - 1)
    return mean, np.log(1 + np.exp(raw + offset)) + layer.min_stddev


def convdraw(model, e, noise, frame=None):
    """(canvas, KL) of one frame, or of a sample: e [h, w, channels], noise [T, h, w, latents]."""

    def zeros(channels):
        return np.zeros((*e.shape[:2], channels))

    h_prior, h_encoder = zeros(model.prior_channels), zeros(model.encoder_channels)
    h_decoder, canvas, kl, z = zeros(model.decoder_channels), np.full(model.frame_shape, model.first_canvas), 0.0, None
    for t in range(model.num_steps):
        if t == 0:
            for layer in model.first_prior:
                h_prior = recurrence(layer, h_prior, e)
        else:
            h_prior = recurrence(model.later_prior[t - 1], h_prior, z, e)
        mean, stddev = prior = gaussian(model.priors[t], h_prior)
        if frame is not None:
            encoder, x = model.encoders[t], np.concatenate([frame, frame - canvas], -1)
            for layer in encoder.layers:
                x = np.maximum(convolution(layer, x), 0)
            states = np.concatenate([h_encoder, h_decoder, h_prior], -1)
            h_encoder = ts(convolution(encoder.from_frame, x) + convolution(encoder.from_states, states))
            mean, stddev = gaussian(model.posteriors[t], h_encoder)
            kl += np.sum(np.log(prior[1] / stddev) + (stddev**2 + (mean - prior[0]) ** 2) / (2 * prior[1] ** 2) - 0.5)
        z = mean + stddev * noise[t]
        decoder = model.decoders[t]
        h_decoder = recurrence(decoder.recurrence, h_decoder, z)
        x = h_decoder
        for layer in decoder.layers:
            x = np.maximum(convolution(layer, x), 0)
        canvas = canvas + convolution(decoder.to_canvas, x)
    return canvas, kl
