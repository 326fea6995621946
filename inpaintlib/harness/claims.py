"""What the sources claim and what this study says of it: ``results/claims.csv``, and ``claims.md`` rendered from it.

A study's sweep file lists its claims. Each has ``id``, ``source``, ``place`` (section, figure or table; not needed for
our own), ``statement``, ``metric``, ``test`` with the test's own keys, and may have ``published`` (a number),
``headline``, ``by_construction`` (why it cannot fail), ``note`` (said where the verdict contradicts the source) and
``family`` (``published``, or ``ours``: claims of our own, a family apart for Holm's correction).

==============  ========================================================================================================
``greater``     arm ``a`` has more of the metric than arm ``b`` (``less``: less), by more than ``above`` (0), paired by
                seed; ``relative``: (a - b) / b; ``same_pixels: false`` where test sets differ in resolution
``equal``       arms ``a`` and ``b`` differ by less than ``within``
``increasing``  the metric rises (``decreasing``: falls) with the parameter ``by``, in the runs ``where``
``figure``      the metric ``where`` is within ``within`` of ``published``, on the photos of ``dataset`` only
``exceeds``     the metric ``where`` exceeds another metric of the same runs, ``minus``, by more than ``above``
``spread``      the metric's standard deviation over seeds (``relative``: over its mean) exceeds ``above``, ``where``
``reorders``    the metric ranks the arms of a seed more unlike the ``other`` metric than unlike itself in other seeds
``declines``    the best look in training exceeds the last by over ``above``, ``where``
``correlates``  Spearman's rho over photos of the metric and the column ``with`` has the sign ``sign``, ``where``
``wins``        arm ``a`` beats ``b`` (``better: higher`` or ``lower``) on more than the fraction ``above`` of photos
``untestable``  cannot be computed: ``why``
==============  ========================================================================================================

Arms are parameters with their values, such as ``{arm: ratio, ratio: 1000}``; ``{fill: Telea}`` is the trivial fill on
the same test set; columns of per_image select photos. A comparison must hold for ``each`` value of such columns.

A verdict takes p < .05 after Holm's correction within its family (study, preset, data set): ``reproduced`` on the
claimed side, ``contradicted`` on the other, else ``undecided``, with the smallest distance that so many seeds would
have shown (``detectable``) and how many would decide. Equality is tested by two one-sided tests; the other side is
wholly outside the margin. For ``each``, p is the largest over the cells, or, opposed, the smallest times their number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import lock, write_atomically
from inpaintlib.harness import statistics, sweep, tables
from inpaintlib.harness.parameters import did_you_mean
from inpaintlib.harness.tables import Results

COLUMNS = ["id", "source", "place", "statement", "metric", "direction", "published", "ours", "ci_low", "ci_high", "p",
           "p_adjusted", "detectable", "seeds_needed", "published_inside", "wins", "cells", "below_trivial", "family",
           "headline", "n_seeds", "n_photos", "n_pictures", "test_set", "dataset", "preset", "study", "verdict", "why",
           "computed", "command"]  # fmt: skip
NUMBERS = ["published", "ours", "ci_low", "ci_high", "p", "p_adjusted", "detectable", "seeds_needed", "wins", "n_seeds",
           "n_photos", "n_pictures"]  # fmt: skip
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"
BY_CONSTRUCTION, NOT_TESTED = "by construction", "not tested"
VERDICTS = [REPRODUCED, CONTRADICTED, UNDECIDED, BY_CONSTRUCTION, NOT_TESTED]
FAMILIES, MIN_SEEDS = ["published", "ours"], 3
COMMON = {"published", "headline", "by_construction", "note", "family", "place"}
PAIR = {"above", "each", "same_pixels", "relative"}
TESTS = {  # the keys that a test needs, and may have
    "greater": ({"a", "b"}, PAIR), "less": ({"a", "b"}, PAIR), "equal": ({"a", "b", "within"}, PAIR - {"above"}),
    "increasing": ({"by"}, {"where"}), "decreasing": ({"by"}, {"where"}),
    "figure": ({"where", "published", "within"}, {"dataset"}), "exceeds": ({"where", "minus"}, {"above"}),
    "spread": ({"where", "above"}, {"relative"}), "reorders": ({"other"}, {"where"}),
    "declines": ({"where"}, {"above"}), "correlates": ({"where", "with", "sign"}, set()),
    "wins": ({"a", "b", "above", "better"}, {"same_pixels"}), "untestable": ({"why"}, {"metric"}),
}  # fmt: skip
DIRECTION = {"figure": "equal", "untestable": ""} | {
    kind: kind for kind in ("increasing", "decreasing", "less", "equal")
}


class NotTested(BadInput):
    """Why a claim has no verdict."""


@dataclass(frozen=True)
class Outcome:
    """A value with its 95 % interval over ``seeds``, and the p-value of the side it lies on: 1 is the claimed one.
    ``power(alpha)`` is (detectable distance, seeds needed); ``wins`` the chance that a training of a beats one of b."""

    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    side: int = 1
    seeds: int = 0
    power: Callable[[float], tuple[float, float]] = lambda alpha: (math.nan, math.nan)
    wins: float = math.nan
    cells: str = ""
    why: str = ""

    def judge(self, p: float) -> str:
        if math.isnan(p):
            return NOT_TESTED
        return UNDECIDED if p >= statistics.ALPHA else REPRODUCED if self.side > 0 else CONTRADICTED

    @property
    def verdict(self) -> str:
        """The verdict of this test alone, without a correction for others."""
        return self.judge(self.p)


def check(study: str, claim: dict) -> dict:
    """The claim, if it has the keys of its test and no others; BadInput names the sweep file, the id and the key."""
    if not isinstance(claim, dict):
        raise BadInput(f"notebooks/sweeps/{study}.yaml: a claim must be a mapping of keys to values, not {claim!r}.")
    where, kind = f"notebooks/sweeps/{study}.yaml: claim {claim.get('id', claim)}", claim.get("test")
    if "test" in claim and kind not in TESTS:
        raise BadInput(f"{where}: there is no test {kind!r}; choose from {', '.join(TESTS)}.")
    needed, optional = TESTS.get(kind, (set(), set()))
    needed = {"id", "source", "statement", "test"} | needed | ({"metric"} if kind != "untestable" else set())
    if family(claim) == "published":
        needed |= {"place"}
    if missing := sorted(needed - set(claim)):
        raise BadInput(f"{where} has no {missing[0]}.")
    if unknown := sorted(set(claim) - needed - optional - COMMON):
        raise BadInput(f"{where}: {unknown[0]!r} does not belong to the test {kind}.")
    for key in ("within", "above", "published"):
        if key in claim and (isinstance(claim[key], bool) or not isinstance(claim[key], int | float)):
            raise BadInput(f"{where}: {key} must be a number, not {claim[key]!r}.")
    if claim.get("within", 1) <= 0 or (kind == "spread" and claim["above"] <= 0):
        raise BadInput(f"{where}: a margin must be above 0, not {claim.get('within', claim.get('above'))}.")
    for key in ("a", "b", "where"):
        if not isinstance(claim.get(key, {}), dict):
            raise BadInput(f"{where}: {key} must be parameters with their values, not {claim[key]!r}.")
    if not all(isinstance(name, str) for name in claim.get("each", [])) or isinstance(claim.get("each"), str):
        raise BadInput(f"{where}: each must be a list of columns of per_image, not {claim['each']!r}.")
    for key, allowed in (("family", FAMILIES), ("sign", [1, -1]), ("better", ["higher", "lower"])):
        if key in claim and claim[key] not in allowed:
            raise BadInput(f"{where}: {key} must be one of {', '.join(map(str, allowed))}, not {claim[key]!r}.")
    return claim


def family(claim: dict) -> str:
    return claim.get("family", "ours" if claim.get("source") in ("ours", "audit") else "published")


# Testing --------------------------------------------------------------------------------------------------------------


def test(claim: dict, results: Results) -> Outcome:
    """Applies a claim's test to the finished runs of a preset; ``not tested`` says in ``why`` what is missing."""
    try:
        results = divided(claim, results)
        return _in_each_cell(claim, results) if "each" in claim else _test(claim, results)
    except NotTested as reason:
        return Outcome(why=str(reason))


def divided(claim: dict, results: Results) -> Results:
    """The results with a row for each part of a run that the claim tells apart: the columns of per_image that it names,
    and those that are also parameters (one run searched for several arms, say)."""
    first = results.photos(results.runs.iloc[0]) if not results.parts else pd.DataFrame(columns=results.parts)
    named = {*claim.get("each", []), *filter(None, [claim.get("by")]), *(n for arm in arms(claim) for n in arm)}
    parts = tuple(n for n in first if n in named or (n in results.parameters and n not in ("seed", "dataset")))
    if not parts or results.parts:
        return results
    if parts not in (kept := results.__dict__.setdefault("divisions", {})):
        kept[parts] = Results(results.study, results.preset, parts)
    return kept[parts]


def arms(claim: dict) -> list[dict]:
    return [claim[key] for key in ("a", "b", "where") if key in claim] or [{}]


def _in_each_cell(claim: dict, results: Results) -> Outcome:
    """The intersection-union test: the claim holds where it holds in every cell."""
    if unknown := [name for name in claim["each"] if name not in results.runs]:
        raise NotTested(f"per_image has no column {unknown[0]!r} to tell cells apart.")
    cells = results.runs[claim["each"]].drop_duplicates().dropna().to_dict("records")
    found = [_test(claim | {"a": claim["a"] | cell, "b": claim["b"] | cell}, results) for cell in cells]
    holds = sum(one.side > 0 and one.p < statistics.ALPHA for one in found)
    opposed = [one for one in found if one.side < 0]
    worst = min(opposed, key=lambda one: one.p) if opposed else max(found, key=lambda one: one.p)
    return replace(worst, p=min(1.0, worst.p * len(found)) if opposed else worst.p, cells=f"{holds} of {len(found)}")


def _test(claim: dict, results: Results) -> Outcome:
    kind, where, above = claim["test"], claim.get("where", {}), claim.get("above", 0.0)
    if kind in ("greater", "less", "equal"):
        return _compare(claim, results)
    if kind == "wins":
        return directional(_won(claim, results), 1, above)
    if kind == "reorders":
        return directional(_disorder(claim, results), 1, 0.0)
    if kind in ("increasing", "decreasing"):
        return _trend(claim, results)
    if kind == "correlates":
        return directional(_correlations(claim, results), claim["sign"], 0.0)
    if kind == "declines":
        return directional(_declines(claim, results), 1, above)
    values = _by_seed(results, claim["metric"], where)
    if kind == "figure":
        return equality(values, claim["published"], claim["within"])
    if kind == "exceeds":
        return directional(values - _by_seed(results, claim["minus"], where), 1, above)
    return _spread(values / (values.mean() if claim.get("relative") else 1.0), above)


def directional(values: np.ndarray, sign: int, above: float = 0.0) -> Outcome:
    """That the seeds' mean, times ``sign``, lies above ``above``."""
    _enough(len(values))
    null = sign * above
    found = statistics.interval(values, null)

    def power(alpha):
        return (statistics.detectable(found.sd, found.n, alpha),
                statistics.seeds_needed(found.mean - null, found.sd, alpha))  # fmt: skip

    return Outcome(found.mean, found.low, found.high, found.p, 1 if sign * found.mean > above else -1, found.n, power)


def equality(values: np.ndarray, target: float, within: float) -> Outcome:
    """That the seeds' mean is within ``within`` of ``target``."""
    _enough(len(values))
    found = statistics.interval(values)
    inside, outside = statistics.tost(values, target - within, target + within)
    room = within - abs(found.mean - target)

    def power(alpha):
        return (statistics.detectable(found.sd, found.n, alpha, sides=1),
                statistics.seeds_needed(room, found.sd, alpha, sides=1))  # fmt: skip

    p, side = (inside, 1) if room > 0 else (outside, -1)
    return Outcome(found.mean, found.low, found.high, p, side, found.n, power)


def _compare(claim: dict, results: Results) -> Outcome:
    a, b = _pair(claim, results)
    ours, theirs = results.values(claim["metric"], a), results.values(claim["metric"], b)
    _measured(results, claim["metric"], np.append(ours, theirs))
    if len(ours) > 1 and not np.ptp(ours) and not np.ptp(theirs) and len(results.parameters):
        raise NotTested("both sides are the same in every seed: nothing was trained or drawn at random.")
    differences = (ours - theirs) / (theirs if claim.get("relative") else 1.0)
    sign = -1 if claim["test"] == "less" else 1
    ahead = np.sign(sign * np.subtract.outer(ours, theirs))
    outcome = (equality(differences, 0.0, claim["within"]) if claim["test"] == "equal" else
               directional(differences, sign, claim.get("above", 0.0)))  # fmt: skip
    return replace(outcome, wins=float((ahead > 0).mean() + (ahead == 0).mean() / 2))


def _pair(claim: dict, results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both arms, one a seed that both have (or one for all, of a trivial fill)."""
    found = [_rows(results, claim[key]) for key in ("a", "b")]
    trained = [rows for rows, key in zip(found, "ab", strict=True) if "fill" not in claim[key]]
    seeds = set.intersection(*(set(rows["seed"]) for rows in trained)) if trained else set()
    found = [rows[rows["seed"].isin(seeds)] if "fill" not in claim[key] else rows
             for rows, key in zip(found, "ab", strict=True)]  # fmt: skip
    _enough(len(seeds))
    same = "test_set" if claim.get("same_pixels", True) else "n_photos"
    if len({*found[0][same], *found[1][same]}) != 1:
        raise NotTested("the arms were measured on different test sets" if same == "test_set" else
                        "the arms were measured on different numbers of photos")  # fmt: skip
    return found[0], found[1]


def _rows(results: Results, arm: dict, single: bool = True) -> pd.DataFrame:
    """An arm's rows, one a seed. Raises NotTested where there are none, or several a seed."""
    described = ", ".join(f"{name} = {value}" for name, value in arm.items())
    if "fill" in arm and arm["fill"] not in tables.FILLS:
        raise NotTested(f"there is no trivial fill {arm['fill']!r}{did_you_mean(arm['fill'], tables.FILLS)}")
    try:
        rows = results.where(**arm)
    except BadInput as error:
        raise NotTested(str(error)) from error
    if rows.empty:
        raise NotTested(f"the trivial fills were not measured on this test set ({described})." if "fill" in arm else
                        _absent(results, arm, described))  # fmt: skip
    if single and rows.duplicated("seed" if "fill" not in arm else "test_set").any():
        varied = [n for n in (*results.parts, *results.parameters) if n != "seed" and rows[n].nunique() > 1]
        raise NotTested(f"several runs of one seed have {described}; name {' and '.join(varied) or 'the runs'} too.")
    return rows


def _absent(results: Results, arm: dict, described: str) -> str:
    """Why there are no rows of an arm."""
    offered = results.offered
    for name, value in arm.items():
        if name in offered and name not in results.parts and value not in offered[name]:
            known = [str(other) for other in offered[name]]
            return f"no run of the study has {name} = {value}{did_you_mean(str(value), known)}"
    return f"the preset {results.preset} has no finished run with {described}."


def _by_seed(results: Results, metric: str, where: dict) -> np.ndarray:
    return _measured(results, metric, results.values(metric, _rows(results, where)))


def _measured(results: Results, metric: str, values: np.ndarray) -> np.ndarray:
    if np.isfinite(values).all():
        return values
    known = sorted({*results.runs.select_dtypes("number"), *results.photos(results.runs.iloc[0])} - {"seed"})
    if metric in known:
        raise NotTested(f"{(~np.isfinite(values)).sum()} of {len(values)} runs did not measure {metric}.")
    raise NotTested(f"these runs did not measure {metric!r}{did_you_mean(metric, known)}")


def _enough(seeds: int) -> None:
    if seeds < MIN_SEEDS:
        raise NotTested(f"{seeds} seed{'s' * (seeds != 1)}; a claim needs {MIN_SEEDS} or more.")


def _trend(claim: dict, results: Results) -> Outcome:
    rows, by, sign = _rows(results, claim.get("where", {}), single=False), claim["by"], claim["test"] == "increasing"
    if by not in rows:
        raise NotTested(f"the runs have no parameter {by!r}{did_you_mean(by, rows)}")
    rows = rows.assign(value=_measured(results, claim["metric"], results.values(claim["metric"], rows)))
    if rows.groupby(["seed", by])["run_id"].nunique().gt(1).any():
        raise NotTested(f"several runs of one seed have the same {by}; name more parameters under where.")
    wide = rows.pivot_table("value", "seed", by).dropna()
    _enough(len(wide))
    if wide.shape[1] < 3:
        raise NotTested(f"{by} has {wide.shape[1]} values; a trend needs 3 or more.")
    found = statistics.trend(wide.to_numpy())
    n, levels = wide.shape

    def power(alpha):
        needed = (statistics.trend_size(1, levels, alpha) / found.rho) ** 2 if found.rho else math.inf
        return statistics.trend_size(n, levels, alpha), math.ceil(needed) if needed < statistics.MAX_SEEDS else math.inf

    why = f"rho of each seed: {', '.join(f'{rho:+.2f}' for rho in found.rhos)}."
    side = 1 if (found.rho > 0) == sign and found.rho else -1
    return Outcome(found.rho, p=found.p, side=side, seeds=n, power=power, why=why)


def _spread(values: np.ndarray, above: float) -> Outcome:
    _enough(len(values))
    found = statistics.spread(values)
    n, p = found.n, statistics.spread_p(found.mean, found.n, above)

    def power(alpha):
        return above * statistics.spread_ratio(n, alpha) - above, statistics.spread_seeds(found.mean, above, alpha)

    return Outcome(found.mean, found.low, found.high, p, 1 if found.mean > above else -1, n, power)


def _disorder(claim: dict, results: Results) -> np.ndarray:
    """(seeds,): 1 - rho of both metrics' ranks of the arms, less the mean 1 - rho of the metric's own ranks in this and
    in each other seed."""
    rows = _rows(results, claim.get("where", {}), single=False)
    varied = [n for n in results.parameters if n in rows and n != "seed" and rows[n].nunique() > 1]
    if not varied:
        raise NotTested("there is one arm alone: it has no rank.")
    wide = []
    for metric in (claim["metric"], claim["other"]):
        values = _measured(results, metric, results.values(metric, rows))
        wide.append(rows.assign(value=values).pivot_table("value", "seed", varied).dropna(axis=1))
    ours, other = wide
    _enough(len(ours))
    if ours.shape[1] < 3:
        raise NotTested(f"{ours.shape[1]} arms have every seed; ranks need 3 or more.")
    between = ours.T.corr("spearman").to_numpy()
    own = (between.sum(1) - 1) / (len(between) - 1)
    return own - ours.corrwith(other, axis=1, method="spearman").to_numpy()


def _correlations(claim: dict, results: Results) -> np.ndarray:
    rhos = []
    for _, row in _rows(results, claim["where"]).iterrows():
        photos = results.photos(row)
        for name in (claim["metric"], claim["with"]):
            if name not in photos:
                raise NotTested(f"per_image has no column {name!r}{did_you_mean(name, photos)}")
        rhos.append(photos[claim["metric"]].corr(photos[claim["with"]], method="spearman"))
    return _measured(results, claim["metric"], np.array(rhos))


def _won(claim: dict, results: Results) -> np.ndarray:
    sign, fractions, (a, b) = 1 if claim["better"] == "higher" else -1, [], _pair(claim, results)
    for i in range(max(len(a), len(b))):
        rows = [results.photos(rows.iloc[min(i, len(rows) - 1)]) for rows in (a, b)]
        if missing := [photos for photos in rows if claim["metric"] not in photos]:
            raise NotTested(f"per_image has no column {claim['metric']!r}{did_you_mean(claim['metric'], missing[0])}")
        ours, theirs = (photos[claim["metric"]].to_numpy(float) for photos in rows)
        fractions.append((sign * (ours - theirs) > 0).mean())
    return np.array(fractions)


def _declines(claim: dict, results: Results) -> np.ndarray:
    name, found = f"test_{claim['metric']}", []
    _rows(results, claim["where"])
    for history in results.histories(**claim["where"]):
        if name not in history:
            raise NotTested(f"history.csv has no column {name!r}{did_you_mean(name, history)}")
        curve = history[name].dropna()
        found.append(curve.max() - curve.iloc[-1])
    return np.array(found)


# Rows -----------------------------------------------------------------------------------------------------------------


def study_rows(study: str, presets: list[str]) -> pd.DataFrame:
    """All rows of a study's claims in these presets, as claims.csv has them. A claim that no preset can say anything
    about, and one that is malformed, has one row without a preset."""
    plan, rows, seen = sweep.load(study), [], set()
    results = {}
    for preset in presets:
        try:
            results[preset] = Results(study, preset)
        except BadInput:  # no runs yet
            continue
    commands = {preset: command(study, preset) for preset in results}
    for claim in plan.claims:
        try:
            check(study, claim)
            if claim["id"] in seen:
                raise BadInput(f"notebooks/sweeps/{study}.yaml: the claim {claim['id']} is there twice.")
        except BadInput as error:
            rows.append(_row(study, claim if isinstance(claim, dict) else {}, Outcome(why=str(error))))
            continue
        seen.add(claim["id"])
        if claim["test"] == "untestable" or not results:
            why = claim.get("why", "no preset has finished runs.")
            rows.append(_row(study, claim, Outcome(why=why)))
            continue
        rows += [row | {"command": commands[preset]} for preset in results for row in _rows_of(claim, results[preset])]
    return tables.as_text(_judged(pd.DataFrame(rows, columns=[*COLUMNS, "outcome", "note"])))[COLUMNS]


def _rows_of(claim: dict, results: Results) -> list[dict]:
    """A claim's rows of one preset, one for each data set among its runs."""
    try:
        parted = divided(claim, results)
        used = _used(claim, parted)
    except NotTested as reason:
        return [_row(results.study, claim, Outcome(why=str(reason)), results)]
    there = [item.parameters.get("dataset") for item in used] or list(parted.runs.get("dataset", [None]))
    datasets = [claim["dataset"]] if "dataset" in claim else list(dict.fromkeys(there))
    rows = []
    for dataset in datasets:
        some = [item for item in used if item.parameters.get("dataset") == dataset]
        of = {key: claim[key] | {"dataset": dataset} for key in ("a", "b", "where") if key in claim}
        if "dataset" in claim and dataset not in there:
            outcome = Outcome(why=f"it is about {dataset}; the runs of {results.preset} saw {', '.join(set(there))}.")
        else:
            why = _incomplete(some, results.states)
            outcome = Outcome(why=why) if why else test(claim | of, results)
        rows.append(_row(results.study, claim | of, outcome, parted, dataset))
    return rows


def _used(claim: dict, results: Results) -> list[sweep.Planned]:
    """The planned runs that a claim is about."""
    used = {}
    for arm in arms(claim):
        if "fill" in arm:
            continue
        known = {n: v for n, v in arm.items() if n in results.parameters}
        elsewhere = {n for n, v in known.items()  # named by a part of runs that have another value of the parameter
                     if n in results.parts and all(item.parameters[n] != v for item in results.plan)}  # fmt: skip
        found = [i for i in results.plan if all(i.parameters[n] == v for n, v in known.items() if n not in elsewhere)]
        if elsewhere:
            made = set(_rows(results, arm, single=False)["run_id"])
            kinds = {_but_seed(item) for item in found if item.run_id in made}
            found = [item for item in found if _but_seed(item) in kinds]
        if results.plan and not found:
            raise NotTested(_absent(results, arm, ", ".join(f"{name} = {value}" for name, value in arm.items())))
        used |= {item.run_id: item for item in found}
    return list(used.values())


def _but_seed(item: sweep.Planned) -> tuple:
    return tuple((name, value) for name, value in item.parameters.items() if name != "seed")


def _incomplete(used: list[sweep.Planned], states: dict[str, str]) -> str:
    """Why a grid cannot be judged: runs that diverged or are missing; "" where all are done."""
    found = [states.get(item.run_id, "missing") for item in used]
    diverged, missing = found.count("diverged"), len(found) - found.count("diverged") - found.count("done")
    said = [f"{n} of {len(used)} runs {what}" for n, what in ((missing, "missing"), (diverged, "diverged")) if n]
    return f"incomplete grid: {' and '.join(said)}." if said else ""


def _row(study: str, claim: dict, outcome: Outcome, results: Results | None = None, dataset: str = "") -> dict:
    """A row of claims.csv but for what needs the whole family."""
    published, kind = claim.get("published", math.nan), claim.get("test", "")
    row = dict.fromkeys(COLUMNS) | {n: claim.get(n) for n in ("id", "source", "place", "statement", "metric", "note")}
    row |= {"direction": "less" if claim.get("sign") == -1 else DIRECTION.get(kind, "greater"), "published": published,
            "ours": outcome.ours, "ci_low": outcome.low, "ci_high": outcome.high, "p": outcome.p, "wins": outcome.wins,
            "cells": outcome.cells, "family": family(claim), "headline": bool(claim.get("headline")),
            "n_seeds": outcome.seeds, "study": study, "dataset": dataset, "why": outcome.why, "outcome": outcome,
            "preset": results.preset if results else ""}  # fmt: skip
    if not (math.isnan(outcome.low) or math.isnan(published)):
        row["published_inside"] = outcome.low <= published <= outcome.high
    if claim.get("by_construction") and not math.isnan(outcome.ours):
        row |= {"verdict": BY_CONSTRUCTION, "why": str(claim["by_construction"])}
    if results:
        row |= _where_from(claim, results, outcome.ours)
        if row["computed"] == "several":
            row["why"] = f"{row['why']} The runs come from several versions of the code.".strip()
    return row


def _where_from(claim: dict, results: Results, ours: float) -> dict:
    """The test set, photos and code of a claim's own runs, and whether all its arms stay below the mean colour."""
    found = []
    for arm in arms(claim):
        try:
            found.append((arm, _rows(results, arm, single=False)))
        except NotTested:
            continue
    rows = pd.concat([rows for _, rows in found]) if found else pd.DataFrame()
    if rows.empty:
        return {"computed": ""}
    hashes = {str(value)[:8] for value in rows["test_set"]}
    codes = {tables.version(results.study, name) for arm, some in found if "fill" not in arm for name in some["run_id"]}
    counts = {"n_photos": int(rows["n_photos"].iloc[0]), "n_pictures": tables.n_pictures(rows.iloc[0], results)}
    counts |= {"test_set": hashes.pop() if len(hashes) == 1 else "several"}
    return counts | {"computed": codes.pop()[:10] if len(codes) == 1 else "several",
                     "below_trivial": None if math.isnan(ours) else _below_trivial(found, results)}  # fmt: skip


def _below_trivial(found: list[tuple[dict, pd.DataFrame]], results: Results) -> bool | None:
    """Whether the PSNR of the hole of every arm, a mean over seeds, is below the mean colour's on the same photos."""
    below = []
    for arm, rows in found:
        parts = {name: value for name, value in arm.items() if name in results.parts and name not in ("arm", "blend")}
        fills = results.where(fill=tables.MEAN_COLOUR, **parts) if "psnr_hole" in rows else pd.DataFrame()
        fills = fills[fills["test_set"].isin(rows["test_set"])] if len(fills) else fills
        if fills.empty:
            return None
        below.append(bool(rows["psnr_hole"].mean() < fills["psnr_hole"].mean()))
    return all(below)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with Holm's p-values within their families, verdicts, and what their seeds could have seen."""
    for _, some in rows.groupby(["study", "preset", "dataset", "family"], sort=False, dropna=False):
        tested = some[some["verdict"].isna() & some["p"].notna()]
        p = tested["p"].to_numpy(float)
        for i, adjusted, level in zip(tested.index, statistics.holm(p), statistics.holm_levels(p), strict=True):
            outcome: Outcome = rows.at[i, "outcome"]
            detectable, needed = outcome.power(level)
            verdict = outcome.judge(adjusted)
            rows.loc[i, ["p_adjusted", "detectable", "verdict"]] = [adjusted, detectable, verdict]
            said = [outcome.why or rows.at[i, "why"]]
            if verdict == UNDECIDED:
                rows.at[i, "seeds_needed"] = needed
            elif (least := statistics.sign_flip_minimum(outcome.seeds)) >= statistics.ALPHA and not math.isnan(
                outcome.wins
            ):
                said.append(f"With {outcome.seeds} seeds an exact sign-flip test cannot go below p = {least:.3g}.")
            if verdict == CONTRADICTED and isinstance(rows.at[i, "note"], str):
                said.append(rows.at[i, "note"])
            rows.at[i, "why"] = " ".join(filter(None, said))
    return rows.assign(verdict=rows["verdict"].fillna(NOT_TESTED))


def command(study: str, preset: str) -> str:
    """What makes a row again: the sweeps that the study needs, its own, and its report."""
    base, *changed = preset.split("+")
    needed = [plan.study for plan in sweep.in_order([study]) if base in plan.presets]
    options = " ".join([f"--preset {base}", *(["--set", *changed] if changed else [])])
    steps = [f"sweep {name} {options if name == study else f'--preset {base}'}" for name in needed]
    return " && ".join(f"python -m inpaintlib {step}" for step in [*steps, f"report {study} --preset {preset}"])


# Files ----------------------------------------------------------------------------------------------------------------


def studies() -> list[str]:
    """The studies with a sweep file, in the order of their notebooks."""
    files = (inpaintlib.ROOT / "notebooks" / "sweeps").glob("*.yaml")
    return [plan.study for plan in sorted(map(sweep.load, files), key=lambda plan: plan.notebook.name)]


def build() -> pd.DataFrame:
    """Makes claims.csv and claims.md from all runs in results/; returns the rows."""
    found = {study: study_rows(study, presets_of(study)) for study in studies()}
    return _save(pd.concat(found.values(), ignore_index=True))


def presets_of(study: str) -> list[str]:
    """The presets of a sweep file that verdicts come from, by size: ``smoke`` shows that all runs, not what is true."""
    there = sweep.load(study).presets
    return [name for name in tables.PRESETS if name in there and name != "smoke"]


def table(results: Results) -> pd.DataFrame:
    """The rows of one preset of a study, with numbers as numbers."""
    return _typed(study_rows(results.study, [results.preset]))


def write(results: Results) -> pd.DataFrame:
    """Puts the rows of one preset of a study into claims.csv and claims.md in place of its former ones; returns them.

    ``smoke`` and presets that ``--set`` changed are returned and not written.
    """
    new = study_rows(results.study, [results.preset])
    if results.preset in presets_of(results.study):
        with lock(inpaintlib.RESULTS / "claims.csv"):
            _save(_merged(new, results))
    return _typed(new)


def _merged(new: pd.DataFrame, results: Results) -> pd.DataFrame:
    """claims.csv with the new rows of one preset of a study: studies by notebook, claims as their file lists them."""
    path, order = inpaintlib.RESULTS / "claims.csv", {study: i for i, study in enumerate(studies())}
    there = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else new.iloc[:0]
    there = there if set(COLUMNS) <= set(there) else new.iloc[:0]  # written by an earlier version
    ids = {name: i for i, name in enumerate(dict.fromkeys(new["id"]))}
    kept = (there["study"] != results.study) | (~there["preset"].isin(["", results.preset]) & there["id"].isin(ids))
    rows = pd.concat([there[kept], new], ignore_index=True)
    keys = [
        (order.get(row.study, len(order)), *((ids[row.id], tables.preset_rank(row.preset)) if row.study == results.study
                                             else (row.Index, 0)))
        for row in rows.itertuples()
    ]  # fmt: skip
    return rows.iloc[sorted(range(len(rows)), key=keys.__getitem__)][COLUMNS]


def _save(rows: pd.DataFrame) -> pd.DataFrame:
    path = inpaintlib.RESULTS / "claims.csv"
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
    rows = read()
    write_atomically(path.with_suffix(".md"), page(rows))
    return rows


def read() -> pd.DataFrame:
    """claims.csv, numbers as numbers and missing text as ""."""
    return _typed(pd.read_csv(inpaintlib.RESULTS / "claims.csv", dtype=str, keep_default_na=False))


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{name: pd.to_numeric(rows[name]) for name in NUMBERS if name in rows})


# Reading --------------------------------------------------------------------------------------------------------------


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: of the largest preset that tested it (of the largest at all where none did), its first data
    set."""
    rows = rows.reset_index(drop=True)
    rank = (rows["verdict"] != NOT_TESTED) * 100 + rows["preset"].map(tables.preset_rank)
    best = rank.groupby([rows["study"], rows["id"]], sort=False).idxmax()
    return rows.loc[best].reset_index(drop=True)


def scoreboard(rows: pd.DataFrame) -> pd.DataFrame:
    """How many claims have each verdict: a row a verdict, a column a family, and all; of ``shown`` rows."""
    rows = shown(rows)
    counts = pd.crosstab(rows["verdict"], rows["family"]).reindex(index=VERDICTS, columns=FAMILIES, fill_value=0)
    return counts.assign(all=counts.sum(axis=1)).rename_axis(index="verdict", columns=None)


def scoreboard_text(rows: pd.DataFrame) -> str:
    """The scoreboard in Markdown."""
    return scoreboard(rows).to_markdown()


def page(rows: pd.DataFrame) -> str:
    """claims.md: the scoreboard and the shown row of each claim, by study."""
    note = ("Made from claims.csv, which has every preset. p is adjusted by Holm within a study's family of claims. An "
            "undecided claim says what distance from its limit these seeds would have shown with 80 % power, and how "
            "many seeds would decide.")  # fmt: skip
    return "\n\n".join(["# Claims", note, scoreboard_text(rows), markdown(shown(rows))]) + "\n"


def markdown(rows: pd.DataFrame) -> str:
    """Rows of claims.csv for reading, a table for each study."""
    return "\n\n".join(f"## {study}\n\n{_markdown(some)}" for study, some in rows.groupby("study", sort=False))


def _markdown(rows: pd.DataFrame) -> str:
    cells = {
        "id": rows["id"], "claim": [_claim(row) for row in rows.itertuples()], "metric": rows["metric"],
        "published": [number(row.published, row.direction) for row in rows.itertuples()],
        "ours [95 % interval]": [_interval(row) for row in rows.itertuples()],
        "p": [p_value(row.p_adjusted)[2:].removeprefix("= ") for row in rows.itertuples()],
        "seeds": [f"{row.n_seeds:g}" if row.n_seeds else "" for row in rows.itertuples()],
        "preset": rows["preset"], "photos": [f"{row.dataset} {row.test_set}".strip() for row in rows.itertuples()],
        "verdict": [_verdict(row) for row in rows.itertuples()], "why": rows["why"],
    }  # fmt: skip
    shown = pd.DataFrame(cells).map(lambda text: str(text).replace("|", "\\|"))
    return shown.to_markdown(index=False, disable_numparse=True)


def _claim(row) -> str:
    return f"{row.statement} ({', '.join(filter(None, [row.source, row.place]))})"


def _verdict(row) -> str:
    said = [f"**{row.verdict}**" if row.verdict in (REPRODUCED, CONTRADICTED) else row.verdict]
    if row.cells:
        said.append(f"{row.cells} cells")
    if row.verdict == UNDECIDED:
        said.append(f"could have seen {number(row.detectable)}")
        said.append(f"{'over 1000' if math.isinf(row.seeds_needed) else f'{row.seeds_needed:g}'} seeds would decide")
    if row.below_trivial == "True":
        said.append("below the mean colour")
    return ", ".join(said)


def value(claim: str, rows: pd.DataFrame | None = None) -> str:
    """A claim's shown row in words, for prose: "−0.17 [−0.21, −0.12], p = .003, 5 seeds, reproduced".

    Raises BadInput where claims.csv has no such claim.
    """
    rows = shown(read() if rows is None else rows)
    if not (rows["id"] == claim).any():
        raise BadInput(f"results/claims.csv has no claim {claim!r}{did_you_mean(claim, rows['id'])}")
    row = rows[rows["id"] == claim].iloc[0]
    return row["verdict"] if math.isnan(row["ours"]) else f"{measured(row)}, {row['n_seeds']:g} seeds, {row['verdict']}"


def measured(row: pd.Series) -> str:
    """What a row measured: "−0.17 [−0.21, −0.12], p = .003"; p is the adjusted one, where there is one."""
    return ", ".join(filter(None, [_interval(row), p_value(row["p_adjusted"])]))


def _interval(row) -> str:
    value, *ends = (number(x, row.direction) for x in (row.ours, row.ci_low, row.ci_high))
    return f"{value} [{', '.join(ends)}]" if all(ends) else value


def number(value: float, direction: str = "equal") -> str:
    """Three digits (four of a figure), with a sign where the claim has a direction."""
    text = "" if math.isnan(value) else f"{value:.4g}" if direction == "equal" else f"{value:+.3g}"
    return text.replace("-", "−")


def p_value(p: float) -> str:
    """As it is printed: p = .003, p < .001, p = 1; nothing for NaN."""
    if math.isnan(p):
        return ""
    return "p < .001" if p < 0.001 else f"p = {f'{p:.3f}'.lstrip('0')}" if p < 0.9995 else "p = 1"
