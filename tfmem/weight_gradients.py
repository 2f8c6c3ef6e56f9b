"""Gradients of weights after a loop: one product for all steps instead of a product and a sum in every step.

A loop over time that multiplies x_t by a weight W has the gradient dW = Σ_t x_tᵀ dy_t. Differentiated step by step,
each step writes a matrix of W's size and adds it to the sum. Where a batch has few rows, this costs more than the
step's own products. Stacked over time it is one product:

    dW = [x_1; ...; x_T]ᵀ [dy_1; ...; dy_T]

`product` is the linear map that `unroll` knows. `unroll` records the products of a step on a trial step, and gives each
of them two lists of zeros, one element per step, that stand for x_t and dy_t. In the loop the map's gradient is dx_t =
dy_t Wᵀ for its input, and x_t and dy_t themselves as "gradients" of these zeros. The loop's gradient thus collects
both, and the lists' own gradient is the product above. A loop without a gradient only pops zeros.
"""

import contextlib
import threading
from typing import Any, NamedTuple

import tensorflow as tf

from tfmem.backend import keras

LEAST_SHARE = 6  # of W's size over that of x_t and dy_t together, from which one product is faster (measured)


class _Map(NamedTuple):
    """One product of a step: keys of its variables, their values outside the loop, and the shape of x_t."""

    key: tuple
    weight: tf.Tensor
    bias: Any
    shape: tuple


class _Recording:
    """The maps of a trial step, in `graph`."""

    def __init__(self, graph):
        self.graph, self.maps = graph, []

    def product(self, x, key, weight, bias):
        weight, bias = _values(x, weight, bias)
        self.maps.append(_Map(key, weight, bias, tuple(x.shape)))
        return _product(x, weight, bias)


class _Loop:
    """The maps of the body of a loop, in `graph`, with the step's element of the lists of each."""

    def __init__(self, graph, maps, elements):
        self.graph, self.left = graph, list(zip(maps, elements, strict=True))

    def product(self, x, key, weight, bias):
        for index, (found, (x_element, y_element)) in enumerate(self.left):
            if found.key == key and found.shape == tuple(x.shape) and found.weight.dtype == x.dtype:
                del self.left[index]
                return _product_in_loop(x, found, x_element, y_element)
        return _product(x, *_values(x, weight, bias))  # a step of another course than the trial


_current = threading.local()


@contextlib.contextmanager
def _within(scope):
    before = getattr(_current, "scope", None)
    _current.scope = scope
    try:
        yield scope
    finally:
        _current.scope = before


def recording():
    """Context in which `product` records its maps; gives an object with the list `maps`."""
    return _within(_Recording(tf.compat.v1.get_default_graph()))


def in_loop(maps, elements):
    """Context of a loop's body: products of `maps` use the pairs `elements` of this step, from `lists`."""
    return _within(_Loop(tf.compat.v1.get_default_graph(), maps, elements))


@tf.autograph.experimental.do_not_convert
def product(x, weight, bias=None):
    """Compute `x weight + bias` of x [rows, in], a weight [in, out] and a bias [out], in the dtype of x.

    In a loop of `unroll` the gradients of `weight` and `bias` are computed after the loop, if both are variables, x has
    a known shape, and the weight is large for the number of rows (`LEAST_SHARE`). Otherwise the sum over steps is
    faster: it stays in a processor's cache, and x_t and dy_t cost more to collect.
    """
    scope = getattr(_current, "scope", None)
    in_scope = scope is not None and tf.compat.v1.get_default_graph() is scope.graph  # not in a branch of the step
    key = _key(weight), None if bias is None else _key(bias)
    known = in_scope and x.shape.is_fully_defined() and all(part is not False for part in key)
    if known and _is_large(weight.shape, x.shape[0]):
        return scope.product(x, key, weight, bias)
    return _product(x, *_values(x, weight, bias))


def _is_large(shape, rows):
    size_in, size_out = shape
    return size_in * size_out >= LEAST_SHARE * rows * (size_in + size_out)


def _key(variable):
    """Identity of a variable, or of the variable that a stand-in of `unroll` stands for; False for a tensor."""
    variable = getattr(variable, "stands_for", variable)
    return id(variable) if isinstance(variable, tf.Variable | keras.Variable) else False


def _values(x, *variables):
    return [None if v is None else tf.cast(tf.convert_to_tensor(v), x.dtype) for v in variables]


def _product(x, weight, bias):
    y = tf.matmul(x, weight)
    return y if bias is None else tf.nn.bias_add(y, bias)


def _product_in_loop(x, found, x_element, y_element):
    @tf.custom_gradient
    def run(x, x_element, y_element):
        def gradient(dy):
            return tf.matmul(dy, found.weight, transpose_b=True), x, dy

        return _product(x, found.weight, found.bias), gradient

    return run(x, x_element, y_element)


@tf.autograph.experimental.do_not_convert
def lists(found, num_steps, static_steps):
    """Two lists of `num_steps` zeros for x_t and dy_t of a map; their gradient is that of its weight and bias."""
    size_in, size_out = found.weight.shape
    shapes = [found.shape[0], size_in], [found.shape[0], size_out]
    parameters = [found.weight] if found.bias is None else [found.weight, found.bias]

    @tf.custom_gradient
    def run(*parameters):
        def gradient(*collected):
            x, dy = (
                tf.reshape(
                    tf.raw_ops.TensorListStack(
                        input_handle=handle,
                        element_shape=shape,
                        element_dtype=found.weight.dtype,
                        num_elements=-1 if static_steps is None else static_steps,
                    ),
                    [-1, shape[1]],
                )
                for handle, shape in zip(collected, shapes, strict=True)
            )
            d_weight = tf.matmul(x, dy, transpose_a=True)
            return d_weight if found.bias is None else (d_weight, tf.raw_ops.BiasAddGrad(out_backprop=dy))

        return [
            tf.raw_ops.TensorListReserve(element_shape=shape, num_elements=num_steps, element_dtype=found.weight.dtype)
            for shape in shapes
        ], gradient

    return run(*parameters)


def pop(handles, found):
    """Pop the step's elements of a map: `(handles, elements)`."""
    shapes = list(found.shape), [found.shape[0], found.weight.shape[1]]
    popped = [
        tf.raw_ops.TensorListPopBack(input_handle=handle, element_shape=shape, element_dtype=found.weight.dtype)
        for handle, shape in zip(handles, shapes, strict=True)
    ]
    return [handle for handle, _ in popped], [element for _, element in popped]
