"""Recall episodes: the public code's order of images, the label of the next image, a pure function of the seed."""

import numpy as np
import pytest

from tfmem.tasks.mnist_recall import RecallStream


def digits(count=37, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)


def test_the_public_training_run_is_replayed(golden):
    data = np.load(golden("multigrid/mnist_recall/digits.npz"))
    curve = np.load(golden("multigrid/mnist_recall/train_curve.npz"))
    images = data["images"].reshape(-1, 28, 28)
    steps, batch_size = curve["image_index"].shape[1:]
    stream = RecallStream(images, data["labels"], batch_size=batch_size, steps=steps, seed=177)
    for update, (index, k) in enumerate(zip(curve["image_index"], curve["chosen_ind"], strict=True)):
        np.testing.assert_array_equal(stream.image_index(update), index)
        batch = stream.batch(update, query_step=k)
        np.testing.assert_array_equal(batch["images"][..., 0], images[index])
        np.testing.assert_array_equal(batch["label"], data["labels"][index[k + 1]])


def test_model_inputs_of_the_goldens(golden):
    io = np.load(golden("multigrid/mnist_recall/io.npz"))
    data = np.load(golden("multigrid/mnist_recall/digits.npz"))
    batch_size = len(io["in_query"])
    steps = len(io["in_writer"]) // batch_size
    stream = RecallStream(data["images"].reshape(-1, 28, 28), data["labels"], batch_size=batch_size, steps=steps)
    batch = stream.batch(0, query_step=int(io["in_chosen_ind"]))
    np.testing.assert_array_equal(batch["images"].reshape(io["in_writer"].shape), io["in_writer"])
    np.testing.assert_array_equal(batch["query"], io["in_query"])
    np.testing.assert_array_equal(batch["label"], io["in_labels"])


def test_batch_is_image_k_and_the_next_digit():
    images, labels = digits()
    stream = RecallStream(images, labels, batch_size=3, steps=4, seed=1)
    assert stream.blocks_per_pass == 3
    for update in range(12):
        batch, index = stream.batch(update), stream.image_index(update)
        k = batch["query_step"]
        assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
            "images": ((4, 3, 28, 28, 1), "float32"),
            "query": ((3, 28, 28, 1), "float32"),
            "label": ((3,), "int32"),
            "query_step": ((), "int32"),
        }
        np.testing.assert_array_equal(batch["images"][..., 0], images[index])
        np.testing.assert_array_equal(batch["query"][..., 0], images[index[k]])
        np.testing.assert_array_equal(batch["label"], labels[index[k + 1]])


def test_a_pass_reads_blocks_in_order_and_leaves_the_rest():
    images, labels = digits()
    stream = RecallStream(images, labels, batch_size=3, steps=4, seed=1)
    passes = [np.concatenate([stream.image_index(3 * n + block).ravel() for block in range(3)]) for n in range(3)]
    np.testing.assert_array_equal(passes[0], np.arange(36))
    for order in passes[1:]:
        assert len(set(order)) == 36
    assert not np.array_equal(passes[1], passes[2])
    np.testing.assert_array_equal(passes[1], np.random.RandomState(1).permutation(37)[:36])


def test_stream_is_a_function_of_seed_and_update():
    images, labels = digits()
    stream = RecallStream(images, labels, batch_size=3, steps=4, seed=1)
    straight = [stream.batch(update) for update in range(20)]
    for update in (17, 3, 11, 0, 19):
        for other in (stream, RecallStream(images, labels, batch_size=3, steps=4, seed=1)):
            batch = other.batch(update)
            assert all(np.array_equal(batch[name], straight[update][name]) for name in batch)
    other = RecallStream(images, labels, batch_size=3, steps=4, seed=2)
    assert not np.array_equal(other.batch(4)["images"], straight[4]["images"])
    assert [int(other.batch(n)["query_step"]) for n in range(20)] != [int(batch["query_step"]) for batch in straight]


def test_every_step_but_the_last_is_asked_for():
    images, labels = digits()
    stream = RecallStream(images, labels, batch_size=2, steps=5)
    counts = np.bincount([stream.query_step(update) for update in range(2000)])
    assert len(counts) == 4
    np.testing.assert_allclose(counts / 2000, 1 / 4, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(images=np.zeros((9, 784), np.uint8)), r"images: uint8 \(9, 784\), must be uint8"),
        (dict(images=np.zeros((37, 28, 28))), "images: float64 .*must be uint8"),
        (dict(labels=np.zeros(36)), r"labels: \(36,\), must be \(37,\), one per image"),
        (dict(batch_size=0), "batch_size"),
        (dict(steps=1), "steps: 1, must be at least 2"),
        (dict(seed=-1), "seed"),
        (dict(batch_size=4), "images: 37 of them, must be at least .* = 40"),
    ],
)
def test_bad_arguments(arguments, message):
    images, labels = digits()
    with pytest.raises(ValueError, match=message):
        RecallStream(**{"images": images, "labels": labels, "batch_size": 3, **arguments})


@pytest.mark.parametrize("k", [-1, 3])
def test_bad_query_step(k):
    with pytest.raises(ValueError, match=f"query_step: {k}, must be from 0 to steps - 2 = 2"):
        RecallStream(*digits(), batch_size=2, steps=4).batch(0, query_step=k)
