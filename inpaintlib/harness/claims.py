"""Published claims and what this study says of each: ``results/claims.csv`` and ``claims.md``.

A study's sweep file lists its claims under ``claims``. Each has an ``id``, a ``source``, a ``statement``, a ``metric``,
the ``published`` figure where the source prints one, and a ``test``:

==============  ========================================================================================================
``greater``     arm ``a`` has more of the metric than arm ``b`` (``less``: less), by more than ``above`` (0), paired by
                seed and photo; ``same_pixels: false`` where the arms see the photos at other resolutions
``equal``       arms ``a`` and ``b`` differ by less than ``within``
``increasing``  the metric rises (``decreasing``: falls) with the parameter ``by``: Spearman's rho within each seed
``figure``      the metric ``where`` is within ``within`` of ``published``, on the photos of ``dataset`` only
``exceeds``     the metric ``where`` exceeds another metric of the same runs, ``minus``
``spread``      the metric's standard deviation over seeds (``relative``: over its mean) is above ``above``, ``where``
``reorders``    the metric ranks the arms of each seed otherwise than the ``other`` one: 1 - rho is more than ``above``
``declines``    the best evaluation in training is better than the last by over ``above``, ``where``
==============  ========================================================================================================

Arms are parameters with their values, such as ``{arm: ratio, ratio: 1000}``; a name that is no parameter is a column
of per_image.csv and selects photos, such as ``{arm: full, border: clear}``. ``each`` lists such columns: the claim must
hold for each of their values, and the outcome is that of the worst. The verdict follows from the interval over seeds
alone, by :func:`judge` and :func:`judge_equal`, so nobody has to be believed.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_atomically
from inpaintlib.harness import statistics, sweep
from inpaintlib.harness.tables import Results

COLUMNS = ["id", "source", "statement", "metric", "direction", "published", "ours", "ci_low", "ci_high", "n_seeds",
           "n_photos", "dataset", "verdict", "command"]  # fmt: skip
PRESETS = ["smoke", "quick", "laptop", "full", "exact"]  # a verdict gives way to the same preset's or a later one's
NOT_TESTED = "not tested"
VERDICTS = [NOT_TESTED, "not reproduced", "partly", "reproduced"]
NEEDED = {"id", "source", "statement", "metric", "test"}
OPTIONAL = {
    "greater": {"a", "b", "above", "same_pixels", "each"}, "less": {"a", "b", "above", "same_pixels", "each"},
    "equal": {"a", "b", "within", "each"},
    "increasing": {"by", "where", "above"}, "decreasing": {"by", "where", "above"},
    "figure": {"where", "within", "dataset"}, "exceeds": {"where", "minus", "above"}, "declines": {"where", "above"},
    "spread": {"where", "above", "relative"}, "reorders": {"other", "above"},
}  # fmt: skip
DIRECTION = {"figure": "equal", "exceeds": "greater", "declines": "greater", "spread": "greater", "reorders": "greater"}


@dataclass(frozen=True)
class Outcome:
    """What the runs say: a difference or value with its 95 % interval over seeds, and the verdict."""

    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    verdict: str = NOT_TESTED


def judge(value: float, low: float, high: float, seeds: int, sign: int = 1, above: float = 0.0) -> Outcome:
    """The outcome of a claim that ``sign * value`` lies above ``above``.

    ``reproduced``: so does the whole interval; ``partly``: the value does, the interval not wholly; ``not
    reproduced``: the value does not. One seed tests nothing.
    """
    if seeds < 2 or math.isnan(low):
        verdict = NOT_TESTED
    elif min(sign * low, sign * high) > above:
        verdict = "reproduced"
    else:
        verdict = "partly" if sign * value > above else "not reproduced"
    return Outcome(value, low, high, seeds, verdict)


def judge_equal(value: float, low: float, high: float, seeds: int, target: float, within: float) -> Outcome:
    """``reproduced``: the interval lies inside target ± within; ``not reproduced``: outside; ``partly``: across."""
    if seeds < 2 or math.isnan(low):
        verdict = NOT_TESTED
    elif target - within < low and high < target + within:
        verdict = "reproduced"
    else:
        verdict = "not reproduced" if low > target + within or high < target - within else "partly"
    return Outcome(value, low, high, seeds, verdict)


def check(study: str, claim: dict) -> dict:
    """The claim, if it has the keys of its test and no others; BadInput names the sweep file, the id and the key."""
    where = f"notebooks/sweeps/{study}.yaml: claim {claim.get('id', claim)}"
    if missing := NEEDED - set(claim):
        raise BadInput(f"{where} has no {sorted(missing)[0]}")
    if claim["test"] not in OPTIONAL:
        raise BadInput(f"{where}: there is no test {claim['test']!r}; choose from {', '.join(OPTIONAL)}")
    if unknown := set(claim) - NEEDED - OPTIONAL[claim["test"]] - {"published"}:
        raise BadInput(f"{where}: {sorted(unknown)[0]!r} does not belong to the test {claim['test']}")
    return claim


def test(claim: dict, results: Results) -> Outcome:
    """Applies a claim's test to the finished runs; an arm that is missing, or one seed, is ``not tested``."""
    arms = [claim[key] for key in ("a", "b", "where") if key in claim]
    named = {*claim.get("each", []), *filter(None, [claim.get("by")]), *(name for arm in arms for name in arm)}
    if parts := sorted(named - set(results.runs)):
        results = Results(results.study, results.preset, parts)
    if "each" not in claim:
        return _test(claim, results)
    outcomes = []
    for values in results.runs[claim["each"]].drop_duplicates().to_dict("records"):
        outcomes.append(_test(claim | {"a": claim["a"] | values, "b": claim["b"] | values}, results))
    sign = -1 if claim["test"] == "less" else 1
    return min(outcomes, key=lambda o: (VERDICTS.index(o.verdict), sign * o.ours))


def _test(claim: dict, results: Results) -> Outcome:
    kind, metric, where = claim["test"], claim["metric"], claim.get("where", {})
    sign, above = -1 if kind in ("less", "decreasing") else 1, claim.get("above", 0.0)
    if metric not in results.runs:  # one that needs a network, say
        return Outcome()
    if kind in ("greater", "less", "equal"):
        d = results.difference(metric, claim["a"], claim["b"], claim.get("same_pixels", True))
        if d is None:
            return Outcome()
        found = (d.difference, d.low, d.high, d.n_seeds)
        return judge_equal(*found, 0.0, claim["within"]) if kind == "equal" else judge(*found, sign, above)
    if kind in ("increasing", "decreasing"):
        return _trend(results, metric, claim["by"], where, sign, above)
    if kind == "figure" and claim.get("dataset") not in (None, results.runs["dataset"].iloc[0]):
        return Outcome()
    values = _values(kind, claim, results, where)
    if not len(values):
        return Outcome()
    i = statistics.spread(values) if kind == "spread" else statistics.interval(values)
    if kind == "figure":
        return judge_equal(i.mean, i.low, i.high, i.n, claim["published"], claim["within"])
    return judge(i.mean, i.low, i.high, i.n, sign, above)


def _values(kind: str, claim: dict, results: Results, where: dict) -> np.ndarray:
    """One value a seed."""
    if kind == "declines":
        curves = [history[f"test_{claim['metric']}"].dropna() for history in results.histories(**where)]
        return np.array([curve.max() - curve.iloc[-1] for curve in curves])
    rows = results.where(**where)
    if kind == "reorders":
        pairs = [seed[[claim["metric"], claim["other"]]].dropna() for _, seed in rows.groupby("seed")]
        return np.array([1 - pair.corr("spearman").iloc[0, 1] for pair in pairs if len(pair) > 2])
    values = rows[claim["metric"]] - (rows[claim["minus"]] if kind == "exceeds" else 0)
    return (values / values.mean() if claim.get("relative") else values).to_numpy()


def _trend(results: Results, metric: str, by: str, where: dict, sign: int, above: float) -> Outcome:
    rows = results.where(**where)
    wide = rows.pivot_table(index="seed", columns=by, values=metric).dropna() if len(rows) else rows
    if wide.shape[0] == 0 or wide.shape[1] < 3:
        return Outcome()
    found = statistics.spearman_trend(np.arange(wide.shape[1]), wide.to_numpy())
    return judge(found.rho, max(found.low, -1.0), min(found.high, 1.0), found.n_seeds, sign, above)


# Files


def table(results: Results) -> pd.DataFrame:
    """The study's claims with their outcomes, in the columns of claims.csv."""
    first = results.runs.iloc[0]
    command = f"python -m inpaintlib sweep {results.study} --preset {results.preset}"
    rows = []
    for claim in sweep.load(results.study).claims:
        o = test(check(results.study, claim), results)
        direction = DIRECTION.get(claim["test"], claim["test"])
        rows.append([claim["id"], claim["source"], claim["statement"], claim["metric"], direction,
                     claim.get("published", math.nan), o.ours, o.low, o.high, o.seeds, int(first["n_photos"]),
                     first["dataset"], o.verdict, command])  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def write(results: Results) -> pd.DataFrame:
    """Puts the study's claims into claims.csv and claims.md; returns the rows of this preset.

    A row from a larger preset is not replaced by one from a smaller, nor any verdict by ``not tested``. The preset
    ``smoke`` shows that all runs, not what is true: its verdicts are returned and not written.
    """
    new, path = table(results), inpaintlib.RESULTS / "claims.csv"
    if results.preset == "smoke":
        return new
    rows = pd.concat([pd.read_csv(path), new], ignore_index=True) if path.exists() else new
    order = {claim: i for i, claim in enumerate(dict.fromkeys(rows["id"]))}
    rows = rows.assign(rank=[_rank(row) for row in rows.itertuples()]).sort_values("rank", kind="stable")
    rows = rows.drop_duplicates("id", keep="last").sort_values("id", key=lambda ids: ids.map(order))[COLUMNS]
    write_atomically(path, rows.to_csv(index=False, float_format="%.4g"))
    write_atomically(path.with_suffix(".md"), f"# Claims\n\n{markdown(rows)}\n")
    return new


def _rank(row) -> int:
    preset = row.command.rsplit(" ", 1)[-1]
    tested = row.verdict != NOT_TESTED
    return len(PRESETS) * tested + (PRESETS.index(preset) if preset in PRESETS else 0)


def markdown(rows: pd.DataFrame) -> str:
    """Rows of claims.csv for reading."""
    shown = pd.DataFrame({
        "id": rows["id"], "claim": rows["statement"] + " (" + rows["source"] + ")", "metric": rows["metric"],
        "published": [_number(r.published, r.direction) for r in rows.itertuples()],
        "ours [95 % interval]": [_interval(r) for r in rows.itertuples()],
        "seeds": rows["n_seeds"], "photos": rows["n_photos"], "dataset": rows["dataset"], "verdict": rows["verdict"],
    })  # fmt: skip
    return shown.to_markdown(index=False, disable_numparse=True)


def _interval(row) -> str:
    value, *ends = (_number(x, row.direction) for x in (row.ours, row.ci_low, row.ci_high))
    return f"{value} [{', '.join(ends)}]" if all(ends) else value


def _number(value: float, direction: str) -> str:
    """Differences and trends carry a sign."""
    return "" if math.isnan(value) else f"{value:.4g}" if direction == "equal" else f"{value:+.3g}"
