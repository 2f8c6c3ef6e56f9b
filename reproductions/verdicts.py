"""Verdicts on the papers' claims from recorded results: the table of docs/results.md."""

import importlib

from tfmem import plotting

from .claims import CLAIMS, Measured, Until
from .records import ROOT, records
from .report import markdown, mean
from .runs import UsageError

COMES_OUT, DOES_NOT, NOT_DECIDED = "comes out", "does not", "not decided"
HEAD = ("claim", "setting", "result", "seeds", "verdict")


def recorded_score(content, metric):
    """Return one record's score.

    Args:
      content: of the record.
      metric: a name in result.json, or an `Until`.

    Raises:
      UsageError: the record has no such score or curve.
    """
    part, name = ("curves", metric.column) if isinstance(metric, Until) else ("ours", metric)
    if name not in content[part]:
        known = ", ".join(sorted(content[part]))
        raise UsageError(f"claims: {name!r} of {content['experiment']}, must be one of {known}")
    if part == "ours":
        return content["ours"][name]
    reached = (update for update, _, value in content["curves"][name] if value < metric.bound)
    return next(reached, content["updates"])


def scores(claim, side, found):
    """Scores of a side, `{seed: score}`, and the seeds among them that are not recorded.

    Args:
      claim, side: a `Claim` and one of its `Side`s.
      found: as from `records`.
    """
    metric = side.metric or claim.metric
    recorded = {content["seeds"][0]: recorded_score(content, metric) for content in found.get(side.setting, [])}
    if len(recorded) >= 2:
        return recorded, []
    return dict(sorted({**side.earlier, **recorded}.items())), sorted({*side.earlier} - {*recorded})


def interval(values):
    """Ends of the 90 % confidence interval of a mean over seeds (Student's t)."""
    middle, half = plotting.mean_and_confidence(values)
    return middle - half, middle + half


def order(first, second, lower_is_better):
    """1 where one interval is better than another, -1 where it is worse, 0 where they overlap."""
    (low, high), (other_low, other_high) = first, second
    sign = -1 if lower_is_better else 1
    return sign if low > other_high else -sign if high < other_low else 0


def verdict(claim, values):
    """Compare the sides of a claim.

    A claim comes out where the intervals of each comparison are apart in its direction, and does not where those of one
    are apart in the other direction. Otherwise, or where a side has fewer than two seeds, it is not decided.

    A side of a claim with a bound (`solved`) is compared with that bound, not with the other sides.

    Args:
      claim: a `Claim`.
      values: `{label of a side: its scores}`.

    Returns:
      COMES_OUT, DOES_NOT, or NOT_DECIDED with the reason.
    """
    reasons = []
    for count, text in enumerate(("no run of", "one seed of")):
        labels = [label for label, of_side in values.items() if len(of_side) == count]
        reasons += [f"{text} {', '.join(labels)}"] if labels else []
    ahead, behind = (
        [interval(values[side.label]) for side in sides if len(values[side.label]) > 1]
        for sides in (claim.ahead, claim.behind)
    )
    if claim.solved is None:
        pairs, overlap = [(one, other) for one in ahead for other in behind], "intervals overlap"
    else:
        bound, overlap = (claim.solved, claim.solved), "an interval includes the bound"
        pairs = [*((one, bound) for one in ahead), *((bound, other) for other in behind)]
    orders = [order(*pair, claim.lower_is_better) for pair in pairs]
    if -1 in orders:
        return DOES_NOT
    if not reasons and 0 not in orders:
        return COMES_OUT
    return f"{NOT_DECIDED}: {'; '.join(reasons) or overlap}"


def claim_row(claim, found):
    """Cells of a claim's row, in the order of HEAD.

    Args:
      claim: a `Claim`.
      found: the records of its experiment, as from `records`.
    """
    values, results, seeds, few = {}, [], [], False
    for side in (*claim.ahead, *claim.behind):
        by_seed, unrecorded = scores(claim, side, found)
        values[side.label] = [*by_seed.values()]
        few |= len(by_seed) - len(unrecorded) < 2
        if by_seed:
            plural = "s" * (len(unrecorded) > 1)
            which = "" if len(unrecorded) == len(by_seed) else f"seed{plural} {', '.join(map(str, unrecorded))} "
            results.append(f"{side.label} {mean(values[side.label])}" + f" ({which}not recorded)" * bool(unrecorded))
            seeds.append(str(len(by_seed)))
    if few and claim.earlier:
        results.append(f"{claim.earlier} (not recorded)")
    solved = (
        "" if claim.solved is None else f"; solved {'below' if claim.lower_is_better else 'above'} {claim.solved:g}"
    )
    seeds = seeds[:1] if len({*seeds}) == 1 else seeds
    return claim.text, claim.setting + solved, "; ".join(results), "; ".join(seeds), verdict(claim, values)


def claims_table(root=ROOT, claims=None):
    """Make the lines of the table: a heading for each paper, a row for each claim.

    Args:
      root: folder of the papers' folders.
      claims: `{paper: its claims}`; default: `CLAIMS`.
    """
    lines = [markdown(HEAD), markdown(["---"] * len(HEAD))]
    for paper, rows in (CLAIMS if claims is None else claims).items():
        title = importlib.import_module(f".{paper}", __package__).__doc__.partition(" (")[0]
        lines.append(markdown((f"**[{title}](../reproductions/{paper}/README.md)**", "", "", "", "")))
        for claim in rows:
            if isinstance(claim, Measured):
                cells = claim.text, claim.setting, f"{claim.result} ([measured](../{claim.page}))", "", claim.verdict
            else:
                cells = claim_row(claim, records(f"{paper}/{claim.experiment}", root))
            lines.append(markdown(cells))
    return lines
