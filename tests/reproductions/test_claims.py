"""The claims as data: they name experiments, presets and pages that exist."""

import re

import pytest

from reproductions import experiment_modules
from reproductions.catalog import entry
from reproductions.claims import CLAIMS, Claim, Measured
from reproductions.records import ROOT

CLAIMED = [(paper, claim) for paper, claims in CLAIMS.items() for claim in claims]


def test_texts_differ():
    texts = [(paper, claim.text) for paper, claim in CLAIMED]
    assert len({*texts}) == len(texts)


@pytest.mark.parametrize(
    ("paper", "claim"),
    [pytest.param(paper, claim, id=claim.text) for paper, claim in CLAIMED if isinstance(claim, Claim)],
)
def test_a_claim_compares_presets_of_its_experiment(paper, claim):
    modules = experiment_modules()
    presets = entry(f"{paper}/{claim.experiment}", modules[f"{paper}/{claim.experiment}"]).presets
    sides = (*claim.ahead, *claim.behind)
    for side in sides:
        assert {"…", side.setting.partition(",")[0]} & {*presets}, side
    assert len({side.label for side in sides}) == len(sides)
    assert len({(side.setting, side.metric) for side in sides}) == len(sides)
    assert claim.ahead
    assert claim.behind or claim.solved is not None


@pytest.mark.parametrize("claim", [claim for _, claim in CLAIMED if isinstance(claim, Measured)], ids=lambda x: x.text)
def test_the_page_of_a_measurement_names_its_command_and_has_the_numbers(claim):
    path, _, anchor = claim.page.partition("#")
    page = (ROOT.parent / path).read_text("utf-8")
    section = re.split(rf"^## {anchor.replace('-', ' ')}$", page, flags=re.MULTILINE | re.IGNORECASE)[1]
    section = section.partition("\n## ")[0]
    assert "`python benchmarks/" in section
    numbers = re.findall(r"\d+\.\d+", claim.result)
    assert numbers
    assert [number for number in numbers if number not in section] == []
