"""Base of all Sonnet cores: the core contract, and layers that keep their variables in float32 under bfloat16.

A core maps `(inputs [B, ...], state) -> (output [B, ...], next state)`. It has two parts, so that an unroll can do the
state-independent work for all time steps at once:

    project_inputs   [..., B, features] -> the state-independent part of the step; creates every variable
    step             (projected [B, ...], state) -> (output, next state); creates none, so that it can run inside a loop

A core with an external memory also has `read_only()`, a `ReadOnly` view of itself.
"""

import abc

import sonnet as snt
import tensorflow as tf

from tfmem.recurrence import checked_inputs, same_batch
from tfmem.weight_gradients import product

LOW_PRECISION = (tf.bfloat16, tf.float16)


def variable_dtype(dtype):
    """Dtype of the variables of a layer that computes in `dtype`: float32 for half-precision types, else the same."""
    return tf.float32 if dtype in LOW_PRECISION else tf.as_dtype(dtype)


class RNNCore(snt.RNNCore):
    """Sonnet core whose step is split into `project_inputs`, without the state, and `step`."""

    input_layout = "..."  # axes of an input after the batch; "features" for most cores

    @abc.abstractmethod
    def project_inputs(self, inputs):
        """Compute the state-independent part of a step, for inputs with any number of leading dimensions.

        Creates every variable of the core on the first call.
        """

    @abc.abstractmethod
    def step(self, projected, state):
        """Compute one step from a projected input [B, ...] and a state: `(output, next_state)`."""

    def __call__(self, inputs, prev_state):
        inputs = checked_inputs(self, inputs, prev_state)
        prev_state = same_batch(inputs, prev_state)
        return self.step(self.project_inputs(inputs), prev_state)


class ReadOnly(RNNCore):
    """View of a memory core that shares its variables and never writes to its memory.

    Paper: writing is turned off in the simulation network (Gregor et al. 2019, Appendix B).

    Args:
      core: a core whose `step` takes `write`. For another core a subclass overrides `project_inputs` and `step`.
    """

    def __init__(self, core, name=None):
        super().__init__(name=name)
        self.core = core

    @property
    def input_layout(self):
        return self.core.input_layout

    @property
    def state_size(self):
        return self.core.state_size

    @property
    def output_size(self):
        return self.core.output_size

    def initial_state(self, batch_size, dtype=tf.float32):
        return self.core.initial_state(batch_size, dtype)

    def project_inputs(self, inputs):
        return self.core.project_inputs(inputs)

    def step(self, projected, state):
        return self.core.step(projected, state, write=False)


def check_features(inputs, size, argument="inputs"):
    """Raise a ValueError unless the last axis of `inputs` has `size` elements."""
    if inputs.shape[-1] != size:
        raise ValueError(f"{argument}: shape {inputs.shape}, must have a last axis of {size}")


def matmul(x, w, b=None):
    """Compute `x w + b` on the last axis of `x`, in its dtype; `b` None: no bias."""
    check_features(x, w.shape[0])
    if x.shape.rank == 2:
        return product(x, w, b)
    # One product of matrices: the gradient of a batched matmul stores an array of the size of `w` per leading index.
    # That of tensordot does not compile in a loop if the batch was unknown at trace time.
    leading = x.shape[:-1].as_list()
    if leading.count(None) > 1:
        shape = tf.concat([tf.shape(x)[:-1], [w.shape[1]]], axis=0)
    else:
        shape = [-1 if size is None else size for size in leading] + [w.shape[1]]
    outputs = tf.reshape(product(tf.reshape(x, [-1, w.shape[0]]), w, b), shape)
    outputs.set_shape([*leading, w.shape[1]])
    return outputs


class Linear(snt.Module):
    """Linear layer `x w + b` on the last axis, with variables of at least float32, computed in the inputs' dtype.

    Args:
      output_size: size of the last axis of the output.
      with_bias: add `b`. Default True.
      w_init: defaults to truncated normal with standard deviation 1/sqrt(fan-in), as in Sonnet 1 and 2.
      b_init: defaults to zeros.
    """

    def __init__(self, output_size, with_bias=True, w_init=None, b_init=None, name=None):
        super().__init__(name=name)
        self.output_size = output_size
        self.with_bias = with_bias
        self.w_init = w_init
        self.b_init = b_init or snt.initializers.Zeros()

    @snt.once
    def initialize(self, input_size, dtype=tf.float32):
        dtype = variable_dtype(dtype)
        w_init = self.w_init or snt.initializers.TruncatedNormal(stddev=input_size**-0.5)
        self.w = tf.Variable(w_init([input_size, self.output_size], dtype), name="w")
        if self.with_bias:
            self.b = tf.Variable(self.b_init([self.output_size], dtype), name="b")

    def __call__(self, inputs):
        self.initialize(inputs.shape[-1], inputs.dtype)
        return matmul(inputs, self.w, self.b if self.with_bias else None)


class SplitLinear(snt.Module):
    """Linear layer `[x, s] w + b` of an input x and a state s, with `w` stored as two matrices.

    The product with `x` can thus be computed for all time steps at once. Both matrices are initialized like a `Linear`
    of the concatenation: the standard deviation is that of the whole fan-in.

    Args:
      output_size: size of the last axis of the output.
      random_bias: draw `b` like `w`, as in Sonnet 1's LSTM. Default False: `b` starts at zero.
    """

    def __init__(self, output_size, random_bias=False, name=None):
        super().__init__(name=name)
        self.output_size = output_size
        self.random_bias = random_bias

    @snt.once
    def initialize(self, input_size, state_size, dtype=tf.float32):
        dtype = variable_dtype(dtype)
        init = snt.initializers.TruncatedNormal(stddev=(input_size + state_size) ** -0.5)
        b_init = init if self.random_bias else snt.initializers.Zeros()
        self.w_i = tf.Variable(init([input_size, self.output_size], dtype), name="w_i")
        self.w_s = tf.Variable(init([state_size, self.output_size], dtype), name="w_s")
        self.b = tf.Variable(b_init([self.output_size], dtype), name="b")

    def project(self, x):
        """Compute the product of `x` [..., input_size], with the bias."""
        return matmul(x, self.w_i, self.b)

    def __call__(self, projected, s):
        return projected + matmul(s, self.w_s)


def lstm_update(gates, cell, forget_bias=1.0):
    """Next `snt.LSTMState` of Sonnet 1's LSTM from gates [B, 4H] in the order input, candidate, forget, output."""
    i, j, f, o = tf.split(gates, 4, axis=-1)
    cell = tf.sigmoid(f + forget_bias) * cell + tf.sigmoid(i) * tf.tanh(j)
    return snt.LSTMState(hidden=tf.sigmoid(o) * tf.tanh(cell), cell=cell)


class LayerNorm(snt.Module):
    """Layer normalization of the last axis with epsilon inside the root, computed in at least float32."""

    def __init__(self, eps=1e-5, name=None):
        super().__init__(name=name)
        self.eps = eps

    @snt.once
    def initialize(self, size, dtype=tf.float32):
        dtype = variable_dtype(dtype)
        self.gamma = tf.Variable(tf.ones([size], dtype), name="gamma")
        self.beta = tf.Variable(tf.zeros([size], dtype), name="beta")

    def __call__(self, inputs):
        self.initialize(inputs.shape[-1], inputs.dtype)
        x = tf.cast(inputs, self.gamma.dtype)

        # The gradient in closed form: in a plain graph it passes over memory far less often than the derived one.
        # BiasAddGrad sums over rows four times as fast as tf.reduce_sum.
        @tf.custom_gradient
        def normalize(x, gamma, beta):
            centered = x - tf.reduce_mean(x, -1, keepdims=True)
            scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), -1, keepdims=True) + self.eps)
            normal = centered * scale

            def gradient(d):
                d_normal = d * normal
                mean = tf.tensordot(d, gamma, 1)[..., tf.newaxis] / gamma.shape[0]
                slope = tf.tensordot(d_normal, gamma, 1)[..., tf.newaxis] / gamma.shape[0]
                d_x = (d * gamma - (normal * slope + mean)) * scale
                return d_x, tf.raw_ops.BiasAddGrad(out_backprop=d_normal), tf.raw_ops.BiasAddGrad(out_backprop=d)

            return normal * gamma + beta, gradient

        return tf.cast(normalize(x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)), inputs.dtype)
