"""bAbI and the text corpora from files and through TFDS; what missing and damaged files say."""

import functools
import gzip
import os
from pathlib import Path
from urllib import error, request

import pytest

from tests.text_data import babi_story, wikitext, write_babi, write_wikitext, zip_wikitext
from tfmem.data.datasets import babi, text_lines
from tfmem.data.files import DATA_DIR, CorruptDataError, MissingDataError

# ---- bAbI -----------------------------------------------------------------------------------------------------------


def test_babi_from_the_archive(tmp_path, monkeypatch):
    write_babi(tmp_path)
    stories = babi("en-valid", "valid", data_dir=tmp_path)
    assert [story.task for story in stories] == [task for task in range(1, 21) for _ in range(3)]
    assert stories[21].lines[1].answer == ("kitchen", "garden")
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    assert babi("en-valid", "valid", (20, 8)) == [s for t in (20, 8) for s in stories if s.task == t]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("english", "train"), r"version: 'english', must be one of"),
        (("en", "valid"), r"split: 'valid', must be one of \('train', 'test'\) for en"),
        (("en", "train", (0, 1)), r"tasks: \(0, 1\), must be numbers from 1 to 20"),
        (("en", "train", ()), r"tasks: \(\), must be numbers from 1 to 20, at least one"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        babi(*arguments)


def test_babi_from_an_archive_whose_members_start_with_a_dot(tmp_path):
    write_babi(tmp_path / "plain")
    write_babi(tmp_path / "dotted", root="./")
    for split in ("train", "valid", "test"):
        assert babi("en-valid", split, data_dir=tmp_path / "dotted") == babi(
            "en-valid", split, data_dir=tmp_path / "plain"
        )


def test_a_byte_order_mark_in_babi(tmp_path, monkeypatch):
    story = babi_story
    monkeypatch.setattr("tests.text_data.babi_story", lambda rng, task: "\ufeff" + story(rng, task))
    write_babi(tmp_path, stories=1)
    assert len(babi("en", "train", data_dir=tmp_path)) == 20


def test_missing_files_of_babi_are_named(tmp_path):
    write_babi(tmp_path, tasks=(1, 2, 4), versions=("en-valid-10k",))
    with pytest.raises(MissingDataError) as caught:
        babi("en-valid-10k", "train", range(1, 6), tmp_path)
    message = str(caught.value)
    assert "en-valid-10k/qa3_*train.txt, en-valid-10k/qa5_*train.txt is not in" in message
    assert "leave out the tasks 3, 5" in message
    assert len(babi("en-valid-10k", "train", (1, 2, 4), tmp_path)) == 9


def test_missing_and_damaged_archive(tmp_path):
    path = tmp_path / "babi" / "tasks_1-20_v1-2.tar.gz"
    with pytest.raises(MissingDataError) as caught:
        babi("en", "train", data_dir=tmp_path)
    assert str(caught.value).startswith(f"tasks_1-20_v1-2.tar.gz is not in {path.parent}")
    assert f"curl --fail --location --create-dirs --output {path} http" in str(caught.value)

    write_babi(tmp_path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>404</html>", b"", whole[:300] + b"x" + whole[301:]):
        path.write_bytes(content)
        with pytest.raises(CorruptDataError, match="is not a whole archive") as caught:
            babi("en-valid-10k", "test", data_dir=tmp_path)
        assert str(path) in str(caught.value)


def test_a_file_that_is_not_babi(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.text_data.babi_story", lambda rng, task: "1 Where?\tkitchen\n")
    write_babi(tmp_path)
    with pytest.raises(CorruptDataError, match=r"en/qa1_made-up_train.txt in .*: line 1: "):
        babi("en", "train", data_dir=tmp_path)


# ---- text -----------------------------------------------------------------------------------------------------------


def test_the_forms_of_a_text_file(tmp_path):
    texts = write_wikitext(tmp_path)
    expected = [line.split() for line in texts["valid"].split("\n")[:-1]]
    folder = tmp_path / "wikitext-2"
    assert list(text_lines("wikitext-2", "valid", tmp_path)) == expected
    (folder / "valid.txt.gz").write_bytes(gzip.compress((folder / "valid.txt").read_bytes()))
    (folder / "valid.txt").rename(folder / "wiki.valid.tokens")
    assert list(text_lines("wikitext-2", "valid", tmp_path)) == expected
    (folder / "valid.txt.gz").unlink()
    assert list(text_lines("wikitext-2", "valid", tmp_path)) == expected


def test_other_corpora_are_cut_into_words(tmp_path):
    (tmp_path / "pg19").mkdir()
    (tmp_path / "pg19" / "train.txt").write_text('"It isn\'t," SHE said.\n')
    assert list(text_lines("pg19", "train", tmp_path)) == [['"', "it", "isn't", ",", '"', "she", "said", "."]]


@pytest.mark.parametrize("corpus", ["wikitext-2", "pg19"])
@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz", "wiki.train.tokens"])
def test_a_byte_order_mark_is_no_word(tmp_path, corpus, name):
    folder = tmp_path / corpus
    folder.mkdir()
    content = "\ufeffa b\n\ufeffc\n".encode()  # two files that were joined
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(text_lines(corpus, "train", tmp_path)) == [["a", "b"], ["c"]]


def test_a_file_of_a_byte_order_mark_alone_is_empty(tmp_path):
    write_wikitext(tmp_path)
    (tmp_path / "wikitext-2" / "train.txt").write_bytes("\ufeff".encode())
    with pytest.raises(CorruptDataError, match="is empty"):
        list(text_lines("wikitext-2", "train", tmp_path))


def test_missing_and_damaged_text(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        text_lines("wikitext-103", "train", tmp_path)
    message = str(caught.value)
    assert f"train.txt or train.txt.gz or wiki.train.tokens is not in {tmp_path / 'wikitext-103'}" in message
    assert "curl" in message
    assert "wikitext-103-v1.zip" in message
    with pytest.raises(MissingDataError, match="LDC2011T07"):
        text_lines("gigaword", "train", tmp_path)
    for wrong, message in ((("x", "train"), "corpus: 'x', must be"), (("pg19", "dev"), "split: 'dev', must be one of")):
        with pytest.raises(ValueError, match=message):
            text_lines(*wrong, tmp_path)

    write_wikitext(tmp_path)
    path = tmp_path / "wikitext-2" / "train.txt"
    whole = path.read_bytes()
    for content, message in ((whole[:-3], "its last line has no end"), (b"", "is empty"), (b"\xff\n", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(CorruptDataError, match=message) as caught:
            list(text_lines("wikitext-2", "train", tmp_path))
        assert str(path) in str(caught.value)
    path.unlink()
    packed = gzip.compress(whole)
    for content in (packed[: len(packed) // 2], b"<html>", packed[:60] + b"x" + packed[61:]):
        path.with_name("train.txt.gz").write_bytes(content)
        with pytest.raises(CorruptDataError, match="not a whole gzip file"):
            list(text_lines("wikitext-2", "train", tmp_path))


# ---- through TFDS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tfds(tmp_path, monkeypatch):
    """TFDS in a folder of the test, with a server that has what is put into `tfds.served` (file name to path)."""
    import tensorflow_datasets as tfds

    served = {}

    def download(manager, url):
        served.setdefault("asked", []).append(url)
        return served[url.rsplit("/", 1)[1]]

    class Reply:
        def close(self):
            pass

    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setattr(request, "urlopen", lambda *args, **options: Reply())
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path / "tfds")))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    return served


def test_babi_through_tfds(tfds, tmp_path):
    tfds["tasks_1-20_v1-2.tar.gz"] = write_babi(tmp_path, versions=("en-valid",), stories=1)
    for _ in range(2):
        assert babi("en-valid", "valid", (1, 8)) == babi("en-valid", "valid", (1, 8), tmp_path)
    assert len(tfds["asked"]) == 1


def test_wikitext_through_tfds(tfds, tmp_path):
    texts = write_wikitext(tmp_path)
    tfds["wikitext-2-v1.zip"] = zip_wikitext(tmp_path / "wikitext-2-v1.zip", texts)
    for split in ("train", "valid", "test"):
        assert list(text_lines("wikitext-2", split)) == list(text_lines("wikitext-2", split, tmp_path))
    assert len(tfds["asked"]) == 1


def test_wikitext_with_dots_and_a_byte_order_mark_through_tfds(tfds, tmp_path):
    texts = write_wikitext(tmp_path)
    marked = {split: "\ufeff" + text for split, text in texts.items()}
    tfds["wikitext-2-v1.zip"] = zip_wikitext(tmp_path / "wikitext-2-v1.zip", marked, root="./")
    for split in ("train", "valid", "test"):
        assert list(text_lines("wikitext-2", split)) == list(text_lines("wikitext-2", split, tmp_path))


def test_wikitext_archive_that_lacks_a_file(tfds, tmp_path):
    texts = write_wikitext(tmp_path)
    del texts["valid"]
    tfds["wikitext-2-v1.zip"] = zip_wikitext(tmp_path / "wikitext-2-v1.zip", texts)
    with pytest.raises(CorruptDataError, match=r"wikitext-2/wiki\.valid\.tokens is not in"):
        list(text_lines("wikitext-2", "train"))


def test_wikitext_from_the_manual_folder(tfds, tmp_path):
    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    zip_wikitext(manual / "wikitext-103-v1.zip", {s: wikitext(9) for s in ("train", "valid", "test")}, "wikitext-103")
    assert [" ".join(line) for line in text_lines("wikitext-103", "test")] == [
        " ".join(line.split()) for line in wikitext(9).split("\n")[:-1]
    ]
    assert "asked" not in tfds


def test_gigaword_from_the_manual_folder(tfds, tmp_path):
    with pytest.raises(MissingDataError, match=r"--manual_dir DIR"):
        list(text_lines("gigaword", "train"))
    folder = tmp_path / "tfds" / "downloads" / "manual" / "gigaword_eng_5" / "data" / "afp_eng"
    folder.mkdir(parents=True)
    for month, place in (("201010", "Paris"), ("201011", "Rome"), ("201012", "Oslo")):
        text = f'\ufeff<DOC id="AFP" type="story">\n<HEADLINE>\nNo\n</HEADLINE>\n<TEXT>\n<P>\nIn {place}\nat 5.\n</P>\n'
        text += "<P>\nYes.\n</P>\n</TEXT>\n</DOC>\n"
        (folder / f"afp_eng_{month}.gz").write_bytes(gzip.compress(text.encode()))
    for split, place in (("train", "paris"), ("valid", "rome"), ("test", "oslo")):
        assert list(text_lines("gigaword", split)) == [["in", place, "at", "5", "."], ["yes", "."]]


def test_checksums_are_those_of_the_published_files():
    from tfmem.data.babi import URL as BABI_URL
    from tfmem.data.builders.babi import Babi
    from tfmem.data.builders.text import Wikitext
    from tfmem.data.corpora import WIKITEXT_URLS

    assert set(Babi.url_infos) == {BABI_URL, *WIKITEXT_URLS.values()} == set(Wikitext.url_infos)
    assert Wikitext.url_infos[WIKITEXT_URLS["wikitext-2"]].checksum.startswith("92675f1d")


def test_no_network(tfds, monkeypatch):
    def refuse(*args, **options):
        raise error.URLError("no route to host")

    monkeypatch.setattr(request, "urlopen", refuse)
    for read in (lambda: babi("en", "train"), lambda: list(text_lines("wikitext-2", "train"))):
        with pytest.raises(MissingDataError) as caught:
            read()
        assert "no route to host" in str(caught.value)
        assert DATA_DIR in str(caught.value)
    with pytest.raises(MissingDataError, match="pg19 could not be downloaded"):
        list(text_lines("pg19", "train"))


@pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set")
def test_the_real_files():
    stories = babi("en-10k", "test")
    assert sum(len(line.answer) > 0 for story in stories for line in story.lines) == 20_000
    root = Path(os.environ[DATA_DIR])
    assert sum(1 for _ in text_lines("wikitext-2", "test", root)) == 4_358
