"""The folder of a bundle: what is written comes back, damage is reported."""

import functools
import importlib
import json

import numpy as np
import pytest

from tests.support import at_once
from tfmem.aot.bundle import RENAMED, Bundle, BundleError, Leaf, Program, drawn, open_source, read_bundle, write_bundle
from tfmem.aot.lowering import obstacles


def make(**initial):
    leaf = Leaf("batch/a/0", (2, 3), "bfloat16", ("a", 0))
    return Bundle(
        experiment="toy/regression",
        preset=None,
        config={"seed": 3},
        updates_per_call=2,
        programs={"update": Program("module {}", [leaf], [Leaf("metrics/loss", (2,), "float32")])},
        evaluation_steps=0,
        initial={name.replace("__", "/"): array for name, array in initial.items()},
        evaluation_carry=[np.zeros([2, 2], np.int64)],
        data_sources={"train": ["numpy:array", {"object": [1]}]},
        versions={"tfmem": "0"},
    )


def test_what_is_written_comes_back(tmp_path):
    import ml_dtypes

    arrays = {
        "variables__b": np.zeros([3, 4], np.float32),
        "variables__a": np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16),
        "variables__step": np.int64(2**40),
        "carry__0": np.ones([4], ml_dtypes.bfloat16),
        "carry__1": np.array([True, False]),
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    write_bundle(make(**arrays), tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    expected = make(**arrays)
    assert list(bundle.initial) == list(expected.initial)
    for name, array in expected.initial.items():
        np.testing.assert_array_equal(bundle.initial[name], array)
        assert bundle.initial[name].dtype == array.dtype
    assert bundle.programs == expected.programs
    np.testing.assert_array_equal(bundle.evaluation_carry[0], np.zeros([2, 2]))
    assert open_source(bundle.data_sources["train"]).tolist() == [1]
    assert len(bundle.digest) == 64
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert {"variables/b", "carry/0", "evaluation/0"} == set(manifest["initial"]["constants"])
    with pytest.raises(BundleError, match="not an empty folder"):
        write_bundle(expected, tmp_path / "bundle")


def test_data_sources_of_older_bundles(tmp_path):
    """Older manifests say "pipelines", and name functions where they were then."""
    folder = tmp_path / "bundle"
    write_bundle(make(variables__a=np.arange(3.0)), folder)
    for old, new in RENAMED.items():
        manifest = json.loads((folder / "manifest.json").read_text())
        for new_field in ("data_sources", "names"):
            manifest.pop(new_field, None)
        manifest["pipelines"] = {"train": [old, {"seed": 1}], "evaluation": None}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        sources = read_bundle(folder).data_sources
        assert sources == {"train": [new, {"seed": 1}], "evaluation": None}
        module, name = new.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_images_of_an_older_bundle(tmp_path, monkeypatch):
    folder, arguments = tmp_path / "bundle", {"split": "test", "batch_size": 2, "seed": 4}
    bundle = make(variables__a=np.arange(3.0))
    bundle.data_sources = {"train": ["tfmem.tasks.images:mnist_stream", arguments]}
    write_bundle(bundle, folder)
    digits = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
    monkeypatch.setattr("tfmem.data.images.mnist", lambda split: (digits, np.arange(5)))
    batch = open_source(read_bundle(folder).data_sources["train"]).batch(0)["images"]
    assert batch.shape == (2, 32, 32, 1)


def test_a_data_source_that_has_changed_is_refused():
    with pytest.raises(BundleError, match=r"the data source .* has changed since .*make it again"):
        open_source(["tfmem.tasks.mnist_sort:stream", {"steps": 3}])


def test_two_writers_of_one_bundle(tmp_path):
    bundles = [make(variables__a=np.arange(size)) for size in (5.0, 9.0)]
    for trial in range(200):
        path = tmp_path / str(trial)
        outcomes = at_once(*[functools.partial(write_bundle, bundle, path) for bundle in bundles])
        (winner,) = (n for n in range(2) if outcomes[n] is None)
        np.testing.assert_array_equal(read_bundle(path).initial["variables/a"], bundles[winner].initial["variables/a"])
        with pytest.raises(BundleError, match=r"another process is working in|not an empty folder"):
            raise outcomes[1 - winner]


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_large_arrays_become_recipes(tmp_path, distribution):
    shape, rng = [500, 400], np.random.default_rng(1)
    array = drawn(distribution, 0.0, 0.3, shape, "float32", seed=rng.integers(1000))
    small = rng.normal(size=[10, 10]).astype(np.float32)
    write_bundle(make(variables__large=array, variables__small=small), tmp_path, largest=2**20 + 10**5)
    initial = read_bundle(tmp_path).initial
    np.testing.assert_array_equal(initial["variables/small"], small)
    large = initial["variables/large"]
    assert large.shape == (500, 400)
    assert not np.array_equal(large, array)
    assert abs(large.std() / array.std() - 1) < 0.01
    recipe = json.loads((tmp_path / "manifest.json").read_text())["initial"]["draws"]["variables/large"]
    assert recipe["distribution"] == distribution
    np.testing.assert_array_equal(read_bundle(tmp_path).initial["variables/large"], large)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**17


def test_arrays_that_are_no_plain_draw_stay_where_there_is_room(tmp_path):
    rng = np.random.default_rng(1)
    large = np.arange(100_000, dtype=np.float32)
    arrays = [rng.normal(size=[200, 200]).astype(np.float32) for _ in range(2)]
    write_bundle(
        make(variables__large=large, variables__a=arrays[0], variables__b=arrays[1]),
        tmp_path,
        largest=2**20 + large.nbytes + 10_000,
    )
    initial = read_bundle(tmp_path).initial
    np.testing.assert_array_equal(initial["variables/large"], large)
    draws = json.loads((tmp_path / "manifest.json").read_text())["initial"]["draws"]
    assert set(draws) == {"variables/a", "variables/b"}
    assert not np.array_equal(initial["variables/a"], initial["variables/b"])


@pytest.mark.parametrize("shape", [(400, 500), (500, 400), (400, 400)])
def test_large_orthogonal_arrays_become_recipes(tmp_path, shape):
    array = 1.5 * np.linalg.qr(np.random.default_rng(1).normal(size=[max(shape), min(shape)]))[0].astype(np.float32)
    array = array.reshape(shape) if shape[0] >= shape[1] else array.T
    write_bundle(make(variables__large=array), tmp_path, largest=2**20 + 10**5)
    large = read_bundle(tmp_path).initial["variables/large"]
    assert large.shape == shape
    assert large.dtype == np.float32
    assert not np.array_equal(large, array)
    short = large if shape[0] <= shape[1] else large.T
    np.testing.assert_allclose(short @ short.T, 1.5**2 * np.eye(400), atol=1e-5)
    assert abs(np.diag(large).mean()) < 0.05  # a QR decomposition alone prefers one sign
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**17


def test_large_arrays_that_are_no_plain_draw_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    shared = rng.normal(size=[400, 1]).astype(np.float32) + rng.normal(size=[400, 400]).astype(np.float32)
    two_scales = rng.normal(size=[400, 400]).astype(np.float32) * np.repeat([1, 3], 200).astype(np.float32)
    for array in (shared, two_scales, np.arange(160_000).reshape(400, 400)):
        with pytest.raises(BundleError, match=r"larger than 1\.095 MiB, and variables/large \(\d\.\d MiB\)"):
            write_bundle(make(variables__large=array), tmp_path / "bundle", largest=2**20 + 10**5)
    assert not (tmp_path / "bundle").exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def set_format(path):
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("update.mlir.gz", flip, "update.mlir.gz is damaged: its SHA-256 differs"),
        ("update.mlir.gz", lambda path: path.write_bytes(path.read_bytes()[:20]), "damaged: 20 bytes, must be"),
        ("initial.npz", lambda path: path.unlink(), r"initial.npz cannot be read \(No such file"),
        ("manifest.json", lambda path: path.unlink(), "not a bundle: it has no manifest.json"),
        ("manifest.json", lambda path: path.write_text(path.read_text()[:50]), "manifest.json is damaged"),
        ("manifest.json", set_format, "bundle format 99, this tfmem reads format 1: make the bundle again"),
    ],
)
def test_damaged_bundles(tmp_path, name, harm, message):
    write_bundle(make(variables__a=np.arange(5.0)), tmp_path)
    harm(tmp_path / name)
    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path)


def test_sources_that_are_not_there():
    for factory in ("tfmem.nowhere:stream", "numpy:nothing"):
        with pytest.raises(BundleError, match=f"the data source {factory} is not in this installation"):
            open_source([factory, {}])


def test_obstacles_are_found():
    text = """
    %0 = stablehlo.dynamic_slice %a, %b, sizes = [1] : (tensor<4xf32>, tensor<i32>) -> tensor<1xf32>
    %1 = stablehlo.custom_call @TopK(%0) : (tensor<4xf32>) -> tensor<2xf32>
    """
    assert obstacles(text) == []
    assert obstacles(text + "%2 = stablehlo.custom_call @__onednn$softmax(%1)") == ["custom call __onednn$softmax"]
    assert obstacles("%2 = stablehlo.add %0, %1 : tensor<?x3xf32>") == ["tensor<?"]
    assert obstacles("%2 = stablehlo.dynamic_reshape %0, %1") == ["stablehlo.dynamic_reshape"]
    assert obstacles("%2 = stablehlo.dynamic_pad %0, %1") == ["stablehlo.dynamic_pad"]
