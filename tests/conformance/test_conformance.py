"""Every core has every property, and every core is in the table."""

from pathlib import Path

import pytest

import tfmem.cores
from tests.conformance.descriptors import EXEMPT, ROWS, all_cores, core_class, is_core
from tests.conformance.properties import PROPERTIES

ROWS_BY_NAME = {row.name: row for row in ROWS}
COMPILED = {"graph", "XLA", "StableHLO", "conventions", "threads", "batch of state", "frozen", "hand"}
# Each is a property of the unrolling and the wrappers more than of a core.
OF_FEW = {"StableHLO", "threads", "batch of state"}
FEW = {"RelationalMemory", "DNC", "LSTM", "ConvLSTM", "KanervaCore"}
TESTS = Path(__file__).parents[1]


def cases():
    """All properties of all rows; where functions are compiled, `make long` has the second rows, and more."""
    for prop in PROPERTIES:
        seen = set()
        for row in ROWS:
            core = row.name.partition(":")[0]
            later = core in seen or (prop in OF_FEW and core not in FEW)
            marks = [pytest.mark.long if later else pytest.mark.slow] if prop in COMPILED else []
            yield pytest.param(row.name, prop, marks=marks)
            seen.add(core)


@pytest.mark.parametrize(("name", "prop"), list(cases()))
def test_property(name, prop):
    PROPERTIES[prop](ROWS_BY_NAME[name])


def test_the_table_is_complete():
    in_table = {core_class(row) for row in ROWS if row.proof is not None}
    assert len(ROWS_BY_NAME) == len(ROWS)
    assert in_table | set(EXEMPT) == all_cores()
    assert not in_table & set(EXEMPT)
    public = {getattr(tfmem.cores, name) for name in getattr(tfmem.cores, "__all__", ())}
    assert {value for value in public if is_core(value)} <= in_table


def test_every_core_is_compared_with_something():
    for row in ROWS:
        assert row.proof is None or (TESTS / row.proof).exists(), f"{row.name}: tests/{row.proof} is not there"
        assert row.proof is not None or row.create().__module__ == "tests.conformance.toys", row.name
