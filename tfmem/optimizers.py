"""TensorFlow 1's RMSProp as a Keras optimizer, and the linear learning-rate schedule that goes with it.

    rms      <- rho rms + (1 - rho) g^2                  rms starts at 1
    mean     <- rho mean + (1 - rho) g                   only where centered; else it stays 0
    momentum <- mu momentum + lr g / sqrt(rms - mean^2 + eps)     eps inside the root
    variable <- variable - momentum

Keras's own RMSprop starts rms at 0 and has eps outside the root. With the large eps (0.1) of the public codes of
Multigrid Neural Memory and IMPALA the two take other paths.
"""

import tensorflow as tf

from tfmem.backend import keras


@keras.saving.register_keras_serializable(package="tfmem")
class TF1RMSprop(keras.optimizers.Optimizer):
    """RMSProp as `tf.train.RMSPropOptimizer` of TensorFlow 1.15 computes it.

    A gradient that is a `tf.IndexedSlices`, as that of an embedding, changes the rows that it names and no others, nor
    their slots. Rows that it names several times are added up first. Clipping looks at them before, as TF 1 does.

    Args:
      learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
      rho: decay of the mean square.
      momentum: decay of the summed steps.
      epsilon: added to the mean square inside the root.
      centered: whether the gradient's variance stands in place of its mean square. Default False.
      **kwargs: of `keras.optimizers.Optimizer`; `global_clipnorm` equals `tf.clip_by_global_norm`.

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
        if epsilon < 0:
            raise ValueError(f"epsilon: {epsilon}, must be at least 0")
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
            """Assigns `change` of the slot's value, in the gradient's rows; returns it."""
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


def linear_decay(step, initial, final, decay_steps):
    """`initial` at step 0, falling linearly to `final` at `decay_steps` and staying there.

    Args:
      step: number or tensor of any integer or float type; environment steps in the public codes.
      initial, final: learning rates.
      decay_steps: length of the decay, in the unit of `step`.

    Returns:
      A float32 tensor of the shape of `step`. The fraction is computed in float64: steps beyond 2^24 count.
    """
    fraction = tf.minimum(tf.cast(step, tf.float64) / decay_steps, 1.0)
    return tf.cast(initial + (final - initial) * fraction, tf.float32)
