"""Tiny data sets in the published formats of bAbI and WikiText."""

import io
import tarfile
import zipfile

import numpy as np

BABI_NAMES = {split: f"_made-up_{split}.txt" for split in ("train", "test")} | {"valid": "_valid.txt"}


def babi_story(rng, task):
    """A story of two statements and two questions; task 8 answers with lists."""
    people, places = ["Mary", "John"], ["kitchen", "garden", "hallway"]
    first, second = (f"{rng.choice(people)} went to the {rng.choice(places)}." for _ in range(2))
    rows = [f"1 {first}"]
    for number, support in ((2, "1"), (4, "1 3")):
        answer = "kitchen,garden" if task == 8 else rng.choice(places)
        rows += [f"{number} Where is {rng.choice(people)}? \t{answer}\t{support}"]
        rows += [f"3 {second}"] if number == 2 else []
    return "\n".join(rows) + "\n"


def write_babi(data_dir, tasks=range(1, 21), versions=("en", "en-valid", "en-valid-10k"), stories=3, seed=0, root=""):
    """data_dir/babi/tasks_1-20_v1-2.tar.gz with `stories` stories in each file, below `root`; returns its path."""
    rng = np.random.default_rng(seed)
    path = data_dir / "babi" / "tasks_1-20_v1-2.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for version in versions:
            for task in tasks:
                for split in ("train", "valid", "test") if "valid" in version else ("train", "test"):
                    content = "".join(babi_story(rng, task) for _ in range(stories)).encode()
                    member = tarfile.TarInfo(f"{root}tasks_1-20_v1-2/{version}/qa{task}{BABI_NAMES[split]}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return path


def wikitext(lines, seed=0):
    rng = np.random.default_rng(seed)
    letters = [f"w{n}" for n in range(12)] + ["<unk>"]
    return "".join(f" {' '.join(rng.choice(letters, rng.integers(0, 9)))} \n" for _ in range(lines))


def write_wikitext(data_dir, corpus="wikitext-2"):
    """data_dir/<corpus>/{train,valid,test}.txt; returns their texts by split."""
    folder = data_dir / corpus
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        split: wikitext(lines, seed)
        for seed, (split, lines) in enumerate({"train": 90, "valid": 30, "test": 40}.items())
    }
    for split, text in texts.items():
        (folder / f"{split}.txt").write_text(text)
    return texts


def zip_wikitext(path, texts, corpus="wikitext-2", root=""):
    """The published archive, its members below `root`: <corpus>/wiki.<split>.tokens."""
    with zipfile.ZipFile(path, "w") as archive:
        for split, text in texts.items():
            archive.writestr(f"{root}{corpus}/wiki.{split}.tokens", text)
    return path
