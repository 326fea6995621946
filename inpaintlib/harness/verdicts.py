"""What the finished runs say of a claim: the tests that a sweep file may ask for, and their outcomes.

==============  ========================================================================================================
``greater``     arm ``a`` has more of the metric than arm ``b`` (``less``: less), by more than ``above`` (0), paired by
                seed; ``relative``: (a - b) / b; ``same_pixels: false`` where test sets differ in resolution
``equal``       arms ``a`` and ``b`` differ by less than ``within``
``increasing``  the metric rises (``decreasing``: falls) with the parameter ``by``, in the runs ``where``
``figure``      the metric ``where`` is within ``within`` of ``published``, on the photos of ``dataset`` only
``exceeds``     the metric ``where`` exceeds another metric of the same runs, ``minus``, by more than ``above``
``spread``      the metric's standard deviation over seeds (``relative``: over its mean) exceeds ``above``, ``where``
``reorders``    the metric ranks the arms of a seed more unlike the ``other`` metric than unlike itself in other seeds
``declines``    the best look in training exceeds the last by over ``above``, ``where``, in trainings of ``least_kimg``
``correlates``  Spearman's rho over photos of the metric and the column ``with`` has the sign ``sign``, ``where``
``wins``        arm ``a`` beats ``b`` (``better: higher`` or ``lower``) on more than the fraction ``above`` of photos
``untestable``  cannot be computed: ``why``
==============  ========================================================================================================

Arms are parameters with their values, such as ``{arm: ratio, ratio: 1000}``; ``{fill: Telea}`` is the trivial fill on
the same test set; columns of per_image select photos. A comparison must hold for ``each`` value of such columns.

Equality is tested by two one-sided tests. A claim about ``each`` cell takes the largest p-value over the cells or,
where cells are opposed to it, the smallest times the number of cells. ``correlates`` and ``wins`` are about photos, and
all seeds see the same: they take the larger p-value of that over seeds and that over pictures. ``exceeds`` is tested
over pictures where no network is part of either metric, so all seeds agree.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from inpaintlib import BadInput
from inpaintlib.harness import statistics, tables
from inpaintlib.harness.parameters import did_you_mean
from inpaintlib.harness.tables import Results

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"
BY_CONSTRUCTION, NOT_TESTED = "by construction", "not tested"
VERDICTS = [REPRODUCED, CONTRADICTED, UNDECIDED, BY_CONSTRUCTION, NOT_TESTED]
FAMILIES, MIN_SEEDS, HEADLINE_SEEDS = ["published", "ours"], 3, 6
COMMON = {"published", "headline", "by_construction", "note", "prose", "family", "place"}
PAIR = {"above", "each", "same_pixels", "relative"}
TESTS = {  # the keys that a test needs, and may have
    "greater": ({"a", "b"}, PAIR), "less": ({"a", "b"}, PAIR), "equal": ({"a", "b", "within"}, PAIR - {"above"}),
    "increasing": ({"by"}, {"where"}), "decreasing": ({"by"}, {"where"}),
    "figure": ({"where", "published", "within"}, {"dataset"}), "exceeds": ({"where", "minus"}, {"above"}),
    "spread": ({"where", "above"}, {"relative"}), "reorders": ({"other"}, {"where"}),
    "declines": ({"where"}, {"above", "least_kimg"}), "correlates": ({"where", "with", "sign"}, set()),
    "wins": ({"a", "b", "above", "better"}, {"same_pixels"}), "untestable": ({"why"}, {"metric"}),
}  # fmt: skip


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
    for key in ("within", "above", "published", "least_kimg"):
        if key in claim and (isinstance(claim[key], bool) or not isinstance(claim[key], int | float)):
            raise BadInput(f"{where}: {key} must be a number, not {claim[key]!r}.")
    if claim.get("within", 1) <= 0 or (kind == "spread" and claim["above"] <= 0):
        raise BadInput(f"{where}: a margin must be above 0, not {claim.get('within', claim.get('above'))}.")
    for key in ("a", "b", "where"):
        if not isinstance(claim.get(key, {}), dict):
            raise BadInput(f"{where}: {key} must be parameters with their values, not {claim[key]!r}.")
    if not all(isinstance(name, str) for name in claim.get("each", [])) or isinstance(claim.get("each"), str):
        raise BadInput(f"{where}: each must be a list of columns of per_image, not {claim['each']!r}.")
    prose = claim.get("prose", ["", ""])
    if not (isinstance(prose, list) and [type(sentence) for sentence in prose] == [str, str]):
        raise BadInput(f"{where}: prose must be two sentences, where it is reproduced and where not, not {prose!r}.")
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
    if results.parts:
        return results
    named = {*claim.get("each", []), *filter(None, [claim.get("by")]), *(n for arm in arms(claim) for n in arm)}
    parts = tuple(name for name in results.photo_columns
                  if name in named or (name in results.parameters and name not in ("seed", "dataset")))  # fmt: skip
    if not parts:
        return results
    if parts not in (kept := results.__dict__.setdefault("divisions", {})):
        kept[parts] = Results(results.study, results.preset, parts, results.added)
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
        return _won(claim, results)
    if kind == "reorders":
        return directional(_disorder(claim, results), 1, 0.0)
    if kind in ("increasing", "decreasing"):
        return _trend(claim, results)
    if kind == "correlates":
        return _correlation(claim, results)
    if kind == "declines":
        return directional(_declines(claim, results), 1, above)
    values = _by_seed(results, claim["metric"], where)
    if kind == "figure":
        return equality(values, claim["published"], claim["within"])
    if kind == "exceeds":
        return _excess(claim, results, values - _by_seed(results, claim["minus"], where))
    return _spread(values / (values.mean() if claim.get("relative") else 1.0), above)


def directional(values: np.ndarray, sign: int, above: float = 0.0) -> Outcome:
    """That the seeds' mean, times ``sign``, lies above ``above``."""
    _enough(len(values))
    found = statistics.interval(values, sign * above)
    side = 1 if sign * found.mean > above else -1
    return Outcome(found.mean, found.low, found.high, found.p, side, found.n, _power(found, found.mean - sign * above))


def equality(values: np.ndarray, target: float, within: float) -> Outcome:
    """That the seeds' mean is within ``within`` of ``target``."""
    _enough(len(values))
    found = statistics.interval(values)
    inside, outside = statistics.tost(values, target - within, target + within)
    room = within - abs(found.mean - target)
    p, side = (inside, 1) if room > 0 else (outside, -1)
    return Outcome(found.mean, found.low, found.high, p, side, found.n, _power(found, room, sides=1))


def _power(found: statistics.Interval, distance: float, sides: int = 2) -> Callable[[float], tuple[float, float]]:
    """``Outcome.power`` of a t test whose mean lies so far from its limit."""
    return lambda alpha: (statistics.detectable(found.sd, found.n, alpha, sides),
                          statistics.seeds_needed(distance, found.sd, alpha, sides))  # fmt: skip


def _compare(claim: dict, results: Results) -> Outcome:
    a, b = _pair(claim, results)
    ours, theirs = results.values(claim["metric"], a), results.values(claim["metric"], b)
    _measured(results, claim["metric"], np.append(ours, theirs))
    differences = (ours - theirs) / (theirs if claim.get("relative") else 1.0)
    if not (np.ptp(ours) or np.ptp(theirs)):
        return Outcome(differences[0], why="Both sides are the same in every seed: there is no spread to test against.")
    sign = -1 if claim["test"] == "less" else 1
    ahead = np.sign(sign * np.subtract.outer(ours, theirs))
    outcome = (equality(differences, 0.0, claim["within"]) if claim["test"] == "equal" else
               directional(differences, sign, claim.get("above", 0.0)))  # fmt: skip
    return replace(outcome, wins=float((ahead > 0).mean() + (ahead == 0).mean() / 2))


def _pair(claim: dict, results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both arms, one a seed that both have (or one for all, of a trivial fill)."""
    found = [rows_of_arm(results, claim[key]) for key in ("a", "b")]
    trained = [rows for rows, key in zip(found, "ab", strict=True) if "fill" not in claim[key]]
    seeds = set.intersection(*(set(rows["seed"]) for rows in trained)) if trained else set()
    measured = {name for rows in trained for name in rows["test_set"]}
    found = [rows[rows["seed"].isin(seeds) if "fill" not in claim[key] else rows["test_set"].isin(measured)]
             for rows, key in zip(found, "ab", strict=True)]  # fmt: skip
    _enough(len(seeds))
    if not all(map(len, found)):
        raise NotTested("the trivial fills were not measured on this test set.")
    same = "test_set" if claim.get("same_pixels", True) else "n_photos"
    if len({*found[0][same], *found[1][same]}) != 1:
        raise NotTested("the arms were measured on different test sets" if same == "test_set" else
                        "the arms were measured on different numbers of photos")  # fmt: skip
    return found[0], found[1]


def rows_of_arm(results: Results, arm: dict, single: bool = True) -> pd.DataFrame:
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
                        absent(results, arm, described))  # fmt: skip
    if single and rows.duplicated("seed" if "fill" not in arm else "test_set").any():
        varied = [n for n in (*results.parts, *results.parameters) if n != "seed" and rows[n].nunique() > 1]
        raise NotTested(f"several runs of one seed have {described}; name {' and '.join(varied) or 'the runs'} too.")
    return rows


def absent(results: Results, arm: dict, described: str) -> str:
    """Why there are no rows of an arm."""
    for name, value in arm.items():
        known = results.offered.get(name, [value])
        if name not in results.parts and value not in known:
            return f"no run of the study has {name} = {value}{did_you_mean(str(value), map(str, known))}"
    return f"the preset {results.preset} has no finished run with {described}."


def _by_seed(results: Results, metric: str, where: dict) -> np.ndarray:
    return _measured(results, metric, results.values(metric, rows_of_arm(results, where)))


def _measured(results: Results, metric: str, values: np.ndarray) -> np.ndarray:
    if np.isfinite(values).all():
        return values
    if metric in (known := {*results.runs, *results.photo_columns} - {"id", "picture", "seed"}):
        raise NotTested(f"{(~np.isfinite(values)).sum()} of {len(values)} runs did not measure {metric}.")
    raise NotTested(f"these runs did not measure {metric!r}{_near(metric, known)}")


def _near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: the known name that was meant, if any is near."""
    return said if (said := did_you_mean(name, known)).startswith(";") else "."


def _enough(seeds: int) -> None:
    if seeds < MIN_SEEDS:
        raise NotTested(f"{seeds} seed{'s' * (seeds != 1)}; a claim needs {MIN_SEEDS} or more.")


def _trend(claim: dict, results: Results) -> Outcome:
    by, rows = claim["by"], rows_of_arm(results, claim.get("where", {}), single=False)
    if by not in rows:
        raise NotTested(f"the runs have no parameter {by!r}{_near(by, rows)}")
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
    side = 1 if (found.rho > 0) == (claim["test"] == "increasing") and found.rho else -1
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
    rows = rows_of_arm(results, claim.get("where", {}), single=False)
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


def _excess(claim: dict, results: Results, values: np.ndarray) -> Outcome:
    """``values``: what each seed's metric has above the other."""
    above, names = claim.get("above", 0.0), [claim["metric"], claim["minus"]]
    if np.ptp(values) or len(values) < MIN_SEEDS:
        return directional(values, 1, above)
    if not set(names) <= set(results.photo_columns):
        return Outcome(values[0], why="All seeds have the same value: there is no spread to test against.")
    pictures = _pictures([results.photos(row) for _, row in rows_of_arm(results, claim["where"]).iterrows()], names)
    found = directional((pictures[names[0]] - pictures[names[1]]).to_numpy(), 1, above)
    return Outcome(found.ours, found.low, found.high, found.p, found.side, len(values),
                   why="no training is part of it: interval and p are over pictures")  # fmt: skip


def _correlation(claim: dict, results: Results) -> Outcome:
    names = [claim["metric"], claim["with"]]
    runs = [results.photos(row) for _, row in rows_of_arm(results, claim["where"]).iterrows()]
    for photos in runs:
        if lacking := [name for name in names if name not in photos]:
            raise NotTested(f"per_image has no column {lacking[0]!r}{_near(lacking[0], photos)}")
    rhos = np.array([photos[names[0]].corr(photos[names[1]], method="spearman") for photos in runs])
    outcome = directional(_measured(results, names[0], rhos), claim["sign"])
    pictures = _pictures(runs, names)
    found = stats.spearmanr(pictures[names[0]], pictures[names[1]])
    return _over_both(outcome, claim["sign"] * found.statistic, found.pvalue)


def _won(claim: dict, results: Results) -> Outcome:
    sign, won, (a, b) = 1 if claim["better"] == "higher" else -1, [], _pair(claim, results)
    for i in range(max(len(a), len(b))):
        rows = [results.photos(rows.iloc[min(i, len(rows) - 1)]) for rows in (a, b)]
        if missing := [photos for photos in rows if claim["metric"] not in photos]:
            raise NotTested(f"per_image has no column {claim['metric']!r}{_near(claim['metric'], missing[0])}")
        ours, theirs = (photos[claim["metric"]].to_numpy(float) for photos in rows)
        won.append(sign * (ours - theirs) > 0)
    outcome = directional(np.mean(won, axis=1), 1, claim["above"])
    pictures = pd.Series(np.mean(won, axis=0)).groupby(_picture(rows[0])).mean()
    found = statistics.interval(pictures, claim["above"])
    return _over_both(outcome, found.mean - claim["above"], found.p)


def _over_both(outcome: Outcome, effect: float, p: float) -> Outcome:
    """The outcome over seeds, with the p over pictures where that is larger, and 1 where the two lie on other sides."""
    p = p if effect * outcome.side > 0 else 1.0
    if p <= outcome.p:
        return outcome
    why = f"over pictures, which all seeds share, p is larger than over seeds ({outcome.p:.2g})"
    return replace(outcome, p=p, power=lambda alpha: (math.nan, math.inf), why=why)


def _pictures(runs: list[pd.DataFrame], names: list[str]) -> pd.DataFrame:
    """Columns of the per_image of ``runs``, which saw the same photos: a row a picture, the mean over its photos."""
    means = np.mean([photos[names].to_numpy(float) for photos in runs], axis=0)
    return pd.DataFrame(means, columns=names).groupby(_picture(runs[0])).mean()


def _picture(photos: pd.DataFrame) -> np.ndarray:
    """(n,): the picture that each photo was cut from."""
    return next((photos[name].to_numpy() for name in ("picture", "id") if name in photos), np.arange(len(photos)))


def _declines(claim: dict, results: Results) -> np.ndarray:
    name, found = f"test_{claim['metric']}", []
    rows, least = rows_of_arm(results, claim["where"]), claim.get("least_kimg", 0)
    if least and (rows["kimg"] < least).any():
        raise NotTested(f"it is about trainings of {least:g} kimg or more; these have {rows['kimg'].min():g}.")
    for history in results.histories(**claim["where"]):
        if name not in history:
            raise NotTested(f"history.csv has no column {name!r}{_near(name, history)}")
        curve = history[name].dropna()
        found.append(curve.max() - curve.iloc[-1])
    return np.array(found)
