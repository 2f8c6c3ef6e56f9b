"""Corpora of text at the level of words, WikiText (Merity et al. 2016), PG-19 and GigaWord: their files and words."""

import gzip
import re
import zlib
from pathlib import Path

from tfmem.data.files import DATA_DIR, CorruptDataError, MissingDataError, curl, decoded_lines

WIKITEXT_URLS = {
    name: f"https://s3.amazonaws.com/research.metamind.io/wikitext/{name}-v1.zip"
    for name in ("wikitext-2", "wikitext-103")
}
PG19_URL = "https://storage.googleapis.com/deepmind-gutenberg/metadata.csv"
CORPORA = (*WIKITEXT_URLS, "pg19", "gigaword")
SPLITS = ("train", "valid", "test")
_WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def wikitext_file_names(split):
    """Names that the text of a split may have in a data folder, in the order in which they are looked for."""
    return f"{split}.txt", f"{split}.txt.gz", f"wiki.{split}.tokens"


def find_file(folder, corpus, split):
    """The file of a split in the folder of a corpus.

    Raises:
        MissingDataError: it is not there.
    """
    for name in wikitext_file_names(split):
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise MissingDataError(_missing(corpus, split, Path(folder)))


def _missing(corpus, split, folder):
    names = " or ".join(wikitext_file_names(split))
    if corpus in WIKITEXT_URLS:
        url = WIKITEXT_URLS[corpus]
        archive = folder.parent / url.rsplit("/", 1)[1]
        how = f"Get it with\n    {curl(archive, url)} && unzip {archive} -d {folder.parent}"
    elif corpus == "pg19":
        how = "Join the books of gs://deepmind-gutenberg, one paragraph a line"
    else:
        how = "It is LDC2011T07, for a licence fee: https://catalog.ldc.upenn.edu/LDC2011T07"
    return (
        f"{names} is not in {folder} (the folder that {DATA_DIR} or data_dir names). {how}\nor unset {DATA_DIR} "
        f"to take it from tensorflow-datasets."
    )


def read_lines(path):
    """The lines of a text, plain or gzipped: an iterator of strings with their ends.

    Raises:
        CorruptDataError: a file that is cut off, damaged, empty, or not UTF-8.
    """
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


def words(corpus, line):
    """The words of a line: WikiText's are separated by spaces; others are lower-cased, punctuation marks are words."""
    return line.split() if corpus in WIKITEXT_URLS else _WORDS.findall(line.lower())
