"""Text corpora for tensorflow-datasets: WikiText-2 and -103, and GigaWord v5 from the files of its licence holders.

Importing this module registers `tfds.builder("wikitext/wikitext-2")`, `"wikitext/wikitext-103"` and `"gigaword_v5"`.
"""

import gzip
import re
import zipfile

import tensorflow_datasets as tfds

from tfmem.data.corpora import SPLITS, WIKITEXT_URLS, wikitext_file_names
from tfmem.data.files import CorruptDataError, MissingDataError, decoded_lines, download_or_manual, members_by_path


class Wikitext(tfds.core.GeneratorBasedBuilder):
    """WikiText at the level of words (Merity et al. 2016); one example is a line, in the order of the file."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"{name}, rare words replaced by <unk>.")
        for name in WIKITEXT_URLS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"{' or '.join(WIKITEXT_URLS.values())}, where it cannot be downloaded automatically; not unpacked."
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="WikiText language modelling (Merity et al. 2016).",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage="https://arxiv.org/abs/1609.07843",
            license="CC BY-SA 3.0",
            citation="@article{merity2016, title={Pointer Sentinel Mixture Models}, author={Merity, Stephen and "
            "others}, journal={arXiv:1609.07843}, year={2016}}",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        archive = download_or_manual(dl_manager, WIKITEXT_URLS[self.builder_config.name], self.builder_config.name)
        return {split: self._generate_examples(archive, split) for split in SPLITS}

    def _generate_examples(self, archive, split):
        path = f"{self.builder_config.name}/{wikitext_file_names(split)[-1]}"
        with zipfile.ZipFile(archive) as file:
            members = members_by_path(file.namelist())
            if path not in members:
                raise CorruptDataError(f"{path} is not in {archive}. Get the archive again.")
            with file.open(members[path]) as stream:
                for key, line in enumerate(decoded_lines(stream)):
                    yield key, {"text": line.rstrip("\n")}


# Months of the test and validation splits; the rest is for training. Not specified; we use the last two.
GIGAWORD_TEST, GIGAWORD_VALID = "201012", "201011"


class GigawordV5(tfds.core.GeneratorBasedBuilder):
    """English GigaWord, fifth edition (LDC2011T07); one example is a paragraph of an article, in the files' order.

    The corpus is sold by the LDC. The last month (December 2010) is the test split, the month before the validation
    split. Not specified; we use these.
    """

    VERSION = tfds.core.Version("5.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The folder gigaword_eng_5 of LDC2011T07 (https://catalog.ldc.upenn.edu/LDC2011T07, for a licence fee) as it "
        "is on its disks: gigaword_eng_5/data/<source>/<source>_<year><month>.gz."
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="English GigaWord, fifth edition, paragraphs of all articles.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage="https://catalog.ldc.upenn.edu/LDC2011T07",
            license="LDC",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        try:
            files = sorted(dl_manager.manual_dir.glob("gigaword_eng_5/data/*/*.gz"))
        except AssertionError:  # TFDS: there is no such folder, or it is empty
            files = []
        if not files:
            raise MissingDataError(
                f"gigaword_eng_5/data/<source>/<source>_<year><month>.gz is not in the manual folder of "
                f"tensorflow-datasets. {self.MANUAL_DOWNLOAD_INSTRUCTIONS} Put it there, or give another with\n"
                "    tfds build gigaword_v5 --imports tfmem.data.builders.text --manual_dir DIR"
            )

        def split(file):
            month = re.search(r"_(\d{6})\.gz$", file.name)
            if month is None:
                raise CorruptDataError(f"{file} is not named <source>_<year><month>.gz, as GigaWord's files are")
            return {GIGAWORD_TEST: "test", GIGAWORD_VALID: "valid"}.get(month[1], "train")

        splits = {name: [f for f in files if split(f) == name] for name in SPLITS}
        return {name: self._generate_examples(files) for name, files in splits.items()}

    def _generate_examples(self, files):
        key = 0
        for file in files:
            try:
                text = gzip.decompress(file.read_bytes()).decode("utf-8-sig")
            except (OSError, EOFError, UnicodeDecodeError) as error:
                raise CorruptDataError(f"{file} is not a whole gzip file of UTF-8 text ({error})") from error
            for paragraph in re.findall(r"<P>(.*?)</P>", text, re.DOTALL):
                yield key, {"text": " ".join(paragraph.split())}
                key += 1
