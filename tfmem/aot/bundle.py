"""Folder of a bundle, read and written with numpy alone.

    manifest.json        programs, names of their arguments and results, data, configuration, versions, checksums
    update.mlir.gz       StableHLO of `updates_per_call` updates
    evaluation.mlir.gz   StableHLO of a step of the evaluation, if the experiment has one
    initial.npz          variables, optimiser slots and carry before the first update

The manifest is written last and holds the SHA-256 of every file. Arguments and results have names: `number` (of the
update or evaluation step), `batch/<path>`, `carry/<index>`, `variables/<name>`, `constants/<index>`, `metrics/<name>`.
A result is the next call's argument of the same name. The manifest holds initial arrays with a single value
(`constants`) and, if the file would be too large, recipes to draw large random ones (`draws`).
"""

import dataclasses
import gzip
import hashlib
import importlib
import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfmem.atomic import lock_folder
from tfmem.training.run_folder import RunFolderError, write_atomically, write_json

FORMAT = 1
LARGEST = 60 * 2**20
MANIFEST = "manifest.json"
INITIAL = "initial.npz"
RENAMED = {  # data sources by their names in older bundles
    "reproductions.belief_states._episodes:frames": "tfmem.data.episode_cache:frames",
    "reproductions.belief_states._episodes:trajectories": "tfmem.data.episode_cache:trajectories",
    "tfmem.tasks.images:mnist_stream": "tfmem.data.images:mnist_stream",
}


class BundleError(Exception):
    """Error of a bundle that cannot be made, read or run; the message gives the reason."""


class Leaf(NamedTuple):
    """Argument or result of a program; `path` is its place in a batch."""

    name: str
    shape: tuple
    dtype: str
    path: tuple = ()


@dataclasses.dataclass
class Program:
    """StableHLO module with the names of its arguments and results."""

    text: str
    arguments: list[Leaf]
    results: list[Leaf]


@dataclasses.dataclass
class Bundle:
    """Contents of a bundle.

    Attributes:
      experiment, preset, config: as in a run's config.json.
      updates_per_call: of the program `update`.
      programs: `{"update": Program}`, and "evaluation" if there is one.
      evaluation_steps: calls of the latter.
      initial: arrays by name.
      evaluation_carry: arrays at the start of the evaluation.
      data_sources: `{"train": (factory, arguments), "evaluation": ...}` of `Experiment.data_source`; None: no data.
      versions: of the packages that made it.
      names: attribute paths of the variables, as `tfmem.training.loop.Loop.names`.
      digest: SHA-256 of the manifest; "" before it is written.
    """

    experiment: str
    preset: str | None
    config: dict
    updates_per_call: int
    programs: dict[str, Program]
    evaluation_steps: int
    initial: dict[str, np.ndarray]
    evaluation_carry: list[np.ndarray]
    data_sources: dict
    versions: dict
    names: dict = dataclasses.field(default_factory=dict)
    digest: str = ""


def write_bundle(bundle, path, largest=LARGEST):
    """Write a bundle to a folder that does not exist or is empty.

    Args:
      bundle: a `Bundle`.
      path: the folder.
      largest: most bytes of the folder; large random arrays become recipes to stay below.

    Raises:
      BundleError: the folder has files, another process is writing there, or the bundle would be larger than
        `largest`.
      RunFolderError: the disk refuses.
    """
    path = Path(path)
    _check_empty(path)
    files = {f"{name}.mlir.gz": gzip.compress(p.text.encode(), 9, mtime=0) for name, p in bundle.programs.items()}
    room = largest - sum(map(len, files.values())) - 2**20  # a MiB for the manifest and the npz file's tables
    constants, arrays = {}, {}
    everything = bundle.initial | {f"evaluation/{i}": array for i, array in enumerate(bundle.evaluation_carry)}
    for name, array in everything.items():
        if array.size > 1 and (array == array.flat[0]).all():
            constants[name] = [array.flat[0].item(), list(array.shape), array.dtype.name]
        else:
            arrays[name] = array
    draws = _take_draws(arrays, room)
    if arrays and sum(array.nbytes for array in arrays.values()) > room:
        name, array = max(arrays.items(), key=lambda item: item[1].nbytes)
        raise BundleError(
            f"the bundle would be larger than {largest / 2**20:.4g} MiB, and {name} ({array.nbytes / 2**20:.1f} MiB) "
            "is neither constant nor a plain random draw that the runner could make itself"
        )
    file = io.BytesIO()
    np.savez_compressed(file, **{name: array.view(_storage(array.dtype)) for name, array in arrays.items()})
    files[INITIAL] = file.getvalue()
    manifest = {
        "format": FORMAT,
        **{name: getattr(bundle, name) for name in _PLAIN},
        "programs": {
            name: {"arguments": p.arguments, "results": p.results, "file": f"{name}.mlir.gz"}
            for name, p in bundle.programs.items()
        },
        "initial": {
            "order": list(everything),
            "dtypes": {name: array.dtype.name for name, array in arrays.items()},
            "constants": constants,
            "draws": draws,
        },
        "files": {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()},
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
    lock = lock_folder(path)
    if lock is None:
        raise BundleError(f"another process is working in {path}; nothing was written")
    try:
        _check_empty(path)  # under the lock
        for name, content in files.items():
            write_atomically(path / name, lambda file, content=content: file.write(content))
        write_json(path / MANIFEST, manifest)
    finally:
        os.close(lock)


def _check_empty(path):
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"{path} exists and is not an empty folder; nothing was written")


_PLAIN = ("experiment", "preset", "config", "updates_per_call", "evaluation_steps", "data_sources", "versions", "names")


def read_manifest(path):
    """Read a bundle's manifest and check its version and the sizes and checksums of all files.

    Raises:
      BundleError: it is missing, damaged, or of another version.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST} is damaged: {error}. Make the bundle again") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise BundleError(
            f"{path} has bundle format {version}, this tfmem reads format {FORMAT}: make the bundle again with "
            "`reproduce compile`, or use the tfmem that made it"
        )
    for name, about in manifest["files"].items():
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / name} cannot be read ({error.strerror}). Copy the bundle again") from error
        if len(content) != about["bytes"]:
            raise BundleError(
                f"{path / name} is damaged: {len(content)} bytes, must be {about['bytes']}. Copy the bundle again"
            )
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise BundleError(f"{path / name} is damaged: its SHA-256 differs. Copy the bundle again")
    manifest.setdefault("names", {})  # older bundles have none
    if "pipelines" in manifest:  # the field's name in older bundles
        manifest["data_sources"] = manifest.pop("pipelines")
    return manifest


def read_bundle(path):
    """Read the `Bundle` in a folder.

    Raises:
      BundleError: as `read_manifest`.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        programs = {
            name: Program(
                gzip.decompress((path / p["file"]).read_bytes()).decode(),
                [_leaf(leaf) for leaf in p["arguments"]],
                [_leaf(leaf) for leaf in p["results"]],
            )
            for name, p in manifest["programs"].items()
        }
        initial = _initial_arrays(path, manifest)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is damaged: {type(error).__name__}: {error}. Make the bundle again") from error
    carry = [array for name, array in initial.items() if name.startswith("evaluation/")]
    initial = {name: array for name, array in initial.items() if not name.startswith("evaluation/")}
    digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    plain = {name: manifest[name] for name in _PLAIN}
    plain["data_sources"] = {split: _renamed(source) for split, source in plain["data_sources"].items()}
    return Bundle(**plain, programs=programs, initial=initial, evaluation_carry=carry, digest=digest)


def _renamed(source):
    """Data source (factory, arguments) with its present name; None stays None."""
    return source and [RENAMED.get(source[0], source[0]), source[1]]


def _leaf(values):
    name, shape, dtype, path = values
    return Leaf(name, tuple(shape), dtype, tuple(path))


def _initial_arrays(path, manifest):
    about, arrays = manifest["initial"], {}
    with np.load(path / INITIAL, allow_pickle=False) as stored:
        for name, dtype in about["dtypes"].items():
            arrays[name] = stored[name].view(as_dtype(dtype))
    for name, (value, shape, dtype) in about["constants"].items():
        arrays[name] = np.full(shape, value, as_dtype(dtype))
    for name, draw in about["draws"].items():
        arrays[name] = drawn(**draw)
    return {name: arrays[name] for name in about["order"]}


def as_dtype(name):
    """Numpy dtype of a name; bfloat16 and similar types come from ml_dtypes, a dependency of jax and TensorFlow."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def _storage(dtype):
    return f"u{dtype.itemsize}" if dtype.kind == "V" else dtype


def open_source(source):
    """Open the `tfmem.data.source.DataSource` that `Experiment.data_source` names.

    Raises:
      BundleError: there is no such function, or it takes other arguments.
    """
    factory, arguments = source
    module, _, name = factory.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"the data source {factory} is not in this installation: {error}") from error
    try:
        return function(**arguments)
    except TypeError as error:
        raise BundleError(
            f"the data source {factory} has changed since the bundle was made ({error}); make it again with "
            "`reproduce compile`"
        ) from error


# ---- initial arrays as recipes ---------------------------------------------------------------------------------------

_TRUNCATED_STD = 0.87962566103423978  # of a standard normal distribution cut off at two
_FITS = 2.0  # bound of Kolmogorov's sqrt(n) max |F - F_n|: the right distribution exceeds 2 once in 1,500 times


def drawn(distribution, mean, scale, shape, dtype, seed):
    """Draw `mean` plus `scale` times random numbers: "uniform" in [-1, 1), "normal", "truncated_normal" (cut off at 2).

    "orthogonal": a matrix whose vectors along the shorter side are orthonormal and uniformly distributed.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    size = int(np.prod(shape))
    if distribution == "orthogonal":
        q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape)), np.float32))
        q *= np.sign(np.diag(r))  # for a uniform distribution
        return (scale * (q if shape[0] >= shape[1] else q.T)).astype(as_dtype(dtype))
    if distribution == "uniform":
        values = rng.random(size, np.float32) * 2 - 1
    else:
        values = rng.standard_normal(size, np.float32)
        while distribution == "truncated_normal" and (outside := np.abs(values) > 2).any():
            values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return (mean + scale * values).astype(as_dtype(dtype)).reshape(shape)


def _take_draws(arrays, room):
    """Remove the largest random arrays from `arrays` until the rest has at most `room` bytes; their recipes by name."""
    draws, size = {}, sum(array.nbytes for array in arrays.values())
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].nbytes):
        if size <= room:
            break
        recipe = _recipe(array) if name.startswith("variables/") else None
        if recipe is not None:
            draws[name], size = recipe, size - array.nbytes
            del arrays[name]
    return draws


def _recipe(array):
    """Arguments of `drawn` for an array like this one; None for a vector, or if the elements look dependent.

    The seed follows from the array, so that another initialization has another recipe.
    """
    if array.dtype.kind != "f" or array.ndim < 2:
        return None
    values = array.astype(np.float64).ravel()
    mean, std = values.mean(), values.std()
    scales = {"uniform": std * 3**0.5, "normal": std, "truncated_normal": std / _TRUNCATED_STD}
    if _is_orthogonal(array):
        mean, scales = 0.0, {"orthogonal": np.linalg.norm(values) / min(array.shape) ** 0.5}
    for distribution, scale in scales.items():
        recipe = {
            "distribution": distribution,
            "mean": float(mean),
            "scale": float(scale),
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "seed": zlib.crc32(array.tobytes()),
        }
        if distribution == "orthogonal" or _alike(array, drawn(**recipe)):
            return recipe
    return None


def _is_orthogonal(array):
    """Return whether a matrix's vectors along the shorter side are orthogonal, of one norm; large ones are sampled."""
    if array.ndim != 2 or min(array.shape) < 2:
        return False
    vectors = (array if array.shape[0] <= array.shape[1] else array.T)[:256].astype(np.float64)
    products = vectors @ vectors.T
    return np.allclose(products, products[0, 0] * np.eye(len(products)), atol=1e-4 * products[0, 0])


def _alike(array, other):
    """Return whether two arrays share a distribution and correlation of rows (an orthogonal matrix has less)."""
    a, b = np.sort(array, axis=None), np.sort(other, axis=None)
    places = np.searchsorted(a, b, side="right") / a.size
    distance = np.abs(places - np.arange(1, b.size + 1) / b.size).max()
    if distance * (a.size / 2) ** 0.5 > _FITS:
        return False
    rows = [x.reshape(-1, x.shape[-1])[:256].astype(np.float64) for x in (array, other)]
    spread = [np.linalg.svd(x - x.mean(), compute_uv=False).std() for x in rows]
    return abs(spread[0] - spread[1]) <= 0.2 * spread[1]
