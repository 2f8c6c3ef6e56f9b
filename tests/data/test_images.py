"""Image batches: every image once a pass, a function of seed and number, MNIST with its border."""

import numpy as np
import pytest

from tfmem.data import images as task
from tfmem.data.images import ImageStream, mnist_stream


def numbered_images(count=10):
    """Images whose every pixel is their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 2, 3))


def numbers(stream, batches):
    return [stream.batch(n)["images"][:, 0, 0, 0].tolist() for n in batches]


def test_a_pass_has_no_image_twice_and_passes_differ():
    stream = ImageStream(numbered_images(), batch_size=3, seed=5)
    assert stream.batches_per_pass == 3
    batch = stream.batch(0)["images"]
    assert (batch.shape, batch.dtype) == ((3, 4, 2, 3), np.uint8)
    first, second = (np.concatenate(numbers(stream, range(start, start + 3))).tolist() for start in (0, 3))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_batches_are_a_function_of_seed_and_number():
    stream = ImageStream(numbered_images(), batch_size=3, seed=5)
    straight = numbers(stream, range(8))
    assert numbers(stream, [7, 2, 4, 0]) == [straight[n] for n in (7, 2, 4, 0)]
    assert numbers(ImageStream(numbered_images(), batch_size=3, seed=6), range(8)) != straight


def test_without_a_seed_the_order_is_that_of_the_images():
    stream = ImageStream(numbered_images(), batch_size=4, seed=None)
    assert numbers(stream, range(3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_mnist_has_a_border(rng, monkeypatch):
    digits = rng.integers(0, 256, (9, 28, 28), np.uint8)
    monkeypatch.setattr(task, "mnist", lambda split: {"test": (digits, np.zeros(9, np.uint8))}[split])
    images = mnist_stream("test", batch_size=7, seed=None).batch(0)["images"]
    assert images.shape == (7, 32, 32, 1)
    np.testing.assert_array_equal(images[:, 2:-2, 2:-2, 0], digits[:7])
    assert not images[:, :2].any()
    assert not images[:, :, -2:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(images=np.zeros((4, 8, 8), np.uint8)), r"images: uint8 \(4, 8, 8\), must be uint8"),
        (dict(images=np.zeros((4, 8, 8, 1))), "images: float64 .*, must be uint8"),
        (dict(batch_size=11), "batch_size: 11, must be from 1 to 10"),
        (dict(seed=-1), "seed: -1, must be at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageStream(**{"images": numbered_images(), "batch_size": 3, **arguments})
