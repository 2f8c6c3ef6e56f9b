"""bAbI v1.2 for tensorflow-datasets: `tfds.builder("babi/en-valid-10k")` after importing this module."""

import tarfile

import numpy as np
import tensorflow_datasets as tfds

from tfmem.data.babi import URL, VERSIONS, read_babi, splits
from tfmem.data.files import download_or_manual


class Babi(tfds.core.GeneratorBasedBuilder):
    """The 20 tasks of Weston et al. 2015; one example is a story.

    A configuration is a folder of the archive: language or letter-shuffled version, 1,000 or 10,000 training questions,
    with or without a validation split. In an example, `lines` are the story's statements and questions in order;
    `answer` is empty for statements; for questions, its words are separated by commas; `supporting` are line numbers,
    separated by spaces.
    """

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=version, description=f"The archive's folder {version}.") for version in VERSIONS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{URL}, where it cannot be downloaded automatically; not unpacked."

    def _info(self):
        line = {"text": tfds.features.Text(), "answer": tfds.features.Text(), "supporting": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description="bAbI question answering v1.2 (Weston et al. 2015).",
            features=tfds.features.FeaturesDict({"task": np.int32, "lines": tfds.features.Sequence(line)}),
            homepage="https://research.facebook.com/downloads/babi/",
            license="CC BY 3.0",
            citation="@article{weston2015, title={Towards AI-Complete Question Answering: A Set of Prerequisite Toy "
            "Tasks}, author={Weston, Jason and others}, journal={arXiv:1502.05698}, year={2015}}",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        archive = download_or_manual(dl_manager, URL, "archive of bAbI")
        return {split: self._generate_examples(archive, split) for split in splits(self.builder_config.name)}

    def _generate_examples(self, archive, split):
        with tarfile.open(archive) as tar:
            stories = read_babi(tar, self.builder_config.name, split)
        for key, story in enumerate(stories):
            lines = [
                {"text": text, "answer": ",".join(answer), "supporting": " ".join(map(str, supporting))}
                for text, answer, supporting in story.lines
            ]
            yield key, {"task": story.task, "lines": lines}
