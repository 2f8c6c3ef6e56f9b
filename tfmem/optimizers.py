"""TensorFlow 1's RMSProp as a Keras optimiser, and the linear learning-rate schedule that goes with it.

    rms      <- rho rms + (1 - rho) g^2                  rms starts at 1
    momentum <- mu momentum + lr g / sqrt(rms + eps)     eps inside the root
    variable <- variable - momentum

Keras's own RMSprop starts rms at 0 and has eps outside the root. With the large eps (0.1) of the public codes of
Multigrid Neural Memory and IMPALA the two take other paths.
"""

import tensorflow as tf

from tfmem.backend import keras


@keras.saving.register_keras_serializable(package="tfmem")
class TF1RMSprop(keras.optimizers.Optimizer):
    """RMSProp as `tf.train.RMSPropOptimizer` of TensorFlow 1.15 computes it (not centred).

    Args:
      learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
      rho: decay of the mean square.
      momentum: decay of the summed steps.
      epsilon: added to the mean square inside the root.
      **kwargs: of `keras.optimizers.Optimizer`; `global_clipnorm` equals `tf.clip_by_global_norm`.

    Raises:
      ValueError: `rho` or `momentum` is outside [0, 1), or `epsilon` is negative.
    """

    def __init__(self, learning_rate=1e-3, rho=0.9, momentum=0.0, epsilon=1e-10, name="tf1_rmsprop", **kwargs):
        for argument, value in (("rho", rho), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{argument}: {value}, must be from 0 to less than 1")
        if epsilon < 0:
            raise ValueError(f"epsilon: {epsilon}, must be at least 0")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._rms = [self.add_variable_from_reference(v, "rms", initializer="ones") for v in variables]
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rms, momentum = self._rms[index], self._momenta[index]
        gradient = tf.cast(gradient, variable.dtype)
        rms.assign(self.rho * rms + (1.0 - self.rho) * tf.square(gradient))
        step = tf.cast(learning_rate, variable.dtype) * gradient * tf.math.rsqrt(rms + self.epsilon)
        momentum.assign(self.momentum * momentum + step)
        variable.assign_sub(momentum)

    def get_config(self):
        return {**super().get_config(), "rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}


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
