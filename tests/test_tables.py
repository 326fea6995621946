"""Tables and claims from runs whose numbers are known."""

import math

import numpy as np
import pandas as pd
import pytest

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_json
from inpaintlib.harness import claims, sweep, tables
from inpaintlib.harness.claims import judge
from inpaintlib.harness.tables import Results

STUDY = "context_encoder_ratios"
JOINT = {"arm": "ratio", "ratio": 1000.0}
PHOTOS = 8
HA3 = {"test": "equal", "metric": "psnr_hole", "a": {"arm": "l1"}, "b": JOINT, "within": 0.2}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A results folder, and a function that puts a finished run into it."""
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)

    def add(seed, psnr, arm="ratio", ratio=1000.0, preset="quick", dataset="demo", test_set="a" * 64, **metrics):
        folder = tmp_path / STUDY / "runs" / f"{arm}-{ratio}-{seed}-{preset}"
        folder.mkdir(parents=True)
        given = {"arm": arm, "ratio": ratio, "seed": seed, "preset": preset, "dataset": dataset}
        write_json(folder / "params.json", given)
        psnr = np.broadcast_to(psnr, PHOTOS)
        per_image = {"psnr_hole": psnr, "sharpness": np.arange(PHOTOS), "ssim_hole": 0.5, "seam_inner": 0.1}
        pd.DataFrame(per_image).to_csv(folder / "per_image.csv", index=False)
        (folder / "history.csv").write_text("kimg,test_psnr_hole_pooled\n1,2.0\n")
        mean = {
            "sharpness": 0.5,
            "psnr_hole": psnr.mean(),
            "psnr_hole_pooled": psnr.mean() - 1,
            "n_photos": PHOTOS,
            "test_set": test_set,
        }
        write_json(folder / "metrics.json", mean | metrics | {"status": "done"})

    return add


def test_tidy_rows_have_the_mean_and_students_interval_over_seeds(study):
    for seed, psnr in enumerate((10.0, 12.0, 14.0)):
        study(seed, psnr)
    rows = Results(STUDY, "quick").tidy(["arm", "ratio"]).set_index("metric")
    row = rows.loc["psnr_hole"]
    half = 4.302652729911275 * 2 / math.sqrt(3)  # t(0.975, 2) s / sqrt(n)
    assert (row["value"], row["ci_low"], row["ci_high"]) == pytest.approx((12, 12 - half, 12 + half))
    assert (row["n_seeds"], row["n_photos"], row["dataset"], row["preset"]) == (3, PHOTOS, "demo", "quick")
    assert list(rows.reset_index().columns) == ["metric", "arm", "ratio", "dataset", "value", "ci_low", "ci_high",
                                                "n_seeds", "n_photos", "test_set", "preset"]  # fmt: skip


def test_one_seed_has_an_interval_over_its_photos_and_says_so(study):
    study(0, np.arange(8.0))
    row = Results(STUDY, "quick").tidy(["arm"]).set_index("metric").loc["psnr_hole"]
    assert row["n_seeds"] == 1
    assert row["ci_low"] < 3.5 < row["ci_high"]


def test_infinite_ratios_group_and_are_written_as_inf(study, tmp_path):
    for seed in (0, 1):
        study(seed, 10.0 + seed, ratio=math.inf)
    results = Results(STUDY, "quick")
    results.write(results.tidy(["arm", "ratio"]), "text")
    assert set(pd.read_csv(tmp_path / STUDY / "table.csv", dtype=str)["ratio"]) == {"inf"}
    assert len(results.where(ratio=math.inf)) == 2


def test_writing_a_preset_leaves_the_others_as_they_were(study, tmp_path):
    study(0, 10.0)
    study(0, 20.0, preset="full")
    for preset, text in (("full", "of full"), ("quick", "of quick"), ("quick", "again")):
        results = Results(STUDY, preset)
        results.write(results.tidy(["arm"]), text)
    written = pd.read_csv(tmp_path / STUDY / "table.csv")
    values = written[written["metric"] == "psnr_hole"].set_index("preset")["value"].to_dict()
    assert values == {"full": 20.0, "quick": 10.0}
    text = (tmp_path / STUDY / "table.md").read_text()
    assert text.count("## Preset `quick`") == text.count("again") == text.count("of full") == 1
    assert "of quick" not in text


def test_differences_pair_seeds_and_refuse_other_photos(study):
    for seed in (0, 1, 2):
        study(seed, 10.0 + seed)
    for seed in (1, 2, 3):
        study(seed, 11.0 + seed + 0.1 * (seed == 2), arm="l1")
    study(0, 9.0, arm="noise", test_set="b" * 64)
    results = Results(STUDY, "quick")
    found = results.difference("psnr_hole", {"arm": "l1"}, JOINT)
    assert (found.n_seeds, found.difference) == (2, pytest.approx(1.05))
    assert results.difference("psnr_hole", {"arm": "noise"}, JOINT) is None
    assert results.difference("psnr_hole", {"arm": "noise"}, JOINT, same_pixels=False).difference == pytest.approx(-1)
    assert results.difference("psnr_hole", {"arm": "absent"}, JOINT) is None


def test_no_runs_is_one_sentence_with_the_command(study):
    study(0, 10.0)
    with pytest.raises(
        BadInput, match="no finished runs of the preset 'full'; make them with python -m inpaintlib sweep"
    ):
        Results(STUDY, "full")


@pytest.mark.parametrize(
    ("value", "low", "high", "seeds", "sign", "verdict"),
    [
        (1, 0.5, 1.5, 3, 1, "reproduced"),
        (1, -0.1, 2.1, 3, 1, "partly"),
        (-0.1, -1, 0.8, 3, 1, "not reproduced"),
        (-1, -1.5, -0.5, 3, -1, "reproduced"),
        (-1, -2.5, 0.5, 3, -1, "partly"),
        (1, 0.5, 1.5, 3, -1, "not reproduced"),
        (1, 0.5, 1.5, 1, 1, "not tested"),
        (1, math.nan, math.nan, 3, 1, "not tested"),
    ],
)
def test_verdicts_follow_from_the_interval(value, low, high, seeds, sign, verdict):
    assert judge(value, low, high, seeds, sign).verdict == verdict


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((0.01, 0.02, 0.0), "reproduced"),
        ((1.0, 1.1, 0.9), "not reproduced"),
        ((0.0, 0.3, 0.1), "partly"),
        ((0.0,), "not tested"),
    ],
)
def test_equality_needs_the_whole_interval_inside_its_margin(study, shifts, verdict):
    for seed, shift in enumerate(shifts):
        study(seed, 10.0 + seed)
        study(seed, 10.0 + seed + shift, arm="l1")
    assert claims.test(HA3, Results(STUDY, "quick")).verdict == verdict


def test_every_claim_of_a_study_with_one_arm_is_judged_or_says_that_it_is_not(study, tmp_path):
    for seed in (0, 1, 2):
        for value, psnr in ((1.0, 10), (1000.0, 12), (math.inf, 12.5)):
            study(seed, psnr + 1.01 * seed, ratio=value, sharpness=1 / psnr)
            folder = tmp_path / STUDY / "runs" / f"ratio-{value}-{seed}-quick"
            pd.DataFrame({"kimg": [1, 2, 3], "test_psnr_hole_pooled": [1.0, 3.0, 2.5 + 0.01 * seed]}).to_csv(
                folder / "history.csv", index=False
            )
    rows = claims.write(Results(STUDY, "quick")).set_index("id")
    assert rows.loc["HA1a", ["ours", "verdict"]].tolist() == [pytest.approx(2.0), "reproduced"]
    assert rows.loc["HA1b", ["ours", "verdict"]].tolist() == [pytest.approx(1.0), "reproduced"]
    assert rows.loc["HA1c", "verdict"] == "reproduced"
    assert rows.loc["HA5", ["ours", "verdict"]].tolist() == [pytest.approx(0.49), "reproduced"]
    assert rows.loc["HA6", ["ours", "verdict"]].tolist() == [pytest.approx(1.0), "reproduced"]
    assert set(rows.loc[["HA1d", "HA3", "HA7", "HA8", "HA9a", "HA10", "T1-x1"], "verdict"]) == {"not tested"}
    assert pd.read_csv(tmp_path / "claims.csv").columns.tolist() == claims.COLUMNS
    assert "HA10" in (tmp_path / "claims.md").read_text()


def test_a_figure_is_judged_on_its_own_photos_only(study):
    for seed, pooled in enumerate((11.5, 11.6, 11.7)):
        study(seed, pooled + 1, ratio=1.0, dataset="tiny_imagenet")
        study(seed, pooled + 6, ratio=100.0, dataset="tiny_imagenet")
    results = Results(STUDY, "quick")
    verdicts = {c["id"]: claims.test(c, results).verdict for c in sweep.load(STUDY).claims if c["test"] == "figure"}
    assert verdicts == {"T1-x1": "reproduced", "T1-x100": "not reproduced", "T1-x1000": "not tested"}


def test_the_spread_over_seeds_and_two_orders_of_the_arms(study):
    for seed, fid in enumerate((6.0, 7.0, 8.0, 9.0, 10.0)):
        for arm, shift, hole in (("a", 0, 1), ("b", 20, 2), ("c", 40, 3 if seed else 0)):
            study(seed, 10.0, arm=arm, fid=fid + shift, fid_hole=hole)
    results, claim = Results(STUDY, "quick"), {"metric": "fid", "where": {"arm": "a"}}
    spread = claims.test(claim | {"test": "spread", "above": 0.5}, results)
    s = math.sqrt(2.5)  # 4 s^2 / chi2 with 4 degrees of freedom, whose ends are 0.484419 and 11.143287
    assert (spread.ours, spread.low, spread.high) == pytest.approx((s, s * math.sqrt(4 / 11.143287),
                                                                    s * math.sqrt(4 / 0.484419)), rel=1e-5)  # fmt: skip
    assert (spread.verdict, spread.seeds) == ("reproduced", 5)
    assert claims.test(claim | {"test": "spread", "above": 1.0}, results).verdict == "partly"
    assert claims.test(claim | {"test": "spread", "above": 2.0}, results).verdict == "not reproduced"
    relative = claims.test(claim | {"test": "spread", "above": 0.1, "relative": True}, results)
    assert (relative.ours, relative.verdict) == (pytest.approx(s / 8), "reproduced")
    orders = claims.test({"metric": "fid", "test": "reorders", "other": "fid_hole", "above": 0.1}, results)
    assert (orders.ours, orders.seeds) == (pytest.approx(1.5 / 5), 5)  # rho is -1/2 with seed 0 and 1 with the others
    assert orders.verdict == "partly"


def test_larger_presets_keep_their_verdicts_and_smoke_writes_none(study, tmp_path):
    for preset, gap in (("full", 2.0), ("quick", -2.0), ("smoke", 0.0)):
        for seed in (0, 1):
            study(seed, 12 + 0.1 * seed, preset=preset)
            study(seed, 12 - gap + 0.11 * seed, ratio=1.0, preset=preset)
    claims.write(Results(STUDY, "smoke"))
    assert not (tmp_path / "claims.csv").exists()
    for preset in ("quick", "full", "quick"):
        claims.write(Results(STUDY, preset))
    rows = pd.read_csv(tmp_path / "claims.csv").set_index("id")
    assert rows.loc[["HA1a", "HA3"], "verdict"].tolist() == ["reproduced", "not tested"]
    assert rows.loc["HA1a", "command"].endswith("--preset full")
    assert rows.loc["HA3", "command"].endswith("--preset full")  # nor does one "not tested" replace another


def test_cells_and_sections(tmp_path):
    assert tables.cell(1.234, 1.1, 1.3) == "1.23 [1.10, 1.30]"
    assert tables.cell(1.234, digits=1) == "1.2"
    assert tables.cell(math.nan) == ""
    path = tmp_path / "table.md"
    for title, text in (("A", "one"), ("B", "two"), ("A", "three")):
        tables.write_section(path, title, text)
    assert "one" not in path.read_text()
    assert path.read_text().index("two") < path.read_text().index("three")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"test": "nicer"}, "claim X: there is no test 'nicer'; choose from greater, less"),
        ({"within": 1}, "claim X: 'within' does not belong to the test greater"),
        ({"metric": None}, "claim X has no metric"),
    ],
)
def test_a_claim_with_a_wrong_key_is_named(change, words):
    claim = {"id": "X", "source": "s", "statement": "t", "metric": "m", "test": "greater", "a": {}, "b": {}} | change
    claim = {key: value for key, value in claim.items() if value is not None}
    with pytest.raises(BadInput, match=words):
        claims.check(STUDY, claim)
