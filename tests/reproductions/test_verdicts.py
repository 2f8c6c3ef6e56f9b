"""Verdicts on claims: intervals over seeds, what is missing, results from before there were records, and the table."""

import pytest

from reproductions.claims import Claim, Measured, Side, Until
from reproductions.runs import UsageError
from reproductions.verdicts import COMES_OUT, DOES_NOT, claim_row, claims_table, order, scores, verdict

LOW, MIDDLE, HIGH, WIDE = [0.10, 0.11, 0.12], [0.50, 0.51, 0.52], [0.90, 0.91, 0.92], [0.0, 0.5, 1.0]


def claim(**changes):
    sides = {"ahead": (Side("A", "demo_a"),), "behind": (Side("B", "demo_b"),)}
    fields = {"text": "A beats B", "experiment": "toy", "setting": "toy, score", "metric": "score", **sides}
    return Claim(**{**fields, "lower_is_better": False, **changes})


def record(seed, updates=100, curves=None, **ours):
    return {"experiment": "toy", "seeds": [seed], "updates": updates, "ours": ours, "curves": curves or {}}


@pytest.mark.parametrize(
    ("first", "second", "lower_is_better", "expected"),
    [
        ((2, 3), (0, 1), False, 1),
        ((2, 3), (0, 1), True, -1),
        ((0, 1), (2, 3), False, -1),
        ((0, 1), (2, 3), True, 1),
        ((0, 2), (1, 3), False, 0),
        ((1, 1), (1, 1), True, 0),
    ],
)
def test_order_of_intervals(first, second, lower_is_better, expected):
    assert order(first, second, lower_is_better) == expected


@pytest.mark.parametrize(
    ("a", "b", "lower_is_better", "expected"),
    [
        (HIGH, LOW, False, COMES_OUT),
        (HIGH, LOW, True, DOES_NOT),
        (LOW, HIGH, False, DOES_NOT),
        (LOW, HIGH, True, COMES_OUT),
        (HIGH, WIDE, False, "not decided: intervals overlap"),
        (HIGH, [0.1], False, "not decided: one seed of B"),
        (HIGH, [], False, "not decided: no run of B"),
        ([0.9], [], False, "not decided: no run of B; one seed of A"),
        ([0.9], [0.1], False, "not decided: one seed of A, B"),
    ],
)
def test_verdict_of_two_sides(a, b, lower_is_better, expected):
    assert verdict(claim(lower_is_better=lower_is_better), {"A": a, "B": b}) == expected


@pytest.mark.parametrize(
    ("b", "c", "expected"),
    [
        (LOW, LOW, COMES_OUT),
        (LOW, WIDE, "not decided: intervals overlap"),
        (LOW, HIGH, DOES_NOT),
        (HIGH, [], DOES_NOT),  # one comparison is enough to contradict
        (LOW, [], "not decided: no run of C"),
    ],
)
def test_all_comparisons_count(b, c, expected):
    several = claim(behind=(Side("B", "demo_b"), Side("C", "demo_c")))
    assert verdict(several, {"A": MIDDLE, "B": b, "C": c}) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (LOW, HIGH, COMES_OUT),
        (LOW, LOW, DOES_NOT),
        (HIGH, HIGH, DOES_NOT),
        (WIDE, HIGH, "not decided: an interval includes the bound"),
        (LOW, [0.9], "not decided: one seed of B"),
    ],
)
def test_a_bound_separates_what_solves_a_task(a, b, expected):
    assert verdict(claim(lower_is_better=True, solved=0.3), {"A": a, "B": b}) == expected


def test_a_bound_needs_no_other_side():
    alone = claim(lower_is_better=True, solved=0.3, behind=())
    assert verdict(alone, {"A": LOW}) == COMES_OUT
    assert verdict(alone, {"A": HIGH}) == DOES_NOT


def test_earlier_scores_count_until_two_seeds_are_recorded():
    side = Side("A", "demo_a", {1: 0.1, 2: 0.2})
    assert scores(claim(), side, {}) == ({1: 0.1, 2: 0.2}, [1, 2])
    found = {"demo_a": [record(1, score=0.7)], "demo_a, width=3": [record(2, score=0.9)]}
    assert scores(claim(), side, found) == ({1: 0.7, 2: 0.2}, [2])
    found["demo_a"].append(record(3, score=0.8))
    assert scores(claim(), side, found) == ({1: 0.7, 3: 0.8}, [])


def test_a_side_may_have_a_score_of_its_own():
    found = {"demo": [record(1, first=0.9, last=0.4)]}
    assert scores(claim(metric="first"), Side("last", "demo", metric="last"), found)[0] == {1: 0.4}


def test_updates_until_a_curve_is_below_a_bound():
    curve = {"train/error": [[10, 1.0, 0.9], [20, 2.0, 0.1], [30, None, 0.04], [40, 4.0, 0.2]]}
    found = {"demo_a": [record(1, curves=curve), record(2, curves={"train/error": curve["train/error"][:2]})]}
    until = claim(metric=Until("train/error", 0.05))
    assert scores(until, until.ahead[0], found)[0] == {1: 30, 2: 100}


@pytest.mark.parametrize(("metric", "known"), [("eror", "error"), (Until("train/eror", 0.1), "train/error")])
def test_an_unknown_score_is_refused(metric, known):
    found = {"demo_a": [record(1, error=0.1, curves={"train/error": [[1, 1.0, 0.5]]})]}
    with pytest.raises(UsageError, match=f"eror' of toy, must be one of {known}"):
        claim_row(claim(metric=metric), found)


def test_rows():
    sides = {"ahead": (Side("A", "demo_a"),), "behind": (Side("B", "demo_b", {1: 0.1, 2: 0.1, 3: 0.1}),)}
    found = {"demo_a": [record(seed, score=0.9) for seed in (1, 2)]}
    row = claim_row(claim(**sides), found)
    assert row == ("A beats B", "toy, score", "A 0.9 ± 0; B 0.1 ± 0 (not recorded)", "2; 3", COMES_OUT)
    found["demo_b"] = [record(3, score=0.1)]
    assert claim_row(claim(**sides), found)[2] == "A 0.9 ± 0; B 0.1 ± 0 (seeds 1, 2 not recorded)"
    found["demo_b"].append(record(4, score=0.1))
    assert claim_row(claim(**sides), found)[2:4] == ("A 0.9 ± 0; B 0.1 ± 0", "2")
    assert claim_row(claim(), {})[2:] == ("", "", "not decided: no run of A, B")


def test_an_earlier_result_in_words_leaves_with_the_records():
    found = {"demo_a": [record(seed, score=0.9) for seed in (1, 2)], "demo_b": [record(1, score=0.1)]}
    words = claim(earlier="B was slower")
    assert claim_row(words, found)[2] == "A 0.9 ± 0; B 0.1; B was slower (not recorded)"
    found["demo_b"].append(record(2, score=0.1))
    assert claim_row(words, found)[2] == "A 0.9 ± 0; B 0.1 ± 0"


def test_the_bound_is_in_the_setting():
    assert claim_row(claim(solved=0.05, lower_is_better=True), {})[1] == "toy, score; solved below 0.05"
    assert claim_row(claim(solved=0.9), {})[1] == "toy, score; solved above 0.9"


def test_the_table_has_measurements_and_headings(tmp_path):
    measured = Measured(text="is fast", setting="a step", result="0.5 s", verdict=COMES_OUT, page="docs/a.md#cost")
    assert claims_table(tmp_path, {"multigrid": (claim(), measured)})[2:] == [
        "| **[Multigrid Neural Memory](../reproductions/multigrid/README.md)** |  |  |  |  |",
        "| A beats B | toy, score |  |  | not decided: no run of A, B |",
        "| is fast | a step | 0.5 s ([measured](../docs/a.md#cost)) |  | comes out |",
    ]
