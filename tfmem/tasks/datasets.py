"""Data sets as numpy arrays: through tensorflow-datasets, or from already downloaded files in TFMEM_DATA_DIR."""

import gzip
import importlib
import io
import os
import posixpath
import re
import struct
import tarfile
import zlib
from pathlib import Path
from urllib import request

import numpy as np

from tfmem.tasks import babi as babi_task

DATA_DIR = "TFMEM_DATA_DIR"
_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class MissingDataError(FileNotFoundError):
    """A data set is not where it was looked for; the message says where that was and how to get it."""


class CorruptDataError(ValueError):
    """A data file is not what it should be; the message names the file and what is wrong with it."""


def mnist(split, data_dir=None):
    """MNIST as (images [N, 28, 28] uint8 from 0 to 255, labels [N] uint8 from 0 to 9), in the order of the files.

    Args:
        split: "train" (60,000) or "test" (10,000).
        data_dir: folder whose `mnist` sub-folder holds the four gzipped IDX files; None: what TFMEM_DATA_DIR names,
            or, where that is unset, the `mnist` builder of tensorflow-datasets (its own order; it downloads once).

    Raises:
        ValueError: an unknown split.
        MissingDataError: no such file, or nothing could be downloaded.
        CorruptDataError: a file that is cut off, damaged, or not MNIST. Nothing is written beside the files.
    """
    if split not in _MNIST_FILES:
        raise ValueError(f"split must be one of {sorted(_MNIST_FILES)}, got {split!r}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    if not data_dir:
        return _mnist_from_tfds(split)
    folder = Path(data_dir) / "mnist"
    images_file, labels_file = (folder / name for name in _MNIST_FILES[split])
    images, labels = read_idx(images_file, (28, 28)), read_idx(labels_file, ())
    if len(images) != len(labels):
        raise CorruptDataError(f"{images_file} holds {len(images)} images but {labels_file} {len(labels)} labels")
    if labels.max(initial=0) > 9:
        raise CorruptDataError(
            f"{labels_file} holds the label {labels.max()}; labels are 0 to 9. {_again(labels_file)}"
        )
    return images, labels


def read_idx(path, item_shape):
    """A gzipped IDX file of unsigned bytes as an array [N, *item_shape].

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is not gzip, is cut off or damaged, or holds anything but such items.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise MissingDataError(
            f"{path.name} is not in {path.parent} (looked for there because of {DATA_DIR} or data_dir). Get it with\n"
            f"    {_command(path)}\n"
            f"or unset {DATA_DIR} to let tensorflow-datasets download it."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"{path} is not a whole gzip file ({error}). {_again(path)}") from error
    rank = 1 + len(item_shape)
    magic = bytes([0, 0, 8, rank])  # two zeros, unsigned bytes, number of axes
    if content[:4] != magic:
        raise CorruptDataError(
            f"{path} starts with {content[:4].hex() or 'nothing'}, not with the magic number {magic.hex()}. "
            f"{_again(path)}"
        )
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header]) if len(content) >= header else ()
    if shape[1:] != tuple(item_shape) or not shape:
        raise CorruptDataError(f"{path} holds items of shape {shape[1:]}, expected {tuple(item_shape)}. {_again(path)}")
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise CorruptDataError(
            f"{path} holds {len(content)} bytes, but its header {shape} asks for {expected}. {_again(path)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _command(path):
    return f"curl --fail --location --create-dirs --output {path} {_MNIST_URL}{path.name}"


def _again(path):
    return f"Get it again with\n    {_command(path)}"


def _mnist_from_tfds(split):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:  # where bundles run
        raise MissingDataError(
            f"{DATA_DIR} is not set and tensorflow-datasets is not installed ({error}). Put the four files of "
            f"{_MNIST_URL} into DIR/mnist and set {DATA_DIR}=DIR."
        ) from error

    builder = tfds.builder("mnist")
    try:
        if not builder.is_prepared():
            probe = request.Request(_MNIST_URL + _MNIST_FILES[split][0], method="HEAD")
            request.urlopen(probe, timeout=20).close()  # without a network TFDS would retry for minutes
            builder.download_and_prepare()  # in a temporary folder, renamed once it is whole
    except Exception as error:
        names = ", ".join(_MNIST_FILES[split])
        raise MissingDataError(
            f"MNIST ({names}) is not in {builder.data_dir} and could not be downloaded: {error}\n"
            f"With a network, `tfds build mnist` gets it; without one, put the four files of {_MNIST_URL} into "
            f"DIR/mnist and set {DATA_DIR}=DIR."
        ) from error
    try:
        examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except tf.errors.DataLossError as error:
        raise CorruptDataError(
            f"a record file in {builder.data_dir} is damaged ({error}). Delete that folder and run `tfds build mnist`."
        ) from error
    return examples["image"][..., 0], examples["label"].astype(np.uint8)


# ---- bAbI -----------------------------------------------------------------------------------------------------------

BABI_URL = "http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz"
BABI_VERSIONS = ("en", "en-10k", "en-valid", "en-valid-10k", "hn", "hn-10k", "shuffled", "shuffled-10k")
_BABI_ARCHIVE = "tasks_1-20_v1-2.tar.gz"
_BABI_MEMBER = re.compile(r"tasks_1-20_v1-2/([^/]+)/qa(\d+)_(?:.*_)?(train|valid|test)\.txt")


def babi_splits(version):
    """The splits of a version: "valid" is in those whose name says so."""
    return ("train", "valid", "test") if "valid" in version else ("train", "test")


def babi(version, split, tasks=range(1, 21), data_dir=None):
    """Stories of bAbI v1.2, task by task, in the order of the files.

    Args:
        version: folder of the archive, one of `BABI_VERSIONS`; "-10k" has 10,000 training questions a task, else 1,000.
        split: "train", "test", and "valid" where `version` has it.
        tasks: numbers of the tasks, 1 to 20.
        data_dir: folder whose `babi` sub-folder holds tasks_1-20_v1-2.tar.gz; None: what TFMEM_DATA_DIR names, or,
            where that is unset, our builder for tensorflow-datasets (it downloads once).

    Returns:
        list of `tfmem.tasks.babi.Story`.

    Raises:
        ValueError: an unknown version, split or task.
        MissingDataError: no archive, files of it that are missing (all are named), or nothing could be downloaded.
        CorruptDataError: an archive or a file in it that is damaged.
    """
    if version not in BABI_VERSIONS:
        raise ValueError(f"version must be one of {BABI_VERSIONS}, got {version!r}")
    if split not in babi_splits(version):
        raise ValueError(f"split must be one of {babi_splits(version)} for {version}, got {split!r}")
    tasks = tuple(tasks)
    if not tasks or not set(tasks) <= set(range(1, 21)):
        raise ValueError(f"tasks must be numbers from 1 to 20, at least one, got {tasks}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    if not data_dir:
        return [story for story in _babi_from_tfds(version, split) if story.task in tasks]
    path = Path(data_dir) / "babi" / _BABI_ARCHIVE
    try:
        with tarfile.open(path) as tar:
            return read_babi(tar, version, split, tasks)
    except FileNotFoundError as error:
        if isinstance(error, MissingDataError):
            raise
        raise MissingDataError(_missing(path, BABI_URL)) from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(
            f"{path} is not a whole archive ({error}). Get it again with\n    {_curl(path, BABI_URL)}"
        ) from error


def babi_words(version, tasks, data_dir=None):
    """The vocabulary of some tasks in all splits of a version (see `babi`), and their stories by split."""
    stories = {split: babi(version, split, tasks, data_dir) for split in babi_splits(version)}
    return babi_task.vocabulary([story for part in stories.values() for story in part]), stories


def babi_training(version, tasks, encoding, **arguments):
    """The `tfmem.tasks.babi.Batches` of the training stories; `arguments` are its own."""
    words, stories = babi_words(version, tasks)
    return babi_task.Batches(babi_task.encode(stories["train"], words, encoding), **arguments)


def read_babi(tar, version, split, tasks=range(1, 21)):
    """The stories of some tasks in an open archive.

    Raises:
        MissingDataError: files that are not in the archive, all of them named.
        CorruptDataError: a file that is not of bAbI's form.
    """
    members = {
        int(match[2]): name
        for path, name in members_by_path(tar.getnames()).items()
        if (match := _BABI_MEMBER.fullmatch(path)) and (match[1], match[3]) == (version, split)
    }
    missing = [task for task in tasks if task not in members]
    if missing:
        names = ", ".join(f"{version}/qa{task}_*{split}.txt" for task in missing)
        raise MissingDataError(
            f"{names} is not in {tar.name}. The whole archive is {BABI_URL}; without it, leave out the tasks "
            f"{', '.join(map(str, missing))} or take another version than {version}."
        )
    stories = []
    for task in tasks:
        try:
            stories += babi_task.parse(tar.extractfile(members[task]).read().decode("utf-8"), task)
        except ValueError as error:  # UnicodeDecodeError is one
            raise CorruptDataError(f"{members[task]} in {tar.name}: {error}") from None
    return stories


def _babi_from_tfds(version, split):
    import tensorflow_datasets as tfds

    importlib.import_module("tfmem.tasks.builders.babi")  # registers it

    def story(example):
        rows = zip(*(example["lines"][name] for name in ("text", "answer", "supporting")), strict=True)
        lines = []
        for row in rows:
            text, answer, supporting = (field.decode() for field in row)
            support = tuple(int(number) for number in supporting.split())
            lines.append(babi_task.Line(text, tuple(answer.split(",")) if answer else (), support))
        return babi_task.Story(int(example["task"]), tuple(lines))

    return [story(example) for example in _prepared(tfds.builder(f"babi/{version}"), split)]


# ---- text -----------------------------------------------------------------------------------------------------------

WIKITEXT_URLS = {
    name: f"https://s3.amazonaws.com/research.metamind.io/wikitext/{name}-v1.zip"
    for name in ("wikitext-2", "wikitext-103")
}
CORPORA = (*WIKITEXT_URLS, "pg19", "gigaword")
_PG19_URL = "https://storage.googleapis.com/deepmind-gutenberg/metadata.csv"
_WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def wikitext_file_names(split):
    """Names that the text of a split may have in a data folder, in the order in which they are looked for."""
    return f"{split}.txt", f"{split}.txt.gz", f"wiki.{split}.tokens"


def text_file(corpus, split, data_dir=None):
    """The file of a split in `data_dir` or what TFMEM_DATA_DIR names; None where neither is given.

    Raises:
        ValueError: an unknown corpus or split.
        MissingDataError: it is not there.
    """
    if corpus not in CORPORA:
        raise ValueError(f"corpus must be one of {CORPORA}, got {corpus!r}")
    if split not in ("train", "valid", "test"):
        raise ValueError(f"split must be train, valid or test, got {split!r}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    if not data_dir:
        return None
    folder = Path(data_dir) / corpus
    for name in wikitext_file_names(split):
        if (folder / name).exists():
            return folder / name
    raise MissingDataError(_missing_text(corpus, split, folder))


def _missing_text(corpus, split, folder):
    names = " or ".join(wikitext_file_names(split))
    if corpus in WIKITEXT_URLS:
        url = WIKITEXT_URLS[corpus]
        archive = folder.parent / url.rsplit("/", 1)[1]
        how = f"Get it with\n    {_curl(archive, url)} && unzip {archive} -d {folder.parent}"
    elif corpus == "pg19":
        how = "Join the books of gs://deepmind-gutenberg, one paragraph a line"
    else:
        how = "It is LDC2011T07, for a licence fee: https://catalog.ldc.upenn.edu/LDC2011T07"
    return (
        f"{names} is not in {folder} (looked for there because of {DATA_DIR} or data_dir). {how}\nor unset {DATA_DIR} "
        f"to take it from tensorflow-datasets."
    )


def text_lines(corpus, split, data_dir=None):
    """The lines of a corpus at the level of words: an iterator of lists of words, without an end-of-line mark.

    WikiText is cut at its spaces (empty lines are lines). Other corpora are lower-cased and cut into words and
    punctuation marks, paragraphs being lines: ours, for what Rae et al. 2018 did, whom the paper follows, is unknown.

    Args:
        corpus: one of `CORPORA`: "wikitext-2", "wikitext-103", "pg19", "gigaword".
        split: "train", "valid" or "test".
        data_dir: folder whose sub-folder of the corpus's name holds <split>.txt, <split>.txt.gz or
            wiki.<split>.tokens; None: what TFMEM_DATA_DIR names, or, where that is unset, tensorflow-datasets:
            wikitext (ours), pg19, gigaword_v5 (ours, from its manual_dir).

    Raises:
        ValueError: an unknown corpus or split.
        MissingDataError: no such file, or nothing could be downloaded.
        CorruptDataError: a file that is cut off, damaged, empty, or not UTF-8.
    """
    path = text_file(corpus, split, data_dir)
    lines = _lines_of_file(path) if path else _lines_from_tfds(corpus, split)
    if corpus in WIKITEXT_URLS:
        return (line.split() for line in lines)
    return (_WORDS.findall(line.lower()) for line in lines)


def _lines_of_file(path):
    opened = gzip.open if path.suffix == ".gz" else open
    end = None
    try:
        with opened(path, "rb") as stream:
            for line in decoded_lines(stream):
                yield line
                end = line[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"{path} is not a whole gzip file ({error}). Get it again.") from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{path} is not UTF-8 text ({error}). Get it again.") from error
    if end != "\n":
        raise CorruptDataError(f"{path} {'is cut off: its last line has no end' if end else 'is empty'}. Get it again.")


def _lines_from_tfds(corpus, split):
    import tensorflow_datasets as tfds

    importlib.import_module("tfmem.tasks.builders.text")  # registers ours

    if corpus == "pg19":
        builder = tfds.builder("pg19")
        for example in _prepared(builder, {"valid": "validation"}.get(split, split), _PG19_URL):
            yield from re.split(r"\n\s*\n", example["book_text"].decode("utf-8-sig"))
        return
    name = "gigaword_v5" if corpus == "gigaword" else f"wikitext/{corpus}"
    for example in _prepared(tfds.builder(name), split):
        yield example["text"].decode()


# ---- what the builders share ----------------------------------------------------------------------------------------


def members_by_path(names):
    """An archive's members by their path, which a leading "./" does not change: {path: name as it is stored}."""
    return {posixpath.normpath(name): name for name in names}


def decoded_lines(stream):
    """The lines of a binary stream of UTF-8 text, with their ends; joined files may each have a byte-order mark."""
    for line in io.TextIOWrapper(stream, "utf-8", newline="\n"):
        yield line.removeprefix("\ufeff")


def download_or_manual(dl_manager, url, what):
    """The file of `url`: from the manual folder of tensorflow-datasets where it is there, else downloaded."""
    name = url.rsplit("/", 1)[1]
    try:
        manual = dl_manager.manual_dir / name
        if manual.exists():
            return manual
    except AssertionError:  # TFDS: there is no such folder, or it is empty
        pass
    _probe(url, what)
    return dl_manager.download(url)


def _probe(url, what):
    """Asks for the head of `url`: without a network TFDS would retry for minutes."""
    try:
        request.urlopen(request.Request(url, method="HEAD"), timeout=20).close()
    except OSError as error:
        raise MissingDataError(
            f"the {what} could not be downloaded from {url}: {error}\nWithout a network, put {url.rsplit('/', 1)[1]} "
            f"into the manual folder of tensorflow-datasets (--manual_dir), or set {DATA_DIR}."
        ) from error


def _prepared(builder, split, probe=None):
    """The examples of a builder's split as numpy, in the order of the files; prepared first where it is not yet."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        if probe:
            _probe(probe, builder.name)
        builder.download_and_prepare()  # in a temporary folder, renamed once it is whole
    order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        yield from tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=order))
    except tf.errors.DataLossError as error:
        raise CorruptDataError(
            f"a record file in {builder.data_dir} is damaged ({error}). Delete that folder and prepare it again."
        ) from error


def _missing(path, url):
    return (
        f"{path.name} is not in {path.parent} (looked for there because of {DATA_DIR} or data_dir). Get it with\n"
        f"    {_curl(path, url)}\nor unset {DATA_DIR} to let tensorflow-datasets download it."
    )


def _curl(path, url):
    return f"curl --fail --location --create-dirs --output {path} {url}"
