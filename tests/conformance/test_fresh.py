"""Every core has every property of a fresh process."""

import pytest

from tests.conformance.descriptors import ROWS
from tests.conformance.fresh import FRESH, results


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in ROWS])
@pytest.mark.parametrize("prop", [pytest.param(p, marks=pytest.mark.long) if p == "two replicas" else p for p in FRESH])
def test_property_in_a_fresh_process(name, prop):
    assert results(prop)[name] == "ok"
