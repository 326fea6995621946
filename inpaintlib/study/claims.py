"""Published claims and what this study says of each: ``results/claims.csv`` and ``claims.md``.

A claim is one statement about one metric. Its test reads the finished runs of one preset and gives an
:class:`Outcome`; the verdict follows from the interval over seeds alone, by the rules of :func:`greater`,
:func:`equal` and their like, so nobody has to be believed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib.files import write_atomically
from inpaintlib.study import statistics
from inpaintlib.study.tables import Results

COLUMNS = ["id", "source", "statement", "metric", "direction", "published", "ours", "ci_low", "ci_high", "n_seeds",
           "n_photos", "dataset", "verdict", "command"]  # fmt: skip
PRESETS = ["smoke", "quick", "laptop", "full"]  # a claim tested at one is replaced by the same or a later one only
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Outcome:
    """What the runs say: a difference or value with its 95 % interval over seeds, and the verdict."""

    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    verdict: str = NOT_TESTED


@dataclass(frozen=True)
class Claim:
    """``published``: the figure as printed there, nan where the source has words only."""

    id: str
    source: str
    statement: str
    metric: str
    direction: str
    published: float
    test: Callable[[Results], Outcome]


# Verdicts


def judge(value: float, low: float, high: float, seeds: int, sign: int = 1, above: float = 0.0) -> Outcome:
    """The outcome of a claim that ``sign * value`` lies above ``above``.

    ``reproduced``: so does the whole interval; ``partly``: the value does, the interval not wholly; ``not
    reproduced``: the value does not. One seed tests nothing.
    """
    least = min(sign * low, sign * high)
    if seeds < 2 or math.isnan(low):
        verdict = NOT_TESTED
    elif least > above:
        verdict = "reproduced"
    else:
        verdict = "partly" if sign * value > above else "not reproduced"
    return Outcome(value, low, high, seeds, verdict)


def greater(
    metric: str, a: dict, b: dict, sign: int = 1, above: float = 0.0, same_pixels: bool = True
) -> Callable[[Results], Outcome]:
    """Tests that arm a has more of a metric than arm b (``sign=-1``: less), paired by seed on the same photos."""

    def test(results: Results) -> Outcome:
        d = results.difference(metric, a, b, same_pixels)
        if d is None:
            return Outcome()
        return judge(d.difference, d.low, d.high, d.n_seeds, sign, above)

    return test


def equal(metric: str, a: dict, b: dict, within: float) -> Callable[[Results], Outcome]:
    """Tests that two arms differ by less than ``within``, by :func:`_within`."""

    def test(results: Results) -> Outcome:
        d = results.difference(metric, a, b)
        if d is None:
            return Outcome()
        found = Outcome(d.difference, d.low, d.high, d.n_seeds)
        return replace(found, verdict=_within(found, 0.0, within))

    return test


def _within(found: Outcome, target: float, margin: float) -> str:
    """``reproduced``: the interval lies inside target +- margin; ``not reproduced``: outside; ``partly``: across."""
    if found.seeds < 2 or math.isnan(found.low):
        return NOT_TESTED
    if target - margin < found.low and found.high < target + margin:
        return "reproduced"
    return "not reproduced" if found.low > target + margin or found.high < target - margin else "partly"


def of_seeds(values: np.ndarray, sign: int = 1, above: float = 0.0) -> Outcome:
    """An outcome from one value a seed; ``sign=-1`` tests that they lie below."""
    if not len(values):
        return Outcome()
    found = statistics.interval(values)
    return judge(found.mean, found.low, found.high, found.n, sign, above)


def trend(metric: str, by: str, sign: int, **wanted) -> Callable[[Results], Outcome]:
    """Tests that a metric rises (``sign=1``) or falls with a parameter: Spearman's rho within each seed."""

    def test(results: Results) -> Outcome:
        rows = results.where(**wanted)
        wide = rows.pivot_table(index="seed", columns=by, values=metric).dropna() if len(rows) else rows
        if wide.shape[0] == 0 or wide.shape[1] < 3:
            return Outcome()
        found = statistics.spearman_trend(np.arange(wide.shape[1]), wide.to_numpy())
        return judge(found.rho, max(found.low, -1.0), min(found.high, 1.0), found.n_seeds, sign)

    return test


def peak(results: Results, metric: str = "test_psnr_hole_pooled", least: float = 0.1, **wanted) -> Outcome:
    """How far below its best a training ends, dB; tested against ``least``, since a maximum is never below the end."""
    drops = [h[metric].max() - h[metric].dropna().iloc[-1] for h in results.histories(**wanted)]
    return of_seeds(np.array(drops), above=least)


# Context Encoders

REPORT, PAPER, LUA = "Context Encoder report 2024", "Pathak 2016", "Pathak 2016, Lua code"
JOINT = {"arm": "ratio", "ratio": 1000.0}
TABLE_1 = {  # the report's, with the column x500 that its text lost; pooled PSNR of the hole, dB
    "Tiny ImageNet": {1: 11.56, 100: 14.34, 1000: 14.76},
    "ImageNet-1k, 64 px": {1000: 17.20},
    "ImageNet-1k, 128 px": {100: 13.17, 200: 13.40, 500: 15.39, 1000: 14.70},
    "Paris StreetView (the paper's arXiv revision)": {1000: 18.58},
}


def arm(name: str) -> dict:
    return {"arm": name}


def ratio(value: float) -> dict:
    return {"arm": "ratio", "ratio": float(value)}


def tiny_imagenet(value: float, published: float) -> Claim:
    """One cell of Table 1 that photos at hand can test: reproduced within 0.5 dB."""

    def test(results: Results) -> Outcome:
        if results.runs["dataset"].iloc[0] != "tiny_imagenet":
            return Outcome()
        found = of_seeds(results.where(**ratio(value))["psnr_hole_pooled"].to_numpy())
        return replace(found, verdict=_within(found, published, 0.5))

    return Claim(f"T1-x{value}", REPORT, f"Tiny ImageNet at ×{value}: {published} dB (within 0.5)", "psnr_hole_pooled",
                 "equal", published, test)  # fmt: skip


CONTEXT_ENCODER = [
    Claim("HA1a", REPORT, "×1000 has a higher PSNR than ×1", "psnr_hole", "greater", 14.76 - 11.56,
          greater("psnr_hole", ratio(1000), ratio(1))),
    Claim("HA1b", REPORT, "PSNR rises with the ratio (Spearman's rho)", "psnr_hole", "increasing", math.nan,
          trend("psnr_hole", "ratio", 1, arm="ratio")),
    Claim("HA1c", PAPER, "sharpness falls as the ratio rises (Spearman's rho)", "sharpness", "decreasing", math.nan,
          trend("sharpness", "ratio", -1, arm="ratio")),
    Claim("HA1d", REPORT, "×500 has a higher PSNR than ×1000 (there at unequal training)", "psnr_hole", "greater",
          15.39 - 14.70, greater("psnr_hole", ratio(500), ratio(1000))),
    Claim("HA2a", "xyfJASON port", "reconstruction only has a higher PSNR than the joint loss", "psnr_hole", "greater",
          0.25, greater("psnr_hole", ratio(math.inf), JOINT)),
    Claim("HA2b", "xyfJASON port", "reconstruction only has a higher SSIM than the joint loss", "ssim_hole", "greater",
          0.024, greater("ssim_hole", ratio(math.inf), JOINT)),
    Claim("HA2c", PAPER, "reconstruction only is blurrier than the joint loss", "sharpness", "less", math.nan,
          greater("sharpness", ratio(math.inf), JOINT, sign=-1)),
    Claim("HA3", PAPER, "L1 and L2 give the same PSNR (within 0.2 dB)", "psnr_hole", "equal", 0.0,
          equal("psnr_hole", arm("l1"), JOINT, 0.2)),
    Claim("HA4a", LUA, "a band that the network sees lowers the seam, against no band", "seam_inner", "less", math.nan,
          greater("seam_inner", arm("visible band"), arm("no band"), sign=-1)),
    Claim("HA4b", REPORT, "a band inside the hole barely changes the seam, against no band (within 0.01)",
          "seam_inner", "equal", math.nan, equal("seam_inner", JOINT, arm("no band"), 0.01)),
    Claim("HA5", REPORT, "at ×1000 PSNR peaks early and then declines (best minus last, over 0.1 dB)",
          "psnr_hole_pooled", "greater", 15.98 - 14.76, lambda results: peak(results, **JOINT)),
    Claim("HA6", PAPER, "mean-of-images PSNR exceeds pooled PSNR", "psnr_hole", "greater", 17.59 - 16.29,
          lambda results: of_seeds(np.array([r["psnr_hole"] - r["psnr_hole_pooled"]
                                             for _, r in results.where(**JOINT).iterrows()]))),
    Claim("HA7", PAPER, "filling the hole with zero or with the mean is the same (within 0.1 dB)", "psnr_hole", "equal",
          0.0, equal("psnr_hole", arm("mean fill"), JOINT, 0.1)),
    Claim("HA8", LUA, "a ten times higher generator rate helps", "psnr_hole", "greater", math.nan,
          greater("psnr_hole", JOINT, arm("equal rates"))),
    Claim("HA9a", PAPER, "noise beside the bottleneck lowers PSNR", "psnr_hole", "less", math.nan,
          greater("psnr_hole", arm("noise"), JOINT, sign=-1)),
    Claim("HA9b", PAPER, "a discriminator that sees the context lowers PSNR", "psnr_hole", "less", math.nan,
          greater("psnr_hole", arm("conditional"), JOINT, sign=-1)),
    Claim("HA10", REPORT, "photos enlarged from half the resolution score a higher PSNR", "psnr_hole", "greater",
          17.20 - 14.70, greater("psnr_hole", arm("enlarged"), JOINT, same_pixels=False)),
    *(tiny_imagenet(value, published) for value, published in TABLE_1["Tiny ImageNet"].items()),
]  # fmt: skip

STUDIES = {"context_encoder_ratios": CONTEXT_ENCODER}


# Files


def table(results: Results) -> pd.DataFrame:
    """The study's claims with their outcomes, in the columns of claims.csv."""
    first = results.runs.iloc[0]
    command = f"python -m inpaintlib sweep {results.study} --preset {results.preset}"
    rows = []
    for claim in STUDIES[results.study]:
        o = claim.test(results)
        rows.append([claim.id, claim.source, claim.statement, claim.metric, claim.direction, claim.published, o.ours,
                     o.low, o.high, o.seeds, int(first["n_photos"]), first["dataset"], o.verdict, command])  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def write(results: Results) -> pd.DataFrame:
    """Puts the study's claims into claims.csv and claims.md; returns the rows of this preset.

    A verdict from a larger preset is not replaced by one from a smaller, nor any verdict by ``not tested``. The preset
    ``smoke`` shows that all runs, not what is true: its verdicts are returned and not written.
    """
    new, path = table(results), inpaintlib.RESULTS / "claims.csv"
    if results.preset == "smoke":
        return new
    rows = new
    if path.exists():
        old = pd.read_csv(path)
        merged = pd.concat([old, new]).assign(rank=lambda t: [_rank(row) for row in t.itertuples()])
        rows = merged.sort_values("rank", kind="stable").drop_duplicates("id", keep="last")
        order = {name: i for i, name in enumerate(c.id for study in STUDIES.values() for c in study)}
        rows = rows.sort_values("id", key=lambda ids: ids.map(order).fillna(len(order)), kind="stable")[COLUMNS]
    write_atomically(path, rows.to_csv(index=False, float_format="%.4g"))
    write_atomically(path.with_suffix(".md"), f"# Claims\n\n{markdown(rows)}\n")
    return new


def _rank(row) -> int:
    preset = row.command.rsplit(" ", 1)[-1]
    return -1 if row.verdict == NOT_TESTED else PRESETS.index(preset) if preset in PRESETS else 0


def markdown(rows: pd.DataFrame) -> str:
    """claims.csv for reading."""
    shown = pd.DataFrame({
        "id": rows["id"], "claim": rows["statement"] + " (" + rows["source"] + ")", "metric": rows["metric"],
        "published": [_number(r.published, r.id) for r in rows.itertuples()],
        "ours [95 % interval]": [
            f"{_number(r.ours, r.id)} [{_number(r.ci_low, r.id)}, {_number(r.ci_high, r.id)}]" if r.n_seeds > 1
            else _number(r.ours, r.id) for r in rows.itertuples()],
        "seeds": rows["n_seeds"], "photos": rows["n_photos"], "dataset": rows["dataset"], "verdict": rows["verdict"],
    })  # fmt: skip
    return shown.to_markdown(index=False, disable_numparse=True)


def _number(value: float, claim: str) -> str:
    """Differences carry a sign, figures of a table (T1) do not."""
    return "" if math.isnan(value) else f"{value:.4g}" if claim.startswith("T") else f"{value:+.3g}"
