"""Tables from runs whose numbers are known."""

import math

import numpy as np
import pandas as pd
import pytest

from inpaintlib import BadInput, metrics
from inpaintlib.harness import statistics, sweep, tables
from inpaintlib.harness.tables import Results
from tests.conftest import meanwhile
from tests.toy_study import Toy

A, B = {"arm": "a"}, {"arm": "b"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return Toy(tmp_path, monkeypatch)


def psnr(p) -> dict:
    return {"psnr_hole": {"a": 12.0, "b": 10.0}.get(p["arm"], 8.0) + p["seed"], "seconds": 3.0}


def row(table: pd.DataFrame, metric: str = "psnr_hole", **which) -> pd.Series:
    rows = table[table["metric"] == metric]
    for name, value in which.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_tidy_rows_have_the_mean_and_students_interval_over_seeds(toy):
    toy.finish("quick", psnr)
    table = Results("toy", "quick").tidy(["arm", "ratio"])
    found = row(table, arm="a")
    half = 2.570582 * math.sqrt(3.5 / 6)  # t(0.975, 5) s / sqrt(n)
    assert (found["value"], found["ci_low"], found["ci_high"]) == pytest.approx((14.5, 14.5 - half, 14.5 + half))
    assert found[["n_seeds", "n_photos", "n_pictures", "dataset", "preset"]].tolist() == [6, 6, 3, "demo", "quick"]
    assert list(table) == ["arm", "ratio", "dataset", "metric", "value", "ci_low", "ci_high", "n_seeds", "n_photos",
                           "test_set", "preset", "n_pictures"]  # fmt: skip
    assert set(table["metric"]) == {"psnr_hole"}  # no parameter, count or time
    assert table["arm"].drop_duplicates().tolist() == ["a", "b", "c", "ratio"]  # as in the sweep file


def test_what_has_no_seed_has_one_run_and_an_interval_over_pictures(toy):
    """Runs that are identical: six seeds of a deterministic fill are one fill."""
    values = np.array([1.0, 1.0, 5.0, 5.0, 9.0, 9.0])
    toy.finish("quick", lambda p: {"psnr_hole": 5.0}, photos=lambda p: {"psnr_hole": values})
    found = row(Results("toy", "quick").tidy(["arm"]), arm="a")
    of_pictures = statistics.bootstrap([1.0, 5.0, 9.0])
    assert (found["n_seeds"], found["n_pictures"], found["n_photos"]) == (1, 3, 6)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((of_pictures.low, of_pictures.high))


def test_sharpness_is_a_ratio_of_sums_in_the_table_its_interval_and_differences(toy):
    truth, ours = np.array([1.0, 1, 10, 10, 4, 4]), np.array([9.0, 9, 5, 5, 2, 2])
    frame = {"laplacian": ours, "laplacian_truth": truth, "sharpness": ours / truth}
    found = tables.over_pictures("sharpness", 32 / 30, pd.DataFrame(frame | {"picture": [0, 0, 1, 1, 2, 2]}))
    assert found.mean == pytest.approx(32 / 30)
    assert 0.5 <= found.low < found.high <= 9
    measured = {"a": 1.0, "b": 0.7}
    toy.finish("quick", lambda p: {"sharpness": measured.get(p["arm"], 1) + 0.1 * p["seed"] * (p["arm"] == "a")},
               photos=lambda p: frame)  # fmt: skip
    results = Results("toy", "quick")
    table = results.tidy(["arm"])
    gap = row(table, "sharpness", arm="a")["value"] - row(table, "sharpness", arm="b")["value"]
    assert results.difference("sharpness", A, B).mean == pytest.approx(gap) == pytest.approx(0.3 + 0.25)


def test_pooled_psnr_has_an_interval_over_pictures_in_decibel():
    frame = pd.DataFrame({"mse": [0.01, 0.03], "pixels": 100, "hole_ratio": 0.5, "picture": [0, 1]})
    found = tables.over_pictures("psnr_pooled", -10 * math.log10(0.02), frame)
    assert (found.low, found.high) == pytest.approx((-10 * math.log10(0.03), 20))
    assert np.isnan(tables.over_pictures("kid", 0.1, frame).low)


def test_summaries_of_groups_are_those_of_metrics():
    rng = np.random.default_rng(0)
    names = ["hole_ratio", "mse", "mse_hole", "psnr", "psnr_hole", "ssim", "ssim_hole", "l1", "l1_hole", "laplacian",
             "laplacian_truth", "sharpness", "seam", "lpips", "detail"]  # fmt: skip
    photos = pd.DataFrame({name: rng.random(12) for name in names})
    photos = photos.assign(id="x", picture=list("aabbccddeeff"), pixels=64, size=[0, 1] * 6)
    found = tables.summaries(photos, ["size"])
    for size, some in photos.groupby("size"):
        assert metrics.summarise(some).items() <= {k: pytest.approx(v) for k, v in found.loc[size].items()}.items()
        assert found.loc[size, "detail"] == pytest.approx(some["detail"].mean())


def test_trivial_fills_stand_behind_the_runs_and_in_the_first_sentence(toy):
    toy.trivial({"mean colour": [12.0, 12, 13, 13, 14, 14], "Telea": [20.0] * 6})
    toy.finish("quick", psnr)
    results = Results("toy", "quick")
    table = results.tidy(["arm", "ratio"])
    found = row(table, arm="mean colour")
    assert table["arm"].iloc[-2:].tolist() == ["mean colour", "Telea"]
    assert found[["value", "n_seeds", "n_pictures", "dataset"]].tolist() == [13, 1, 3, "demo"]
    assert 12 <= found["ci_low"] < 13 < found["ci_high"] <= 14
    said = "the mean colour (13.00 dB) beats 5 of 6 fills, and Telea (20.00 dB) beats 6."
    assert tables.trivial_note(table) == f"In the PSNR of the hole, {said}"
    seen = table.assign(metric="lpips", value=table["value"] / 100)  # of which the lower is better
    beside = "To LPIPS, the mean colour (0.130) beats 1 of 6 fills, and Telea (0.200) beats 0."
    assert tables.trivial_note(pd.concat([table, seen])) == f"In the PSNR of the hole, {said} {beside}"
    assert results.difference("psnr_hole", A, {"fill": "Telea"}).mean == pytest.approx(-5.5)
    assert tables.trivial_note(table[table["arm"] == "a"]) == ""
    assert "arm" not in Results("toy", "quick").tidy(["ratio"])
    results.write(table, "the table")
    text = (results.folder / "table.md").read_text()
    assert text.index("In the PSNR") < text.index("the table")


def test_parts_of_a_run_have_rows_of_their_own_as_have_trivial_fills(toy):
    cell = np.array([0, 1] * 3)
    toy.trivial({"mean colour": 5.0 + cell, "Telea": 6.0 + cell})
    toy.finish("quick", lambda p: psnr(p) | {"fid": 9.0 + p["seed"]},
               photos=lambda p: {"size": cell, "psnr_hole": psnr(p)["psnr_hole"] + cell})  # fmt: skip
    table = Results("toy", "quick", ["size"]).tidy(["arm", "size"])
    assert [row(table, arm="a", size=i)["value"] for i in (0, 1)] == [14.5, 15.5]
    assert [row(table, arm="Telea", size=i)["value"] for i in (0, 1)] == [6, 7]
    assert row(table, arm="a", size=0)[["n_photos", "n_pictures"]].tolist() == [3, 3]
    assert set(table["metric"]) == {"psnr_hole"}  # FID is of all photos


def test_a_metric_may_be_a_column_of_photos_alone(toy):
    toy.finish("quick", psnr, photos=lambda p: {"detail": np.arange(6.0) + p["seed"]})
    results = Results("toy", "quick")
    assert results.values("detail", results.where(arm="a")).tolist() == [2.5 + seed for seed in range(6)]
    assert np.isnan(results.values("nothing", results.where(arm="a"))).all()


def test_differences_pair_seeds_and_refuse_other_photos(toy):
    toy.finish("quick", lambda p: psnr(p) | ({"test_set": "b" * 64} if p["arm"] == "c" else {}),
               skip=lambda p: p["arm"] == "b" and p["seed"] < 2)  # fmt: skip
    results = Results("toy", "quick")
    found = results.difference("psnr_hole", A, B)
    assert (found.n, found.mean) == (4, 2)
    assert results.difference("psnr_hole", A, {"arm": "c"}) is None
    assert results.difference("psnr_hole", A, {"arm": "c"}, same_pixels=False).n == 6
    assert results.difference("psnr_hole", A, {"arm": "absent"}) is None
    assert results.difference("absent", A, B) is None
    with pytest.raises(BadInput, match="no parameter 'amr'; did you mean 'arm'"):
        results.where(amr="a")


def test_holm_counts_the_differences_of_one_table(toy):
    rng = np.random.default_rng(0)
    toy.finish("quick", lambda p: {"psnr_hole": rng.normal(), "lpips": rng.normal()})
    results = Results("toy", "quick")
    found = results.against(A, {"b": B, "c": {"arm": "c"}, "none": {"arm": "d"}}, ["psnr_hole", "lpips"])
    p = [results.difference(m, {"arm": arm}, A).p for m in ("psnr_hole", "lpips") for arm in "bc"]
    printed = [found.loc[arm, f"{m}: p (Holm, this table)"] for m in ("psnr_hole", "lpips") for arm in "bc"]
    assert printed == [f"{value:.3f}" for value in statistics.holm(p)]
    assert found.loc["none"].tolist() == [""] * 4


def test_no_runs_is_one_sentence_with_the_command(toy):
    toy.finish("quick", psnr)
    with pytest.raises(
        BadInput, match="no finished runs of the preset 'night'; make them with python -m inpaintlib sweep toy"
    ):
        Results("toy", "night")


def test_writing_is_idempotent_byte_for_byte_and_leaves_other_presets(toy):
    for preset, seconds in (("night", 5.0), ("quick", 3.0)):
        toy.finish(preset, lambda p, s=seconds: psnr(p) | {"seconds": s, "zero": 0.0, f"only_{s:g}": 1.0})

    def write(preset, text):
        results = Results("toy", preset)
        results.write(results.tidy(["arm", "ratio"]), text)
        return {path.name: path.read_bytes() for path in sorted(results.folder.glob("*.*"))}

    first = [write(preset, f"of {preset}") for preset in ("night", "quick")][-1]
    assert write("quick", "of quick") == write("night", "of night") == first
    table = pd.read_csv(toy.results / "toy" / "table.csv", dtype=str)
    assert table["preset"].drop_duplicates().tolist() == ["quick", "night"]
    assert set(table.loc[table["metric"] == "zero", "value"]) == {"0"}
    runs = pd.read_csv(toy.results / "toy" / "runs.csv", dtype=str)
    assert runs["seed"].tolist()[:6] == list("012345")
    text = first["table.md"].decode()
    assert text.index("of quick") < text.index("of night")
    assert write("quick", "again") != first


def test_times_stand_in_a_file_of_their_own(toy):
    def write(seconds):
        toy.finish("quick", lambda p: psnr(p) | {"seconds": seconds + p["seed"], "training_seconds": 9.0})
        results = Results("toy", "quick")
        results.write(results.tidy(["arm", "ratio"]), "text")
        return {path.name: path.read_bytes() for path in results.folder.glob("*.*")}

    first, second = write(1.0), write(2.0)
    assert {name for name in first if first[name] != second[name]} == {"times.csv"}
    assert b"seconds" not in first["table.csv"] + first["runs.csv"]
    assert first["times.csv"].decode().splitlines()[:2] == ["preset,arm,dataset,seed,seconds,training_seconds,run_id",
                                                            first["times.csv"].decode().splitlines()[1]]  # fmt: skip


def test_infinite_ratios_are_written_as_inf(toy):
    quick = {"parameters": {"preset": "quick"}, "runs": [{"ratio": [math.inf, 1], "seed": [0, 1]}]}
    toy.sweep_file({"quick": quick})
    toy.finish("quick", psnr)
    results = Results("toy", "quick")
    results.write(results.tidy(["arm", "ratio"]), "text")
    assert pd.read_csv(results.folder / "table.csv", dtype=str)["ratio"].tolist() == ["inf", "1"]
    assert len(results.where(ratio=math.inf)) == 2


def test_runs_of_two_versions_of_the_code_are_said_in_the_table(toy):
    toy.finish("quick", psnr, skip=lambda p: p["seed"] > 0, commit="1" * 40)
    toy.finish("quick", psnr, skip=lambda p: p["seed"] == 0, commit="2" * 40 + "-dirty")
    results = Results("toy", "quick")
    results.write(results.tidy(["arm", "ratio"]), "text")
    assert "2 versions of the code (11111111, 22222222-dirty)" in (results.folder / "table.md").read_text()


def test_tables_and_sections_that_two_write_at_once_are_both_there(tmp_path):
    rows, path, text = (
        pd.DataFrame({"preset": ["quick"], "value": [1.0]}),
        tmp_path / "table.csv",
        tmp_path / "table.md",
    )
    meanwhile(path, lambda: tables.merge(rows, path, "quick"), lambda: path.write_text("preset,value\nnight,2\n"))
    assert path.read_text() == "preset,value\nquick,1\nnight,2\n"
    meanwhile(text, lambda: tables.write_section(text, "a", "of a"), lambda: text.write_text("# t\n\n## b\n\nof b\n"))
    assert {"## a", "## b", "of a", "of b"} <= set(text.read_text().splitlines())


def test_presets_have_an_order():
    names = ["exact", "quick+kimg=3", "by hand", "quick", "night", "smoke", "full"]
    order = ["by hand", "smoke", "quick", "quick+kimg=3", "night", "full", "exact"]
    assert sorted(names, key=sweep.preset_rank) == order


def test_cells_and_sections(tmp_path):
    assert tables.cell(1.234, 1.1, 1.3) == "1.23 [1.10, 1.30]"
    assert tables.cell(1.234, digits=1) == "1.2"
    assert tables.cell(math.nan) == ""
    path = tmp_path / "table.md"
    for title, text in (("A", "one"), ("B", "two"), ("A", "three")):
        tables.write_section(path, title, text)
    assert "one" not in path.read_text()
    assert path.read_text().index("three") < path.read_text().index("two")
