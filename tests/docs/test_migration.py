"""The migration page names every argument of the class that a section is about."""

import inspect
import re
from pathlib import Path

import pytest

from tfmem import cores, models
from tfmem.cores.dnc import MemoryAccess

PAGE = (Path(__file__).parents[2] / "docs/guides/migrate.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
CLASSES = {
    "RelationalMemory": cores.RelationalMemory,
    "LSTM": cores.LSTM,
    "DNC": cores.DNC,
    "MemoryAccess": MemoryAccess,
    "LocalizationModel": models.LocalizationModel,
    "MNISTRecallModel": models.MNISTRecallModel,
    "ConvLSTM": cores.ConvLSTM,
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_named(name):
    arguments = inspect.signature(CLASSES[name].__init__).parameters.values()
    wanted = {a.name for a in arguments if a.kind is not a.VAR_KEYWORD} - {"self"}
    assert wanted - set(re.findall(r"`(\w+)[`=]", SECTIONS[name])) == set()


def test_every_section_of_a_class_is_tested():
    assert set(SECTIONS) - {"Constants"} == set(CLASSES)
