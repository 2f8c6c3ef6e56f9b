"""Arithmetic and precision of StableHLO modules, on modules that jax makes."""

import jax
import numpy as np
import pytest
from jax import lax

from tests.support import relative_error
from tfmem.aot.bundle import Leaf, Program
from tfmem.aot.runner import Executable
from tfmem.aot.stablehlo import arithmetic, with_precision

IMAGES, KERNEL = (2, 7, 6, 4), (3, 3, 2, 6)


def convolve(x, k):
    return lax.conv_general_dilated(
        x, k, (2, 1), ((1, 1), (0, 2)), (1, 1), (1, 2), ("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )


def dot(a, b):
    return lax.dot_general(a, b, (((1, 3), (0, 2)), ((), ())))


def outer(a, b):
    return lax.dot_general(a, b, (((), ()), ((), ())))


def program(function, *shapes):
    arguments = [np.zeros(shape, np.float32) for shape in shapes]
    text = jax.jit(function).lower(*arguments).as_text()
    leaves = [Leaf(f"carry/{i}", shape, "float32") for i, shape in enumerate(shapes)]
    return Program(text, leaves, [Leaf("metrics/result", (), "float32")])


@pytest.mark.parametrize(("function", "shapes"), [(convolve, (IMAGES, KERNEL)), (dot, ((3, 4, 5, 6), (4, 2, 6, 7)))])
def test_arithmetic_is_that_of_xla(function, shapes):
    one = program(function, *shapes)
    assert arithmetic(one.text) == Executable(one, "float32").cost["flops"] > 0


@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_product_that_contracts_nothing(shape):
    assert arithmetic(program(outer, shape, (3, 4)).text) == 2 * int(np.prod(shape)) * 12


def test_the_gradient_of_a_convolution():
    one = program(lambda x, k: jax.grad(lambda x: (convolve(x, k) ** 2).sum())(x), IMAGES, KERNEL)
    forward = arithmetic(program(convolve, IMAGES, KERNEL).text)
    assert arithmetic(one.text) == 2 * forward  # its zeros between the strides are not counted


def test_loops_are_counted_in_full():
    def loop(a, b):
        return lax.fori_loop(0, 5, lambda _, x: lax.fori_loop(0, 3, lambda _, y: y @ b, x) @ b, a)

    assert arithmetic(program(loop, (4, 8), (8, 8)).text) == 5 * (3 + 1) * 2 * 4 * 8 * 8


@pytest.mark.parametrize(("function", "shapes"), [(convolve, (IMAGES, KERNEL)), (dot, ((3, 4, 5, 6), (4, 2, 6, 7)))])
def test_precision(function, shapes):
    rng, one = np.random.default_rng(0), program(function, *shapes)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def compute(precision):
        run = Executable(one, precision)
        return np.asarray(run({f"carry/{i}": run.put(array) for i, array in enumerate(arrays)})["metrics/result"])

    exact = np.asarray(function(*arrays))
    assert relative_error(compute("float32"), exact) <= 1e-6
    np.testing.assert_array_equal(compute("tf32"), compute("float32"))
    rough = compute("bfloat16")
    assert rough.dtype == np.float32
    assert 1e-4 < relative_error(rough, exact) < 2e-2
    assert "bf16" in with_precision(one.text, "bfloat16")
    assert with_precision(one.text, "float32").count("HIGHEST") == 2
