"""Optimizers by name (`make_optimizer`), and those of the public codes that Keras lacks.

TensorFlow 1's RMSProp (`TF1RMSprop`):

    rms      <- rho rms + (1 - rho) g^2                  rms starts at 1
    mean     <- rho mean + (1 - rho) g                   only if centered; else 0
    momentum <- mu momentum + lr g / sqrt(rms - mean^2 + eps)     eps inside the root
    variable <- variable - momentum

Keras's own RMSprop starts rms at 0 and has eps outside the root. With the large eps (0.1) of the public codes of
Multigrid Neural Memory and IMPALA the two take different paths.

Sonnet's Adam (`SonnetAdam`):

    m <- beta_1 m + (1 - beta_1) g,  v <- beta_2 v + (1 - beta_2) g^2
    variable <- variable - lr m' / (sqrt(v') + eps)      m' = m / (1 - beta_1^t), v' = v / (1 - beta_2^t)

Keras's own Adam adds eps to sqrt(v): at step 1 this is an eps 32 times as large.
"""

from typing import Literal, get_args

import tensorflow as tf

from tfmem.backend import keras
from tfmem.validation import check_choice, check_range

OptimizerName = Literal["adam", "sonnet_adam", "rmsprop", "tf1_rmsprop", "sgd"]


def make_optimizer(name, learning_rate, momentum=0.0, rms_decay=0.9, epsilon=None, global_clipnorm=None):
    """Make a Keras optimizer.

    Args:
      name: "adam" (Keras's), "sonnet_adam" (`SonnetAdam`), "rmsprop" (Keras's), "tf1_rmsprop" (`TF1RMSprop`) or "sgd".
      learning_rate: float.
      momentum: of all but the Adams.
      rms_decay: decay of the mean square in the two RMSProps.
      epsilon: that of the optimizer; None: 1e-8 (the Adams, as in TF 1), 1e-7 (rmsprop), 1e-10 (tf1_rmsprop).
      global_clipnorm: largest global norm of the gradient; None: no clipping.

    Raises:
      ValueError: an unknown name, or constants that the optimizer refuses.
    """
    check_choice("name", name, get_args(OptimizerName))
    defaults = {"adam": 1e-8, "sonnet_adam": 1e-8, "rmsprop": 1e-7, "tf1_rmsprop": 1e-10}
    arguments = {"learning_rate": learning_rate, "global_clipnorm": global_clipnorm}
    if name in defaults:
        arguments["epsilon"] = defaults[name] if epsilon is None else epsilon
    match name:
        case "adam":
            return keras.optimizers.Adam(**arguments)
        case "sonnet_adam":
            return SonnetAdam(**arguments)
        case "rmsprop":
            return keras.optimizers.RMSprop(rho=rms_decay, momentum=momentum, **arguments)
        case "tf1_rmsprop":
            return TF1RMSprop(rho=rms_decay, momentum=momentum, **arguments)
        case "sgd":
            return keras.optimizers.SGD(momentum=momentum, **arguments)


def apply_clipped(optimizer, gradients, variables, clip, learning_rate):
    """Update variables by gradients that are clipped by their global norm.

    Args:
      optimizer: a Keras optimizer that was built for `variables`.
      gradients: one for each of `variables`.
      clip: largest global norm; None: no clipping.
      learning_rate: float or scalar tensor.

    Returns:
      The global norm before clipping.
    """
    norm = tf.linalg.global_norm(gradients)
    if clip is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip, use_norm=norm)
    optimizer.learning_rate.assign(learning_rate)
    optimizer.apply(gradients, variables)
    return norm


@keras.saving.register_keras_serializable(package="tfmem")
class TF1RMSprop(keras.optimizers.Optimizer):
    """RMSProp as `tf.train.RMSPropOptimizer` of TensorFlow 1.15 computes it.

    A sparse gradient (`tf.IndexedSlices`), such as an embedding's, changes only the rows that it lists and their slots.
    Repeated rows are summed first. Clipping applies before that sum, as in TF 1.

    Args:
      learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
      rho: decay of the mean square.
      momentum: decay of the summed steps.
      epsilon: added to the mean square inside the root.
      centered: divide by the root of the gradient's variance, not of its mean square. Default False.
      **kwargs: for `keras.optimizers.Optimizer`; `global_clipnorm` equals `tf.clip_by_global_norm`.

    Raises:
      ValueError: `rho` or `momentum` is outside [0, 1), or `epsilon` is negative.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-10,
        centered=False,
        name="tf1_rmsprop",
        **kwargs,
    ):
        for argument, value in (("rho", rho), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{argument}: {value}, must be from 0 to less than 1")
        check_range("epsilon", epsilon, 0)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._rms = [self.add_variable_from_reference(v, "rms", initializer="ones") for v in variables]
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]
        if self.centered:
            self._means = [self.add_variable_from_reference(v, "mean") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index, rows = self._get_variable_index(variable), None
        gradient = tf.cast(gradient, variable.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            rows, places = tf.unique(gradient.indices)
            gradient = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))

        def update(slot, change):
            """Assign `change(slot)` in the gradient's rows and return it."""
            value = tf.convert_to_tensor(slot.value) if rows is None else tf.gather(slot.value, rows)
            value = change(value)
            self.assign(slot, value if rows is None else tf.IndexedSlices(value, rows))
            return value

        square = update(self._rms[index], lambda rms: self.rho * rms + (1.0 - self.rho) * tf.square(gradient))
        if self.centered:
            mean = update(self._means[index], lambda mean: self.rho * mean + (1.0 - self.rho) * gradient)
            square -= tf.square(mean)
        step = tf.cast(learning_rate, variable.dtype) * gradient * tf.math.rsqrt(square + self.epsilon)
        step = update(self._momenta[index], lambda momentum: self.momentum * momentum + step)
        self.assign_sub(variable, step if rows is None else tf.IndexedSlices(step, rows))

    def get_config(self):
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfmem")
class SonnetAdam(keras.optimizers.Optimizer):
    """Adam with epsilon added after the bias correction, as in Sonnet and PyTorch.

    A sparse gradient (`tf.IndexedSlices`) counts as zero in the rows that it does not list, as in PyTorch.

    Args:
      learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
      beta_1, beta_2: decays of the moments.
      epsilon: added to the root of the corrected second moment.
      **kwargs: for `keras.optimizers.Optimizer`, as in `TF1RMSprop`.

    Raises:
      ValueError: a decay is outside [0, 1), or `epsilon` is negative.
    """

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8, name="sonnet_adam", **kwargs):
        for argument, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"{argument}: {value}, must be from 0 to less than 1")
        check_range("epsilon", epsilon, 0)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._first = [self.add_variable_from_reference(v, "first") for v in variables]
        self._second = [self.add_variable_from_reference(v, "second") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        first, second = self._first[index], self._second[index]
        gradient = tf.convert_to_tensor(tf.cast(gradient, variable.dtype))
        first.assign(self.beta_1 * first + (1.0 - self.beta_1) * gradient)
        second.assign(self.beta_2 * second + (1.0 - self.beta_2) * tf.square(gradient))
        step = tf.cast(self.iterations + 1, variable.dtype)
        m, v = first / (1.0 - self.beta_1**step), second / (1.0 - self.beta_2**step)
        variable.assign_sub(tf.cast(learning_rate, variable.dtype) * m / (tf.sqrt(v) + self.epsilon))

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


def linear_decay(step, initial, final, decay_steps):
    """Learning rate that falls linearly from `initial` at step 0 to `final` at `decay_steps`, then stays.

    Args:
      step: number or tensor of any integer or float type; environment steps in the public codes.
      initial, final: learning rates.
      decay_steps: length of the decay, in the unit of `step`.

    Returns:
      A float32 tensor of the shape of `step`. The fraction is computed in float64, so steps beyond 2^24 count.
    """
    fraction = tf.minimum(tf.cast(step, tf.float64) / decay_steps, 1.0)
    return tf.cast(initial + (final - initial) * fraction, tf.float32)
