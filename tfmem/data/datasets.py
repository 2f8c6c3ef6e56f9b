"""The front door to data sets: numpy arrays, stories and words from tensorflow-datasets or downloaded files.

Files are looked for in `data_dir`, else in the folder that TFMEM_DATA_DIR names. With neither, tensorflow-datasets
downloads a data set once and keeps it.
"""

import importlib
import os
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np

from tfmem.data import corpora, idx
from tfmem.data.babi import URL as BABI_URL
from tfmem.data.babi import VERSIONS as BABI_VERSIONS
from tfmem.data.babi import Line, Story, read_babi
from tfmem.data.babi import splits as babi_splits
from tfmem.data.files import DATA_DIR, CorruptDataError, MissingDataError, ask, ask_for, curl, missing_file
from tfmem.validation import check_choice


def mnist(split, data_dir=None):
    """MNIST as (images [N, 28, 28] uint8 from 0 to 255, labels [N] uint8 from 0 to 9), in the order of the files.

    Args:
        split: "train" (60,000) or "test" (10,000).
        data_dir: folder whose `mnist` sub-folder holds the four gzipped IDX files; None: the folder that
            TFMEM_DATA_DIR names; if it is unset, the `mnist` builder of tensorflow-datasets, in its own order.

    Raises:
        ValueError: an unknown split.
        MissingDataError: no such file, or nothing could be downloaded.
        CorruptDataError: a file that is cut off, damaged, or not MNIST. Nothing is written to that folder.
    """
    if split not in idx.MNIST_FILES:
        raise ValueError(f"split: {split!r}, must be one of {sorted(idx.MNIST_FILES)}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    return idx.read_mnist(Path(data_dir) / "mnist", split) if data_dir else _mnist_from_tfds(split)


def _mnist_from_tfds(split):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:  # a machine that runs bundles
        raise MissingDataError(
            f"{DATA_DIR} is not set and tensorflow-datasets is not installed ({error}). Put the four files of "
            f"{idx.MNIST_URL} into DIR/mnist and set {DATA_DIR}=DIR."
        ) from error

    builder = tfds.builder("mnist")
    try:
        if not builder.is_prepared():
            ask(idx.MNIST_URL + idx.MNIST_FILES[split][0])
            builder.download_and_prepare()  # in a temporary folder, renamed once it is whole
    except Exception as error:
        names = ", ".join(idx.MNIST_FILES[split])
        raise MissingDataError(
            f"MNIST ({names}) is not in {builder.data_dir} and could not be downloaded: {error}\n"
            f"With a network, `tfds build mnist` gets it; without one, put the four files of {idx.MNIST_URL} into "
            f"DIR/mnist and set {DATA_DIR}=DIR."
        ) from error
    try:
        examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except tf.errors.DataLossError as error:
        raise CorruptDataError(
            f"a record file in {builder.data_dir} is damaged ({error}). Delete that folder and run `tfds build mnist`."
        ) from error
    return examples["image"][..., 0], examples["label"].astype(np.uint8)


def babi(version, split, tasks=range(1, 21), data_dir=None):
    """Stories of bAbI v1.2, task by task, in the order of the files.

    Args:
        version: folder of the archive, one of `tfmem.data.babi.VERSIONS`; "-10k" has 10,000 training questions a task,
            else 1,000.
        split: "train", "test", and "valid" if `version` has it.
        tasks: numbers of the tasks, 1 to 20.
        data_dir: folder whose `babi` sub-folder holds tasks_1-20_v1-2.tar.gz; None: the folder that TFMEM_DATA_DIR
            names; if it is unset, `tfmem.data.builders.babi` for tensorflow-datasets.

    Returns:
        list of `tfmem.data.babi.Story`.

    Raises:
        ValueError: an unknown version, split or task.
        MissingDataError: no archive, files of it that are missing (all are named), or nothing could be downloaded.
        CorruptDataError: an archive or a file in it that is damaged.
    """
    check_choice("version", version, BABI_VERSIONS)
    if split not in babi_splits(version):
        raise ValueError(f"split: {split!r}, must be one of {babi_splits(version)} for {version}")
    tasks = tuple(tasks)
    if not tasks or not set(tasks) <= set(range(1, 21)):
        raise ValueError(f"tasks: {tasks}, must be numbers from 1 to 20, at least one")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    if not data_dir:
        return [story for story in _babi_from_tfds(version, split) if story.task in tasks]
    path = Path(data_dir) / "babi" / BABI_URL.rsplit("/", 1)[1]
    try:
        with tarfile.open(path) as tar:
            return read_babi(tar, version, split, tasks)
    except MissingDataError:
        raise
    except FileNotFoundError:
        raise MissingDataError(missing_file(path, BABI_URL)) from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(
            f"{path} is not a whole archive ({error}). Get it again with\n    {curl(path, BABI_URL)}"
        ) from error


def _babi_from_tfds(version, split):
    import tensorflow_datasets as tfds

    importlib.import_module("tfmem.data.builders.babi")  # registers it

    def story(example):
        rows = zip(*(example["lines"][name] for name in ("text", "answer", "supporting")), strict=True)
        lines = []
        for row in rows:
            text, answer, supporting = (field.decode() for field in row)
            support = tuple(int(number) for number in supporting.split())
            lines.append(Line(text, tuple(answer.split(",")) if answer else (), support))
        return Story(int(example["task"]), tuple(lines))

    return [story(example) for example in _prepared(tfds.builder(f"babi/{version}"), split)]


def text_file(corpus, split, data_dir=None):
    """The file of a split in `data_dir` or in the folder that TFMEM_DATA_DIR names; None if neither is given.

    Raises:
        ValueError: an unknown corpus or split.
        MissingDataError: it is not there.
    """
    if corpus not in corpora.CORPORA:
        raise ValueError(f"corpus: {corpus!r}, must be one of {corpora.CORPORA}")
    if split not in corpora.SPLITS:
        raise ValueError(f"split: {split!r}, must be one of {corpora.SPLITS}")
    data_dir = data_dir or os.environ.get(DATA_DIR)
    return corpora.find_file(Path(data_dir) / corpus, corpus, split) if data_dir else None


def text_lines(corpus, split, data_dir=None):
    """The lines of a corpus at the level of words: an iterator of lists of words, without an end-of-line mark.

    WikiText is cut at its spaces (empty lines are lines). Other corpora are lower-cased and cut into words and
    punctuation marks; a paragraph is a line. Not specified (the paper follows Rae et al. 2018); we use this rule.

    Args:
        corpus: one of `tfmem.data.corpora.CORPORA`: "wikitext-2", "wikitext-103", "pg19", "gigaword".
        split: "train", "valid" or "test".
        data_dir: folder whose sub-folder of the corpus's name holds <split>.txt, <split>.txt.gz or
            wiki.<split>.tokens; None: the folder that TFMEM_DATA_DIR names; if it is unset, tensorflow-datasets: pg19,
            and wikitext and gigaword_v5 (from its manual_dir) of `tfmem.data.builders.text`.

    Raises:
        ValueError: an unknown corpus or split.
        MissingDataError: no such file, or nothing could be downloaded.
        CorruptDataError: a file that is cut off, damaged, empty, or not UTF-8.
    """
    path = text_file(corpus, split, data_dir)
    lines = corpora.read_lines(path) if path else _lines_from_tfds(corpus, split)
    return (corpora.words(corpus, line) for line in lines)


def _lines_from_tfds(corpus, split):
    import tensorflow_datasets as tfds

    importlib.import_module("tfmem.data.builders.text")  # registers wikitext and gigaword_v5

    if corpus == "pg19":
        builder = tfds.builder("pg19")
        for example in _prepared(builder, {"valid": "validation"}.get(split, split), corpora.PG19_URL):
            yield from re.split(r"\n\s*\n", example["book_text"].decode("utf-8-sig"))
        return
    name = "gigaword_v5" if corpus == "gigaword" else f"wikitext/{corpus}"
    for example in _prepared(tfds.builder(name), split):
        yield example["text"].decode()


def _prepared(builder, split, url=None):
    """The examples of a builder's split as numpy, in the order of the files; prepared first if it is not yet.

    `url` is asked for before, for builders of TFDS, which do not ask themselves.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        if url:
            ask_for(url, builder.name)
        builder.download_and_prepare()  # in a temporary folder, renamed once it is whole
    order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        yield from tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=order))
    except tf.errors.DataLossError as error:
        raise CorruptDataError(
            f"a record file in {builder.data_dir} is damaged ({error}). Delete that folder and prepare it again."
        ) from error
