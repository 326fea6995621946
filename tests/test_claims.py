"""Claims judged from runs whose numbers are known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import read_json, write_json
from inpaintlib.harness import claims, report, statistics, sweep
from inpaintlib.harness.claims import BY_CONSTRUCTION, CONTRADICTED, NOT_TESTED, REPRODUCED, UNDECIDED
from inpaintlib.harness.tables import Results
from tests.conftest import meanwhile
from tests.toy_study import PRESETS, RUNS, Toy

A, B = {"arm": "a"}, {"arm": "b"}
NOISE = np.array([0.3, -0.1, 0.2, -0.25, 0.05, -0.2])  # of six seeds, sums to 0


def claim(id="X", test="greater", **more) -> dict:
    given = {"id": id, "source": "ours", "statement": "s", "metric": "psnr_hole", "test": test}
    return given | ({"a": A, "b": B} if test in ("greater", "less", "equal") else {}) | more


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A study whose arms' PSNR is 10, 10 + gap, ... and a function that writes its claims and builds the rows."""
    found = Toy(tmp_path, monkeypatch)

    def build(*listed, gap=1.0, noise=1.0, preset="quick", **options):
        found.sweep_file(options.pop("presets", PRESETS), list(listed))
        found.finish(preset, measure(gap, noise), **options)
        return claims.build().set_index("id", drop=False)

    found.build = build
    return found


def measure(gap=1.0, noise=1.0):
    """a is above b by the gap, in each seed by a little more or less."""

    def of(p):
        level = {"a": 10 + gap + noise * NOISE[p["seed"]], "b": 10.0, "c": 9.0}
        return {"psnr_hole": level.get(p["arm"], 10 + math.log10(p["ratio"]) + 0.01 * p["seed"]) + 0.1 * p["seed"]}

    return of


def test_a_comparison_is_the_paired_t_test_of_its_seeds(toy):
    row = toy.build(claim(published=1.1)).loc["X"]
    theirs = stats.ttest_1samp(1 + NOISE, 0)
    low, high = theirs.confidence_interval()
    assert (row["ours"], row["ci_low"], row["ci_high"]) == pytest.approx((1, low, high), rel=1e-5)
    assert row["p"] == row["p_adjusted"] == pytest.approx(theirs.pvalue, rel=1e-5)
    assert row["detectable"] == pytest.approx(statistics.detectable(NOISE.std(ddof=1), 6), rel=1e-5)
    assert (row["verdict"], row["wins"], row["published_inside"], row["n_seeds"]) == (REPRODUCED, 1, "True", 6)
    assert (row["n_photos"], row["n_pictures"], row["test_set"]) == (6, 3, "ab12ab12")
    assert (row["study"], row["preset"], row["dataset"], row["family"]) == ("toy", "quick", "demo", "ours")
    assert row["computed"] == "c" * 10
    assert row["command"] == ("python -m inpaintlib sweep toy --preset quick && "
                              "python -m inpaintlib report toy --preset quick")  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "test", "more", "verdict"),
    [
        (1.0, "greater", {}, REPRODUCED),
        (1.0, "less", {}, CONTRADICTED),
        (-1.0, "less", {}, REPRODUCED),
        (-1.0, "greater", {}, CONTRADICTED),
        (0.05, "greater", {}, UNDECIDED),
        (-0.05, "greater", {}, UNDECIDED),
        (1.0, "greater", {"above": 2.0}, CONTRADICTED),
        (1.0, "greater", {"above": 0.9}, UNDECIDED),
        (0.05, "equal", {"within": 0.5}, REPRODUCED),
        (1.0, "equal", {"within": 0.5}, CONTRADICTED),
        (-1.0, "equal", {"within": 0.5}, CONTRADICTED),
        (0.4, "equal", {"within": 0.5}, UNDECIDED),
        (0.6, "equal", {"within": 0.5}, UNDECIDED),
        (1.0, "greater", {"relative": True, "above": 0.05}, REPRODUCED),
        (1.0, "greater", {"relative": True, "above": 0.15}, CONTRADICTED),
    ],
)
def test_the_rules_of_the_verdict(toy, gap, test, more, verdict):
    assert toy.build(claim(test=test, **more), gap=gap).loc["X", "verdict"] == verdict


def test_an_undecided_row_says_what_it_could_have_seen_and_what_would_decide(toy):
    rows = toy.build(claim("D"), claim("E", "equal", within=0.4), gap=0.1)
    row, sd = rows.loc["D"], NOISE.std(ddof=1)
    assert row["detectable"] == pytest.approx(statistics.detectable(sd, 6), rel=1e-4)  # the larger p: tested at .05
    assert row["seeds_needed"] == statistics.seeds_needed(0.1, sd)
    assert f"{row['seeds_needed']:g} seeds would decide" in claims.markdown(rows)
    equal = rows.loc["E"]
    assert equal["verdict"] == REPRODUCED  # .3 inside the margin
    assert equal["detectable"] == pytest.approx(statistics.detectable(sd, 6, 0.025, sides=1), rel=1e-4)


def test_holm_counts_the_tested_claims_of_a_family_of_a_study_preset_and_dataset(toy):
    listed = [claim("O1", above=0.7), claim("O2", above=0.6), claim("O3", by_construction="Jensen"),
              claim("O4", a={"arm": "ratio", "ratio": 7}),
              claim("P1", above=0.7, source="Paper 2018", place="Table 1")]  # fmt: skip
    toy.build(*listed)
    rows = toy.build(*listed, preset="night").set_index(["id", "preset"])
    p = rows.xs("quick", level="preset")["p"]
    assert rows.loc[("O2", "quick"), "p_adjusted"] == pytest.approx(2 * p["O2"], rel=1e-5)
    assert rows.loc[("O1", "quick"), "p_adjusted"] == pytest.approx(max(p["O1"], 2 * p["O2"]), rel=1e-5)
    assert rows.loc[("P1", "quick"), "p_adjusted"] == pytest.approx(p["P1"], rel=1e-5)
    assert rows.loc[("O3", "night"), ["verdict", "why"]].tolist() == ["by construction", "Jensen"]
    assert np.isnan(rows.loc[("O3", "night"), "p_adjusted"])
    assert rows.loc[("P1", "night"), "family"] == "published"


def per_cell(shift):
    """Photos in two cells; arm a is above b by ``shift`` of a cell and a little noise of its own."""

    def photos(p):
        cell = np.array([0, 1] * 3)
        noise = 0.1 * NOISE[(p["seed"] + cell) % 6]
        return {"size": cell, "psnr_hole": 10 + (np.array(shift)[cell] + noise if p["arm"] == "a" else 0.0)}

    return photos


def test_a_claim_about_each_cell_is_an_intersection_union_test(toy):
    listed = claim("each", each=["size"]), claim("less", "less", each=["size"])
    rows = toy.build(*listed, photos=per_cell([1.0, 2.0]))
    results = Results("toy", "quick", ["size"])
    one = [claims.test(claim(a=A | {"size": i}, b=B | {"size": i}), results) for i in (0, 1)]
    assert [found.ours for found in one] == pytest.approx([1, 2])
    worst = max(found.p for found in one)
    assert rows.loc["each", ["p", "verdict", "cells"]].tolist() == [
        pytest.approx(worst, rel=1e-5),
        REPRODUCED,
        "2 of 2",
    ]
    opposed = 2 * min(found.p for found in one)
    assert rows.loc["less", ["p", "verdict", "cells"]].tolist() == [
        pytest.approx(opposed, rel=1e-5),
        CONTRADICTED,
        "0 of 2",
    ]
    rows = toy.build(*listed, photos=per_cell([1.0, -0.02]))
    assert rows.loc["each", ["verdict", "cells"]].tolist() == [UNDECIDED, "1 of 2"]
    assert rows.loc["each", "ours"] == pytest.approx(-0.02)
    assert toy.build(claim(each=["size"]), photos=per_cell([1.0, -1.0])).loc["X", "verdict"] == CONTRADICTED


def test_a_claim_may_compare_two_cells_of_one_arm(toy):
    cells = claim(a=A | {"size": 1}, b=A | {"size": 0})
    row = toy.build(cells, photos=per_cell([1.0, 2.0])).loc["X"]
    assert (row["ours"], row["verdict"], row["n_photos"]) == (pytest.approx(1), REPRODUCED, 3)


def test_trends_are_pages_test_and_print_each_seeds_rho(toy):
    ratio = {"by": "ratio", "where": {"arm": "ratio"}}
    rows = toy.build(claim("up", "increasing", **ratio), claim("down", "decreasing", **ratio))
    up, down = rows.loc["up"], rows.loc["down"]
    assert (up["ours"], up["p"], up["verdict"]) == (1, pytest.approx(2 / 216, rel=1e-5), REPRODUCED)
    assert down["verdict"] == CONTRADICTED
    assert "Rho of each seed: +1.00, +1.00, +1.00" in up["why"]
    assert np.isnan(up["ci_low"])


def test_a_figure_is_judged_on_its_own_photos_only(toy):
    figure = {"test": "figure", "where": B, "source": "Paper", "place": "Table 2"}
    rows = toy.build(claim("near", published=10.3, within=0.5, **figure),
                     claim("far", published=15, within=0.5, **figure),
                     claim("other", published=10.3, within=0.5, dataset="celeba", **figure))  # fmt: skip
    assert rows.loc[["near", "far", "other"], "verdict"].tolist() == [REPRODUCED, CONTRADICTED, NOT_TESTED]
    assert rows.loc["near", "ours"] == pytest.approx(10.25)
    assert rows.loc["other", ["why", "dataset"]].tolist() == [
        "it is about celeba; the runs of quick saw demo.",
        "celeba",
    ]


def test_two_metrics_of_the_same_runs_and_the_last_look(toy):
    def of(p):
        return {"psnr_hole": 10.0, "pooled": 9 - NOISE[p["seed"]], "curve": [1, 3 + 0.1 * p["seed"], 2.5]}

    toy.sweep_file(claims=[claim("exceeds", "exceeds", where=A, minus="pooled"),
                           claim("declines", "declines", metric="psnr", where=A, above=0.1),
                           claim("short", "declines", metric="psnr", where=A, least_kimg=100)])  # fmt: skip
    toy.finish("quick", of)
    rows = claims.build().set_index("id")
    assert rows.loc["exceeds", ["ours", "verdict"]].tolist() == [pytest.approx(1), REPRODUCED]
    assert rows.loc["declines", ["ours", "verdict"]].tolist() == [pytest.approx(0.75), REPRODUCED]
    assert rows.loc["short", "why"] == "it is about trainings of 100 kimg or more; these have 2."


def test_the_spread_over_seeds(toy):
    spread = {"test": "spread", "where": A, "metric": "fid"}
    toy.sweep_file(claims=[claim("wide", above=0.5, **spread), claim("narrow", above=20.0, **spread),
                           claim("relative", above=0.01, relative=True, **spread)])  # fmt: skip
    toy.finish("quick", lambda p: {"fid": 10.0 + p["seed"]})
    rows = claims.build().set_index("id")
    s = math.sqrt(3.5)  # 5 s^2 / chi-squared with 5 degrees, whose ends are 0.831212 and 12.832502
    assert rows.loc["wide", ["ours", "ci_low", "ci_high"]].tolist() == pytest.approx(
        [s, s * math.sqrt(5 / 12.832502), s * math.sqrt(5 / 0.831212)], rel=1e-5)  # fmt: skip
    assert rows.loc[["wide", "narrow", "relative"], "verdict"].tolist() == [REPRODUCED, CONTRADICTED, REPRODUCED]
    assert rows.loc["relative", "ours"] == pytest.approx(s / 12.5, rel=1e-5)


def test_two_orders_of_the_arms_are_compared_with_one_orders_noise(toy):
    def of(p):
        fid = {"a": 1.0, "b": 2.0, "c": 3.0}.get(p["arm"], 4.0) + 10 * math.log10(p["ratio"])
        noisy = fid if p["seed"] else -fid  # one seed ranks the arms the other way round
        return {"fid": fid, "turned": -fid, "noisy": noisy}

    listed = [claim(name, "reorders", metric=m, other=o) for name, m, o in
              (("turned", "fid", "turned"), ("same", "fid", "fid"), ("noise", "noisy", "fid"))]  # fmt: skip
    toy.sweep_file(claims=listed)
    toy.finish("quick", of)
    rows = claims.build().set_index("id")
    assert rows.loc["turned", ["ours", "p"]].tolist() == [2, 1 / 32]  # the same in six seeds: 2^-5
    assert rows.loc["same", ["ours", "verdict"]].tolist() == [0, UNDECIDED]
    # 5 seeds differ from the sixth alone: 2/5 of each; that one by 2 from all, and by 2 from fid
    assert rows.loc["noise", "ours"] == pytest.approx((5 * -0.4 + 0) / 6, rel=1e-5)


def test_photos_that_correlate_and_photos_that_win(toy):
    def photos(p):
        detail = np.arange(6.0)
        return {
            "picture": range(6),
            "detail": detail,
            "psnr_hole": (10 - detail + 0.1 * p["seed"]) * (1 if p["arm"] != "b" else 0.5),
        }

    listed = [claim("rho", "correlates", where=A, sign=-1) | {"with": "detail"},
              claim("wins", "wins", a=A, b=B, above=0.1, better="higher"),
              claim("loses", "wins", a=A, b=B, above=0.1, better="lower")]  # fmt: skip
    rows = toy.build(*listed, photos=photos)
    assert rows.loc["rho", ["ours", "p", "direction"]].tolist() == [-1, 1 / 32, "less"]
    assert rows.loc["wins", ["ours", "p"]].tolist() == [1, 1 / 32]
    assert rows.loc["loses", ["ours", "p"]].tolist() == [0, 1 / 32]
    for name, verdict in (("rho", REPRODUCED), ("wins", REPRODUCED), ("loses", CONTRADICTED)):
        one = toy.build(next(c for c in listed if c["id"] == name), photos=photos)
        assert one["verdict"].tolist() == [verdict]


def test_what_is_about_photos_must_hold_over_pictures_too(toy):
    """All seeds see the same photos: six seeds that agree are no evidence for more than these."""

    def photos(p):
        psnr = np.array([1.0, 4, 2, 6, 3, 5]) + 0.01 * p["seed"] * np.array([0, 0, 0, 0, 0, 1])
        return {"picture": range(6), "detail": np.arange(6.0), "psnr_hole": psnr if p["arm"] == "a" else 2.5}

    listed = [claim("rho", "correlates", where=A, sign=1) | {"with": "detail"},
              claim("wins", "wins", a=A, b=B, above=0.5, better="higher")]  # fmt: skip
    rows = toy.build(*listed, photos=photos)
    psnr = np.array([1.0, 4, 2, 6, 3, 5.025])
    assert rows["p"].tolist() == pytest.approx(
        [stats.spearmanr(psnr, range(6)).pvalue, stats.ttest_1samp(psnr > 2.5, 0.5).pvalue], rel=1e-5)  # fmt: skip
    assert rows["verdict"].tolist() == [UNDECIDED] * 2
    assert np.isinf(rows["seeds_needed"].astype(float)).all()
    assert rows["why"].str.startswith("Over pictures, which all seeds share, p is larger than over seeds (0.031)").all()


def test_what_no_network_is_part_of_is_tested_over_pictures(toy):
    def photos(p):
        return {"picture": [0, 0, 1, 1, 2, 3], "small": [1.0, 3, 1, 2, 2, 2.5], "large": [2.0, 4, 3, 3, 4, 4]}

    toy.sweep_file(claims=[claim("X", "exceeds", metric="large", where=A, minus="small"),
                           claim("Y", "exceeds", metric="pooled", where=A, minus="small")])  # fmt: skip
    toy.finish("quick", lambda p: {"large": 20 / 6, "small": 11.5 / 6, "pooled": 3.0}, photos=photos)
    rows = claims.build().set_index("id")
    found = stats.ttest_1samp([1, 1.5, 2, 1.5], 0)
    low, high = found.confidence_interval()
    assert rows.loc["X", ["ours", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(
        [1.5, low, high, found.pvalue], rel=1e-5)  # fmt: skip
    assert (rows.loc["X", "verdict"], rows.loc["X", "n_seeds"]) == (REPRODUCED, 6)
    assert rows.loc["Y", ["verdict", "why"]].tolist() == [
        NOT_TESTED, "All seeds have the same value: there is no spread to test against."]  # fmt: skip


def test_claims_that_wait_for_runs_count_in_the_correction(toy):
    toy.sweep_file(claims=[claim("tested"), claim("waits", b={"arm": "c"}),
                           claim("fails", b={"arm": "c"}, by_construction="Jensen")])  # fmt: skip
    toy.finish("quick", measure(), skip=lambda p: p["arm"] == "c")
    row = claims.build().set_index("id").loc["tested"]
    assert row["p_adjusted"] == pytest.approx(2 * row["p"], rel=1e-5)
    assert row["why"] == ("Claims of the same family that wait for runs count as tested in the correction; here these "
                          "are 1.")  # fmt: skip
    toy.finish("quick", measure())
    assert claims.build().set_index("id").loc["tested", "why"] == ""


def test_a_row_says_where_processors_go_with_arms_and_where_a_headline_has_few_seeds(toy):
    toy.sweep_file(claims=[claim("X"), claim("H", "increasing", by="ratio", where={"arm": "ratio"}, headline=True)])
    toy.finish("quick", measure(noise=0.1))
    for item in sweep.plan("toy", "quick"):
        p, env = item.parameters, item.run.folder / "env.json"
        write_json(env, read_json(env) | {"device": "new" if p["arm"] == "a" and p["seed"] > 1 else "old"})
    rows = claims.build().set_index("id")
    assert rows.loc["X", "why"] == ("The runs were made on several processors (new; old), and in 4 of 6 seeds the two "
                                    "arms on different ones.")  # fmt: skip
    assert rows.loc["H", "why"].endswith("A headline claim should have 6 seeds; this one has 3.")


def test_trivial_fills_are_arms_and_mark_what_stays_below_them(toy):
    toy.trivial({"mean colour": [10.5] * 6, "Telea": [12.0] * 6})
    rows = toy.build(claim("fill", "less", b={"fill": "Telea"}), claim("both"), claim("low", a=B, b={"arm": "c"}),
                     claim("none", b={"fill": "telea"}))  # fmt: skip
    assert rows.loc["fill", ["ours", "verdict"]].tolist() == [pytest.approx(-0.75), REPRODUCED]
    assert rows.loc[["fill", "both", "low"], "below_trivial"].tolist() == ["False", "False", "True"]
    assert rows.loc["none", "why"] == "there is no trivial fill 'telea'; did you mean 'Telea'?"
    assert "below the mean colour" in claims.markdown(rows.loc[["low"]])


def test_an_incomplete_grid_diverged_runs_and_few_seeds_are_not_tested(toy):
    def of(p):
        return {"status": "diverged"} if (p["arm"], p["seed"]) == ("c", 3) else measure()(p)

    toy.sweep_file(claims=[claim("missing"), claim("diverged", a={"arm": "c"}), claim("fine", b={"arm": "c"}, a=B)])
    toy.finish("quick", of, skip=lambda p: (p["arm"], p["seed"]) == ("a", 2))
    rows = claims.build().set_index("id")
    assert set(rows["verdict"]) == {NOT_TESTED}
    assert rows["why"].tolist() == ["incomplete grid: 1 of 12 runs missing.", "incomplete grid: 1 of 12 runs diverged.",
                                    "incomplete grid: 1 of 12 runs diverged."]  # fmt: skip
    one = {"quick": {"parameters": {"preset": "quick", "kimg": 4}, "runs": [{"arm": ["a", "b"], "seed": [0]}]}}
    assert toy.build(claim(), presets=one).loc["X", "why"] == "1 seed; a claim needs 3 or more."


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metric": "psnr_hol"}, "these runs did not measure 'psnr_hol'; did you mean 'psnr_hole'?"),
        ({"a": {"arm": "rati"}}, "no run of the study has arm = rati; did you mean 'ratio'?"),
        ({"a": {"arm": "ratio", "ratio": 7}}, "no run of the study has ratio = 7"),
        ({"a": {"rato": 7}}, "the runs of toy have no parameter 'rato'; did you mean 'ratio'?"),
        ({"a": {"arm": "ratio"}}, "several runs of one seed have arm = ratio"),
        ({"within": 1}, "notebooks/sweeps/toy.yaml: claim X: 'within' does not belong to the test greater."),
        ({"test": "equal", "within": 0}, "notebooks/sweeps/toy.yaml: claim X: a margin must be above 0, not 0."),
        ({"test": "equal", "within": "wide"}, "claim X: within must be a number, not 'wide'."),
        ({"test": "nicer"}, "claim X: there is no test 'nicer'; choose from greater, less"),
        ({"metric": None}, "claim X has no metric."),
        ({"source": "Paper 2018"}, "claim X has no place."),
        ({"each": ["size"]}, "per_image has no column 'size'"),
        ({"each": "size"}, "each must be a list of columns of per_image, not 'size'."),
        ({"id": "fine"}, "notebooks/sweeps/toy.yaml: the claim fine is there twice."),
        ({"prose": "yes"}, "claim X: prose must be two sentences, where it is reproduced and where not, not 'yes'."),
        ({"family": "mine"}, "claim X: family must be one of published, ours, not 'mine'."),
    ],
)
def test_bad_claims_say_so_and_the_other_rows_still_come_out(toy, change, why):
    wrong = {key: value for key, value in (claim() | change).items() if value is not None}
    rows = toy.build(claim("fine"), wrong)
    assert rows.iloc[0][["id", "verdict"]].tolist() == ["fine", REPRODUCED]
    assert len(rows) == 2
    assert rows.iloc[1]["verdict"] == NOT_TESTED
    assert why in rows.iloc[1]["why"]


def test_a_claim_that_is_no_mapping_does_not_stop_the_others(toy):
    rows = toy.build(claim(), "all is well")
    assert rows["verdict"].tolist() == [REPRODUCED, NOT_TESTED]


def test_claims_are_built_when_who_writes_them_is_done(toy):
    toy.build(claim())
    path = inpaintlib.RESULTS / "claims.csv"
    built = path.read_text()
    meanwhile(path, claims.build, lambda: path.write_text("of another\n"), seconds=3)
    assert path.read_text() == built


def test_runs_of_two_versions_of_the_code_are_said(toy):
    toy.sweep_file(claims=[claim("X", above=0.1), claim("Y", above=0.1, by_construction="Jensen")])
    toy.finish("quick", measure(), skip=lambda p: p["seed"] > 2, commit="d" * 40)
    toy.finish("quick", measure(), skip=lambda p: p["seed"] < 3)
    rows = claims.build()
    assert rows["verdict"].tolist() == [REPRODUCED, BY_CONSTRUCTION]
    assert (rows["computed"] == "several").all()
    assert "several versions of the code" in rows["why"].iloc[0]
    assert rows["why"].iloc[1] == "Jensen"  # what no version could change


def test_runs_of_two_processors_are_said_and_their_times_are_not_compared(toy):
    toy.sweep_file(claims=[claim("X", above=0.1), claim("Y", above=0.1, metric="training_seconds")])
    toy.finish("quick", lambda p: (score := measure()(p)) | {"training_seconds": score["psnr_hole"]})
    assert claims.build()["verdict"].tolist() == [REPRODUCED, REPRODUCED]
    env = next(inpaintlib.RESULTS.glob("*/runs/arm=a,*/env.json"))
    write_json(env, read_json(env) | {"device": "another", "precision": "fp32"})
    rows = claims.build().reset_index()
    assert rows["verdict"].tolist() == [REPRODUCED, NOT_TESTED]
    assert rows["why"].str.contains("several processors.*another, fp32").all()
    assert rows["why"].str.contains("Times are compared on one processor alone").tolist() == [False, True]


def test_sentences_that_three_rows_share_stand_below_the_table_once(toy):
    toy.sweep_file(claims=[claim(name, above=0.1) for name in "XYZ"])
    toy.finish("quick", measure(), skip=lambda p: p["seed"] > 2, commit="d" * 40)
    toy.finish("quick", measure(), skip=lambda p: p["seed"] < 3)
    rows = claims.build().reset_index(drop=True)
    rows.loc[0, "why"] += " A sentence of its own, as long as the one that all three rows share."
    short, notes = claims.noted(rows)
    assert notes == ["The runs come from several versions of the code."]
    own = "A sentence of its own, as long as the one that all three rows share."
    assert short["why"].tolist() == [f"{own} Note 1.", "Note 1.", "Note 1."]
    text = claims.markdown(rows)
    assert text.count(notes[0]) == 1
    assert text.endswith(f"\n\n1. {notes[0]}")
    assert rows["why"].str.contains(notes[0]).all()  # claims.csv keeps them whole
    assert not claims.noted(rows[:2])[1]


def test_one_row_for_each_preset_and_dataset_and_the_largest_complete_one_is_shown(toy):
    two = {name: given | {"runs": [RUNS[0] | {"dataset": ["faces", "demo"]}]} for name, given in PRESETS.items()}
    toy.build(claim(), presets=two)
    without = {"skip": lambda p: (p["dataset"], p["seed"]) == ("demo", 1)}
    rows = toy.build(claim(), presets=two, preset="night", gap=-1.0, **without)
    assert rows[["preset", "dataset", "verdict"]].values.tolist() == [
        ["quick", "faces", REPRODUCED], ["quick", "demo", REPRODUCED], ["night", "faces", CONTRADICTED],
        ["night", "demo", NOT_TESTED]]  # fmt: skip
    assert claims.shown(rows)[["preset", "dataset", "verdict"]].values.tolist() == [["night", "faces", CONTRADICTED]]
    assert claims.scoreboard(rows).loc[CONTRADICTED].tolist() == [0, 1, 1]
    assert claims.scoreboard(rows).to_numpy().sum() == 2


def test_smoke_and_changed_presets_write_nothing(toy):
    for preset in ("smoke", "quick"):
        toy.finish(preset, measure())
        assert claims.write(Results("toy", preset)).empty  # no claims yet
    toy.sweep_file(claims=[claim()])
    (toy.results / "claims.csv").unlink()
    assert claims.write(Results("toy", "smoke"))["verdict"].tolist() == [REPRODUCED]
    assert not (toy.results / "claims.csv").exists()


def test_writing_one_preset_or_all_gives_the_same_bytes_and_claims_md_is_made_of_claims_csv(toy):
    listed = [claim(), claim("E", "equal", within=0.05), claim("U", "untestable", why="only eyes can tell")]
    toy.sweep_file(study="another", claims=[claim("Y")])
    toy.build(*listed)
    toy.build(*listed, preset="night", gap=0.02)
    files = [toy.results / name for name in ("claims.csv", "claims.md")]
    before = [file.read_bytes() for file in files]
    for preset in ("night", "quick"):
        claims.write(Results("toy", preset))
        assert [file.read_bytes() for file in files] == before
    for file in files:
        file.unlink()
    claims.write(Results("toy", "night"))
    claims.write(Results("toy", "quick"))
    rows = claims.read()
    assert claims.page(rows) == files[1].read_text()
    assert [line for line in before[0].decode().splitlines() if "another" not in line] == files[
        0
    ].read_text().splitlines()
    assert rows[["id", "preset"]].values.tolist() == [["X", "quick"], ["X", "night"], ["E", "quick"], ["E", "night"],
                                                      ["U", ""]]  # fmt: skip
    toy.sweep_file(claims=listed[1:])  # X goes
    claims.write(Results("toy", "quick"))
    assert set(claims.read()["id"]) == {"E", "U"}


def test_a_study_without_runs_has_a_row_for_each_claim(toy):
    toy.sweep_file(claims=[claim("X"), claim("Z", source="Paper", place="Sec. 3")])
    rows = claims.build()
    assert rows[["id", "verdict", "why", "preset"]].values.tolist() == [
        [name, NOT_TESTED, "no preset has finished runs.", ""] for name in ("X", "Z")]  # fmt: skip


def test_commands_name_the_sweeps_that_a_study_needs(toy):
    toy.sweep_file(study="gan")
    toy.sweep_file(claims=[claim()], needs=["gan"])
    steps = [f"python -m inpaintlib {s} --preset quick" for s in ("sweep gan", "sweep toy", "report toy")]
    assert claims.command("toy", "quick") == " && ".join(steps)
    changed = "sweep toy --preset quick --set kimg=9 && python -m inpaintlib report toy --preset quick+kimg=9"
    assert claims.command("toy", "quick+kimg=9").endswith(changed)


def test_values_for_prose_are_the_shown_rows(toy):
    rows = toy.build(claim(), claim("T", "increasing", by="ratio", where={"arm": "ratio"}), claim("N", metric="no"))
    assert (
        claims.value("X")
        == f"+1 [{rows.loc['X', 'ci_low']:+.3g}, {rows.loc['X', 'ci_high']:+.3g}], p < .001, 6 seeds, reproduced"
    )
    assert claims.value("T") == "rho +1, p = .009, 3 seeds, reproduced"
    assert claims.value("N") == "not tested"
    assert claims.number(-0.1666, "less") == "−0.167"
    assert claims.number(-0.1666, "equal", "%") == "−16.7 %"
    assert claims.number(0.55, "greater", "of photos") == "55 %"
    assert [claims.p_value(p) for p in (0.0004, 0.0301, 0.9999, math.nan)] == ["p < .001", "p = .030", "p = 1", ""]
    with pytest.raises(BadInput, match="has no claim 'XX'"):
        claims.value("XX")


def test_a_report_names_absent_arms_once_and_not_where_other_photos_tested_the_claim(toy):
    toy.build(claim("X"), claim("N"))
    rows = claims.table(Results("toy", "quick"))
    absent = {"verdict": NOT_TESTED, "why": "the preset quick has no finished run with arm = a.", "dataset": "other"}
    rows = pd.concat([rows[rows["id"] == "X"], rows.assign(**absent)])
    line, absent_line = claims.said(rows, "X", "N", dataset="demo").splitlines()
    assert line.startswith("* **X** s (ours). **reproduced**: +1 [")
    assert absent_line == "* Not among the runs of this preset: **N** s."


def test_a_sentence_of_prose_follows_the_verdict(toy):
    prose = {"prose": ["It is", "It is not"]}
    listed = [claim("above"), claim("below", "less"), claim("open", above=1), claim("none", metric="no")]
    rows = toy.build(claim("silent"), *(one | prose for one in listed))
    above, below, undecided, none = claims.discussed("toy", rows.reset_index(drop=True)).splitlines()
    assert above.startswith("* It is (above: +1 [")
    assert above.endswith("], p < .001, 6 seeds).")
    assert below.startswith("* It is not (below: +1 [")
    assert undecided.startswith("* *Undecided*: s (open: +1 [")
    assert none == "* *Not tested*: s (none: these runs did not measure 'no')."
    decided = claims.discussed("toy", rows.reset_index(drop=True), short=True).splitlines()
    assert [line.split(":")[0] for line in decided] == ["* It is (above", "* It is not (below"]
    assert decided[0].startswith("* It is (above: `psnr_hole` +1 [")
    assert decided[0].endswith("6 seeds, quick).")


def test_claims_that_two_presets_answer_differently_are_listed(toy):
    listed = claim(), claim("Y", a={"arm": "c"})  # c is 1 below b, whatever the gap
    assert claims.turned("toy") == "0 claims were tested by two presets or more; none turned."
    toy.build(*listed)
    assert claims.turned("toy") == "0 claims were tested by two presets or more; none turned."
    toy.build(*listed, preset="night", gap=-1.0)
    said, counted = claims.turned("toy").split("\n\n")
    assert said.startswith("* **X** s (ours): quick +1 [")
    assert "reproduced; night −1 [" in said
    assert said.endswith("contradicted.")
    assert "**Y**" not in said
    assert counted == "2 claims were tested by two presets or more."


def test_a_run_of_several_arms_is_divided_by_the_columns_that_name_them(toy):
    """As a search that also measures Telea under several masks: per_image has a column ``arm``."""

    def photos(p):
        own = pd.DataFrame({"arm": p["arm"], "mask": ["centre"] * 3 + ["half"] * 3, "psnr_hole": 10 + NOISE[p["seed"]]})
        other = [own.assign(arm="telea", psnr_hole=9.0)] if p["arm"] == "a" else []
        both = pd.concat([own, *other]).assign(id="x", picture=0)
        return {name: both[name].tolist() for name in both}

    half, telea = {"arm": "a", "mask": "half"}, {"arm": "telea", "mask": "half"}
    listed = [claim("telea", a=half, b=telea), claim("masks", a=half, b={"arm": "a", "mask": "centre"}),
              claim("unclear", a=half, b={"arm": "telea"}), claim("ratios", a=half, b={"arm": "ratio", "mask": "half"}),
              claim("speed", "figure", metric="speed", where=half, published=3, within=9, family="ours")]  # fmt: skip
    toy.sweep_file(claims=listed)
    toy.finish("quick", lambda p: {"psnr_hole": 0.0, "speed": 3.0 + NOISE[p["seed"]]}, photos=photos)
    rows = claims.build().set_index("id")
    assert rows.loc["telea", ["ours", "verdict", "n_photos"]].tolist() == [pytest.approx(1), REPRODUCED, 3]
    assert rows.loc["masks", ["ours", "verdict"]].tolist() == [0, UNDECIDED]
    assert rows.loc["unclear", "why"].startswith("several runs of one seed have arm = telea")
    assert rows.loc["speed", ["ours", "verdict"]].tolist() == [pytest.approx(3), REPRODUCED]


def test_fewer_restarts_of_an_arm_are_its_runs_though_other_runs_have_so_many(toy):
    """As a search that measures 1 and 16 restarts: per_image has a column of the parameter's name."""

    def photos(p):
        whole = pd.DataFrame({"ratio": p["ratio"], "arm": p["arm"], "psnr_hole": 10 + NOISE[p["seed"]] + 0 * NOISE})
        fewer = (
            [whole.assign(ratio=1.0, psnr_hole=whole["psnr_hole"] - 2 - p["seed"] / 100)] if p["arm"] == "many" else []
        )
        both = pd.concat([whole, *fewer]).assign(id="x", picture=0)
        return {name: both[name].tolist() for name in both}

    given = [{"arm": "many", "ratio": 16, "seed": [0, 1, 2]}, {"arm": "one", "seed": [0, 1, 2]}]
    listed = [claim("X", a={"arm": "many", "ratio": 16.0}, b={"arm": "many", "ratio": 1.0})]
    toy.sweep_file({"quick": {"parameters": {"preset": "quick"}, "runs": given}}, listed)
    toy.finish("quick", lambda p: {}, photos=photos, skip=lambda p: p == p | {"arm": "many", "seed": 2})
    assert claims.build()["why"].tolist() == ["incomplete grid: 1 of 3 runs missing."]
    toy.finish("quick", lambda p: {}, photos=photos)
    assert claims.build()[["verdict", "ours", "n_seeds"]].to_numpy().tolist() == [[REPRODUCED, pytest.approx(2.01), 3]]


def test_a_report_is_of_the_largest_complete_preset(toy):
    assert sweep.reported("toy") == "smoke"
    toy.finish("quick", measure(), skip=lambda p: p["seed"] == 0)
    assert sweep.reported("toy") == "quick"  # none is complete
    toy.finish("smoke", measure())
    assert sweep.reported("toy") == "smoke"
    toy.finish("quick", lambda p: {"status": "diverged"} if p["seed"] == 0 else measure()(p))
    toy.finish("night", measure(), skip=lambda p: p["arm"] == "b")
    assert sweep.reported("toy") == "quick"
    assert sweep.reported("toy", "night") == "night"


def test_a_report_without_runs_is_one_sentence(toy):
    with pytest.raises(BadInput, match="no run of the preset 'quick' is done; make them with"):
        report.execute("toy", "quick")
    with pytest.raises(BadInput, match="no study has a finished run of the preset 'auto'"):
        report.execute_all()


def test_a_study_without_a_report_is_judged(toy):
    toy.finish("quick", measure())
    content = (toy.root / "notebooks" / "sweeps" / "toy.yaml").read_text().replace("report: 11_toy_report.ipynb\n", "")
    (toy.root / "notebooks" / "sweeps" / "toy.yaml").write_text(content.replace("claims: []", f"claims: [{claim()}]"))
    assert report.execute("toy", "quick") is None
    assert claims.read()["verdict"].tolist() == [REPRODUCED]
