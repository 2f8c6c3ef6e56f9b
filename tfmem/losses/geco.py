"""Constrained training with a Lagrange multiplier: GECO (Rezende and Viola 2018, "Taming VAEs", arXiv 1810.00597), as
used by Gregor et al. 2019, "Shaping Belief States with Generative Environment Models for RL", Appendix G.

    min over theta, phi  max over lambda in [0, 1000] of  KL[q(z|x); p(z)] + lambda E[|x - g(z)|^2 - kappa]

With E over the batch and sg a stop-gradient:

    C      = E[|x - g(z)|^2 - kappa]                the constraint, not above 0 when it holds
    C_ma  <- decay C_ma + (1 - decay) C             its moving average; the first one is C
    loss   = KL + lambda (C + sg(C_ma - C))         the value of the average, the gradient of the batch
    lambda = softplus(w)^2                          kept in its range; the gradient of w has the other sign

so one optimizer may minimize over the model and maximize over lambda. A step of gradient ascent on w multiplies a large
lambda by about exp(4 step C_ma), the update of Rezende and Viola.

The update of lambda is not specified; we use the parametrization, range and moving average of Sonnet 1:
`optimization_constraints.py` and `moving_average.py` of branch v1 of github.com/google-deepmind/sonnet.
"""

from typing import NamedTuple

import numpy as np
import sonnet as snt
import tensorflow as tf

from tfmem.losses.gradients import clip_ascending, scale_gradient
from tfmem.validation import check_above_zero, check_range


class MovingAverage(snt.Module):
    """The exponential moving average of what it is called with, updated by the call; the first is the input itself.

    The gradient goes to the input of the call as if it had been returned: with factor 1, not 1 - decay.

    Args:
      decay: share of the old average.
      shape: of the inputs, float32.

    Raises:
      ValueError: `decay` is outside [0, 1).
    """

    def __init__(self, decay=0.99, shape=(), name="MovingAverage"):
        super().__init__(name=name)
        if not 0 <= decay < 1:
            raise ValueError(f"decay: {decay}, must be from 0 to less than 1")
        self.decay = decay
        self.initialized = tf.Variable(False, trainable=False, name="initialized")
        self.average = tf.Variable(tf.zeros(shape), trainable=False, name="average")

    def __call__(self, x):
        value = tf.stop_gradient(x)
        average = tf.where(self.initialized, self.decay * self.average + (1 - self.decay) * value, value)
        self.average.assign(average)
        self.initialized.assign(True)
        return x + (average - value)


class LagrangeMultiplier(snt.Module):
    """A trainable multiplier, lambda = softplus(w)^2, that ascends where the other variables descend.

        multiplier = LagrangeMultiplier()
        loss = objective + multiplier() * constraint          # constraint <= 0; any optimizer minimizes

    Args:
      initial: where lambda starts, greater than 0; a number or an array of the multiplier's shape.
      rate: the gradient of `w` is multiplied by `-rate`; 0: none. Adam does not notice it.
      valid_range: `(low, high)` that lambda is clipped to (`clip_ascending`), or None.
      shape: of the multiplier; by default that of `initial`.

    Variables: `w`, float32.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(self, initial=1.0, rate=1.0, valid_range=None, shape=None, name="LagrangeMultiplier"):
        super().__init__(name=name)
        root = np.sqrt(np.asarray(initial, np.float64))
        if not np.all(root > 0):
            raise ValueError(f"initial: {initial}, must be greater than 0")
        check_range("rate", rate, 0)
        if valid_range is not None and not 0 <= valid_range[0] < valid_range[1]:
            raise ValueError(f"valid_range: {valid_range}, must be (low, high) with 0 <= low < high")
        self.rate, self.valid_range = rate, valid_range
        w = root + np.log(-np.expm1(-root))  # the inverse of softplus
        self.w = tf.Variable(np.broadcast_to(w, w.shape if shape is None else shape), dtype=tf.float32, name="w")

    def __call__(self):
        value = tf.square(tf.nn.softplus(scale_gradient(self.w, -self.rate)))
        return value if self.valid_range is None else clip_ascending(value, *self.valid_range)


class GECOLoss(NamedTuple):
    """Output of a `GECO` for a batch: float32 scalars. Minimize `loss`; log all of them."""

    loss: tf.Tensor  # KL + lambda C_ma
    kl: tf.Tensor  # mean over the batch, nats
    error: tf.Tensor  # mean over the batch, per dimension
    constraint: tf.Tensor  # C_ma per dimension: the averaged error - kappa
    multiplier: tf.Tensor  # lambda


class GECO(snt.Module):
    """The Lagrangian of Appendix G.

        geco = GECO(kappa=1e-3, dimensions=64 * 64 * 3)
        loss = geco(error, kl)                                 # of a batch; updates the moving average
        gradients = tape.gradient(loss.loss, [*model.trainable_variables, *geco.trainable_variables])

    The model may be Sonnet's or Keras's. One optimizer may include `geco.trainable_variables`, as with Sonnet 1, but
    Adam's steps do not grow with the constraint; `w.assign_sub(gradient)` is the update above.

    Args:
      kappa: the allowed mean squared error per dimension, greater than 0. Not specified: mean or sum over dimensions;
        we use the mean. The paper's best value, 1e-3, suggests it, and so does the range of lambda: a Gaussian of
        variance kappa has 1 / (2 kappa) = 500 in its place.
      dimensions: D, numbers in an image: rows x columns x channels. The constraint is |x - g|^2 - kappa D, with the
        error summed over the image as the KL is. 1: kappa bounds the summed error itself.
      initial: where lambda starts. Not specified; we use 1.
      rate: of lambda's ascent per dimension: that of the `LagrangeMultiplier` is `rate / dimensions`, so that one rate
        suits images of all sizes.
      valid_range: of lambda; Appendix G.
      decay: of the moving average; Rezende and Viola.

    Variables: `multiplier.w`, trainable; the moving average of the constraint.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(self, kappa, dimensions, initial=1.0, rate=1.0, valid_range=(0.0, 1000.0), decay=0.99, name="GECO"):
        super().__init__(name=name)
        check_above_zero(kappa=kappa)
        check_range("dimensions", dimensions, 1)
        self.kappa, self.dimensions = kappa, dimensions
        self.multiplier = LagrangeMultiplier(initial, rate / dimensions, valid_range)
        self.average = MovingAverage(decay)

    def __call__(self, error, kl):
        """The `GECOLoss` of a batch.

        Args:
          error: |x - g(z)|^2 summed over each image, float32 [N].
          kl: KL of each image, nats, float32 [N].
        """
        error, kl = tf.reduce_mean(error), tf.reduce_mean(kl)
        constraint = self.average(error - self.kappa * self.dimensions)
        multiplier = self.multiplier()
        return GECOLoss(
            kl + multiplier * constraint, kl, error / self.dimensions, constraint / self.dimensions, multiplier
        )
