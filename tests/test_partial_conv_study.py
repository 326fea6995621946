"""The partial convolution study: its twelve cells, its own measures, and claims about single cells."""

import math
import zipfile
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import speed as bench
from inpaintlib import BadInput, metrics
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet
from inpaintlib.files import write_json
from inpaintlib.harness import claims, figures, sweep
from inpaintlib.harness.tables import Results
from inpaintlib.methods.partial_conv import PartialConvNet, Settings
from inpaintlib.studies import partial_conv
from tests.conftest import noise

STUDY = "partial_conv_losses"


@pytest.fixture
def no_nvidia(monkeypatch):
    def missing(name):
        raise BadInput(f"{name} is not here")

    monkeypatch.setattr(partial_conv.datasets, "locate", missing)


# The test set


def test_every_photo_has_a_hole_of_every_cell():
    photos = noise(3)
    found = partial_conv.twelve_cell_test_set("photos", photos, ["a", "b", "c"], ["x", "x", "y"], "generated")
    holes, ratio = found.masks().view(3, 12, 64, 64), masks.hole_ratio(found.masks()).view(3, 12)
    for i, (low, high, border) in enumerate(partial_conv.CELLS.itertuples(index=False)):
        assert ((ratio[:, i] > low) & (ratio[:, i] <= high)).all()
        if border == "clear":
            assert not holes[:, i, :6].any()
            assert not holes[:, i, :, -6:].any()
    assert torch.equal(ratio[:, 0::2], ratio[:, 1::2])  # one area under both border rules
    assert torch.equal(found.photos.view(3, 12, 3, 64, 64), photos[:, None].expand(3, 12, 3, 64, 64))
    assert found.ids[13] == "b 0.01-0.1 clear"
    assert found.pictures == ("x",) * 24 + ("y",) * 12
    assert found.name == "photos, generated masks"


def test_nvidias_masks_go_to_their_cells_and_are_taken_where_they_are(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "test_mask.zip", "w") as archive:
        for thousand, (low, high) in enumerate(ratio for ratio in masks.RATIO_BINS for _ in range(2)):
            hole = masks.irregular(1, 64, 7, (low, high), "clear")[0, 0].numpy()
            Image.fromarray(hole).save(picture := BytesIO(), "PNG")
            archive.writestr(f"testing_mask_dataset/{1000 * thousand:05}.png", picture.getvalue())
    monkeypatch.setattr(partial_conv.datasets, "locate", lambda name: tmp_path / f"{name.split('_')[2]}_mask.zip")
    found = partial_conv.twelve_cell_test_set("photos", noise(2), "ab", "ab", "auto")
    assert found.name == "photos, NVIDIA's masks"
    expected = torch.cat([masks.irregular(1, 64, 7, ratio, "clear") for ratio in masks.RATIO_BINS for _ in range(2)])
    assert torch.equal(found.masks(), torch.cat([expected, expected]))  # one mask a cell, repeated
    assert torch.equal(partial_conv.one_of_each_cell(64, "auto"), expected)


def test_without_nvidias_masks_auto_takes_ours_and_nvidia_says_so(no_nvidia):
    photos = noise(1)
    auto, generated = (
        partial_conv.twelve_cell_test_set("p", photos, "a", "a", source) for source in ("auto", "generated")
    )
    assert auto.hash == generated.hash
    with pytest.raises(BadInput, match="nvidia_masks_test is not here"):
        partial_conv.twelve_cell_test_set("p", photos, "a", "a", "nvidia")
    with pytest.raises(BadInput, match="test_masks: 'ours' will not do; it must be one of auto, nvidia, generated"):
        partial_conv.twelve_cell_test_set("p", photos, "a", "a", "ours")


def test_one_hole_of_each_cell():
    ratio = masks.hole_ratio(partial_conv.one_of_each_cell(64, "generated")).tolist()
    cells = partial_conv.CELLS.itertuples(index=False)
    assert all(low < r <= high for r, (low, high, _) in zip(ratio, cells, strict=True))


def test_training_masks_are_those_that_no_test_set_has(tmp_path, monkeypatch):
    """NVIDIA's training masks where they are here, else every fifth test mask; squares for networks of before."""
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for i, hole in enumerate(masks.irregular(10, 64, 7, (0.1, 0.2), "clear")):
            Image.fromarray(hole[0].numpy()).save(picture := BytesIO(), "PNG")
            archive.writestr(f"testing_mask_dataset/{2000 + i:05}.png", picture.getvalue())

    def only_test_masks(name):
        if name == "nvidia_masks_train":
            raise BadInput(f"{name} is not here")
        return tmp_path / "masks.zip"

    monkeypatch.setattr(partial_conv.datasets, "locate", only_test_masks)
    found = partial_conv.training_masks("nvidia", 100, 64, 0)
    assert torch.equal(found, masks.irregular(10, 64, 7, (0.1, 0.2), "clear")[[4, 9]])
    assert partial_conv.training_masks("generated", 100, 64, 0) is None
    assert masks.hole_ratio(partial_conv.training_masks("centre", 3, 64, 0)).tolist() == [0.25] * 3
    assert (masks.hole_ratio(partial_conv.training_masks("blocks", 9, 64, 0)) <= 0.25).all()
    with pytest.raises(
        BadInput, match="train_masks: 'stars' will not do; it must be generated, nvidia, centre or blocks"
    ):
        partial_conv.training_masks("stars", 3, 64, 0)


def test_raw_occlusions_are_dilated_by_9_to_49_px_of_512():
    raw = torch.zeros(60, 1, 128, 128, dtype=torch.bool)
    raw[..., 64, 64] = True
    raw[0] = masks.irregular(1, 128, 0, (0.59, 0.6))[0]  # grows beyond what is asked for
    grown = partial_conv.dilated(raw, 0)
    assert len(grown) == 59
    radii = (masks.hole_ratio(grown) * 128**2 / math.pi).sqrt() * 512 / 128
    assert 4 < radii.min() < 7
    assert 21 < radii.max() < 26


def test_a_growing_hole_grows_inside_out_to_the_areas_it_says():
    grown = partial_conv.growing_holes(64, frames=7)
    assert (grown[:-1] <= grown[1:]).all()
    expected = [round(share * 64**2) for share in torch.linspace(0.03, 0.6, 7).tolist()]
    assert grown.sum((1, 2, 3)).tolist() == expected


# Measures


class Grey:
    """Fills holes with what it is told they hold, else grey, and is off by 0.1 elsewhere."""

    device = torch.device("cpu")

    def inpaint(self, photos, mask, placeholder=None):
        return torch.where(mask, torch.tensor(0.5) if placeholder is None else placeholder, photos)

    def predict(self, photos, mask, placeholder=None):
        return torch.where(mask, 0.5, photos + 0.1)


def test_colour_offset_is_the_fills_mean_error_not_its_texture():
    hole = masks.centre(2, 8)
    truth = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    composite = torch.where(hole, truth + 51, truth)
    composite[1] = truth[1]
    composite[1, :, 2:6, 2:4], composite[1, :, 2:6, 4:6] = 149, 51  # texture whose mean is right
    found = partial_conv.colour_offset(composite, TestSet.make("t", truth, hole, "ab"))
    assert found == pytest.approx([0.2, 0.0])


def test_fill_deviation_and_valid_l1_in_closed_form():
    test_set = TestSet.make("t", noise(3, 16), masks.random_pixels(3, 16, 0, 0.3), "abc")
    assert partial_conv.fill_deviation(Grey(), test_set) == pytest.approx([math.sqrt(1 / 6)] * 3)  # of 0, 1/2 and 1
    assert partial_conv.valid_l1(Grey(), test_set) == pytest.approx([0.1] * 3, rel=1e-4)


def test_partial_convolutions_do_not_depend_on_what_the_hole_held_and_plain_ones_do():
    test_set = partial_conv.twelve_cell_test_set("p", noise(1, 32), "a", "a", "generated")
    choices = {"size": 32, "width": 4, "bank": 6, "perceptual_weight": 0.0, "style_weight": 0.0}
    partial, plain = (PartialConvNet(Settings(**choices, conv=conv), device="cpu") for conv in ("partial", "plain"))
    assert (partial_conv.fill_deviation(partial, test_set) == 0).all()
    assert (partial_conv.fill_deviation(plain, test_set) > 1e-3).all()


def test_kid_of_cells_averages_to_the_kid_of_each_cell():
    cells = pd.concat([partial_conv.CELLS.iloc[:2]] * 5, ignore_index=True)
    found = metrics.Evaluation({}, cells, torch.empty(0))
    found.features[""] = torch.randn(10, 7), torch.randn(10, 7) + 0.3
    parts = partial_conv.kid_of_cells(found)
    for first in (0, 1):
        expected = metrics.kid(*(features[first::2] for features in found.features[""]), paired=True)
        assert parts[first::2].mean() == pytest.approx(expected)
    found.features[""] = (found.features[""][0],) * 2
    assert partial_conv.kid_of_cells(found) == pytest.approx(np.zeros(10), abs=1e-12)  # the truth is no distance away


def test_neighbours_differ_by_the_slope_of_a_ramp_inside_the_hole_alone():
    ramp = (4 * torch.arange(8)).expand(1, 3, 8, 8).byte()
    hole = masks.centre(1, 8)
    changed = torch.where(hole, ramp, 255)
    assert partial_conv.neighbours(changed, hole) == pytest.approx([4 / 255 / 2])  # along rows; none along columns
    assert math.isnan(partial_conv.neighbours(ramp, masks.centre(1, 8, hole=1))[0])


def test_a_hole_of_half_the_side_closes_in_the_layer_that_follows_from_its_width():
    network = PartialConvNet(
        Settings(size=64, width=2, bank=6, perceptual_weight=0, style_weight=0), device="cpu"
    ).network
    photos = noise(2)
    for hole, layer in ((32, 4), (2, 1), (62, 5)):  # of 5 layers: 7x7, 5x5, 5x5, 3x3, 3x3
        test_set = TestSet.make("t", photos, masks.centre(2, 64, hole=hole), "ab")
        assert partial_conv.closing_layer(network, test_set).tolist() == [layer, layer]


def test_all_measures_of_a_network_on_twelve_cells():
    test_set = partial_conv.twelve_cell_test_set("p", noise(2, 32), "ab", "ab", "generated")
    choices = {"size": 32, "width": 4, "bank": 6, "perceptual_weight": 0.0, "style_weight": 0.0}
    for conv in ("partial", "plain"):
        found = partial_conv.measure(PartialConvNet(Settings(**choices, conv=conv), device="cpu"), test_set)
        own = ["colour_offset", "valid_l1", "fill_deviation", "detail", "roughness"]
        own += ["closing_layer", "closed"] if conv == "partial" else []
        for name in own:
            assert found[name] == pytest.approx(found.per_image[name].mean()), name
        assert found.per_image[partial_conv.CELL].drop_duplicates().shape == (12, 3)
        assert ("closed" in found) == (conv == "partial")


def test_the_periodogram_of_a_wave_is_at_its_frequency():
    wave = 0.7 * torch.cos(2 * math.pi * 8 * torch.arange(32) / 32)
    power = partial_conv.periodogram(wave.expand(2, 3, 32, 32))  # rows are waves, columns constant
    assert power[8] == pytest.approx(0.7**2 * 32 / 6 / 2, rel=1e-4)  # half of the lines; Hann's gain 1/2, power 3/8
    assert power.argmax() == 8
    assert power[[0, 5, 11, 16]].max() < 1e-8


def test_grid_peak_and_high_frequency_in_closed_form():
    frequency = np.arange(1, 17) / 32
    found = pd.DataFrame({"frequency": frequency, "fill": 1 / frequency, "truth": 1 / frequency})
    assert partial_conv.grid_peak(found) == pytest.approx(0)
    assert partial_conv.high_frequency(found) == pytest.approx(1)
    found.loc[7, "fill"] *= 10  # frequency 1/4
    assert partial_conv.grid_peak(found) == pytest.approx(10 / 3)  # 10 dB at one of three periods
    found["fill"] = found["truth"] * np.where(frequency < 0.25, 1, 0.2)
    assert partial_conv.high_frequency(found) == pytest.approx(0.2)


def test_spectrum_is_that_of_the_fill_alone():
    photos = noise(4, 64)
    same = partial_conv.spectrum(lambda photo, mask: photo, photos)
    assert np.array_equal(same["fill"], same["truth"])
    assert same["frequency"].tolist() == [k / 32 for k in range(1, 17)]
    flat = partial_conv.spectrum(lambda photo, mask: torch.where(mask, 0.5, photo), photos)
    assert flat["fill"].max() < 1e-9
    assert np.array_equal(flat["truth"], same["truth"])


def test_early_is_the_evaluation_nearest_a_quarter():
    history = pd.DataFrame({"kimg": [0, 0.9, 1.1, 2, 4], "test_l1_hole": [9, np.nan, 7, 6, 5]})
    assert partial_conv.early(history, "l1_hole", 4) == 7


def test_the_worked_example_is_that_of_li_2020():
    grids = partial_conv.worked_example(bias=0.5)
    valid = grids["M"].bool()
    windows = {center: (slice(max(center[0] - 1, 0), center[0] + 2), slice(max(center[1] - 1, 0), center[1] + 2))
               for center in partial_conv.WINDOWS}  # fmt: skip
    assert [int(valid[window].sum()) for window in windows.values()] == [3, 0, 5]
    assert [float(grids["X"][w][valid[w]].sum()) for w in windows.values()] == [-3, 0, -3]
    assert [float(grids["x'"][center]) for center in windows] == pytest.approx([-8.5, 0, -4.9])
    assert (grids["m'"] == 0).nonzero().tolist() == [[2, 2]]
    found = partial_conv.example_metrics(bias=2)
    assert found["example_three"] == pytest.approx(-9)
    assert found["example_five"] == pytest.approx(-5.4)
    assert found["example_none"] == pytest.approx(-2)  # 0, not 0 + b
    assert (found["example_valid_before"], found["example_valid"]) == pytest.approx((16 / 25, 24 / 25))
    assert len(partial_conv.draw_example(grids).axes) == 4


def test_source_is_the_code_without_its_docstring():
    text = figures.source(partial_conv.early).data
    assert "def early(" in text
    assert "After the first" not in text
    assert '"""' not in text


# Claims and tables


@pytest.fixture
def study(results):
    """A function that puts a run into the results whose l1 in each cell is known."""

    def add(arm, seed, l1, **more):
        folder = results / STUDY / "runs" / f"{arm}-{seed}"
        folder.mkdir(parents=True)
        write_json(folder / "params.json", {"arm": arm, "seed": seed, "preset": "quick", "dataset": "demo"})
        photos = pd.concat([partial_conv.CELLS] * 3, ignore_index=True)
        photos = photos.assign(l1=np.resize(l1, 36), hole_ratio=0.5, pixels=4, mse=0.1, mse_hole=0.1, psnr=1.0,
                               psnr_hole=1.0, ssim=1.0, ssim_hole=1.0, l1_hole=1.0, seam=0.0, laplacian=1.0,
                               laplacian_truth=1.0)  # fmt: skip
        photos.to_csv(folder / "per_image.csv", index=False)
        mean = {"l1": float(np.mean(l1)), "n_photos": 36, "test_set": "a" * 64, **more}
        write_json(folder / "metrics.json", mean | {"status": "done"})

    return add


RISING = np.repeat(np.arange(1, 7) / 100, 2)  # .01 to .06, alike under both border rules


def outcome(**claim):
    whole = {"id": "x", "source": "ours", "statement": "", "metric": "l1"} | claim
    claims.check(STUDY, whole)
    return claims.test(whole, Results(STUDY, "quick"))


def test_a_claim_about_each_cell_is_as_true_as_in_its_worst_cell(study):
    for seed in range(3):
        study("full", seed, RISING)
        study("lower", seed, RISING - [0.003 + 0.0001 * seed, *[0.001 + 0.0001 * seed] * 11])
        study("once higher", seed, RISING - [*[0.001 + 0.0001 * seed] * 11, -0.004 - 0.0001 * seed])
    arms = {"b": {"arm": "full"}, "test": "less", "each": ["hole_low", "border"]}
    found = outcome(a={"arm": "lower"}, **arms)
    assert (found.verdict, found.ours) == ("reproduced", pytest.approx(-0.0011))  # not the mean over cells
    found = outcome(a={"arm": "once higher"}, **arms)
    assert (found.verdict, found.ours, found.cells) == ("contradicted", pytest.approx(0.0041), "11 of 12")
    assert outcome(a={"arm": "lower"}, b={"arm": "full"}, test="less").verdict == "reproduced"
    assert outcome(a={"arm": "absent"}, **arms).verdict == "not tested"


def test_a_claim_may_compare_two_cells_of_one_arm(study):
    for seed in range(3):
        study("full", seed, RISING - np.tile([0, 0.002 + 0.0001 * seed], 6))  # border clear is lower
    clear, touching = ({"arm": "full", "border": border} for border in ("clear", "touching"))
    found = outcome(a=clear, b=touching, test="less", each=["hole_low"])
    assert (found.verdict, found.ours, found.seeds) == ("reproduced", pytest.approx(-0.0021), 3)
    assert outcome(a=touching, b=clear, test="less").verdict == "contradicted"


def test_a_trend_over_cells_is_that_of_each_seed(study):
    for seed in range(3):
        study("full", seed, RISING)
        study("swapped", seed, RISING[[0, 1, 4, 5, 2, 3, *range(6, 12)]])
    trend = {"test": "increasing", "by": "hole_low"}
    found = outcome(where={"arm": "full"}, **trend)
    assert (found.verdict, found.ours) == ("reproduced", pytest.approx(1))
    assert outcome(where={"arm": "swapped"}, **trend).ours == pytest.approx(1 - 6 * 2 / (6 * 35))


def test_a_figure_of_one_cell_and_a_metric_of_whole_runs(study):
    for seed, kid in enumerate((0.1, 0.2, 0.15)):
        study("full", seed, RISING + 0.0001 * (seed - 1), kid=kid)
        study("other", seed, RISING, kid=kid + 0.1 + 0.01 * seed)
    cell = {"arm": "full", "border": "clear", "hole_low": 0.2}
    found = outcome(test="figure", where=cell, published=0.0301, within=0.001)
    assert (found.verdict, found.ours) == ("reproduced", pytest.approx(0.03))
    found = outcome(metric="kid", test="greater", a={"arm": "other"}, b={"arm": "full"})
    assert (found.verdict, found.ours, found.seeds) == ("reproduced", pytest.approx(0.11), 3)
    assert outcome(metric="fid", test="greater", a={"arm": "other"}, b={"arm": "full"}).verdict == "not tested"


def test_the_table_by_cell_has_ours_and_only_the_papers_confirmed_figures(study):
    for seed in range(2):
        study("full", seed, RISING + [-0.001, 0.001][seed])
    cells = Results(STUDY, "quick", parts=partial_conv.CELL).tidy(["arm", *partial_conv.CELL])
    assert {"hole_low", "hole_high", "border", "metric", "value", "n_seeds", "test_set"} <= set(cells)
    shown = partial_conv.by_cell(cells, ["full"], sweep.load(STUDY).claims)
    assert shown.shape[1] == 12
    half = 12.706204736 * 0.001  # Student's t of two seeds times their standard error
    assert shown.loc[("l1, %", "full"), ("clear", "20-30 %")] == f"3.00 ± {100 * half:.2f}"
    paper = shown.xs("paper: Places2, 512 px", level=1)
    assert (paper != "").sum().sum() == 9
    assert paper["clear"][["10-20 %", "20-30 %", "30-40 %"]].to_numpy().tolist() == [
        ["1.09", "1.88", "2.84"], ["28.32", "25.25", "22.89"], ["0.870", "0.779", "0.689"]]  # fmt: skip


def test_one_seed_has_no_interval_over_photos_of_what_is_no_mean_of_photos(study):
    study("telea", 0, RISING, psnr=5.0, ssim=1.0)  # photos have a psnr of 1 and an ssim of 1
    rows = Results(STUDY, "quick").tidy(["arm"]).set_index("metric")
    assert rows.loc["ssim", ["value", "ci_low", "ci_high"]].tolist() == [1, 1, 1]
    assert rows.loc["psnr", "value"] == 5
    assert math.isnan(rows.loc["psnr", "ci_low"])


def test_relative_gap_is_in_per_cent_of_the_base(study):
    for seed in range(2):
        study("full", seed, 0.9 * RISING)
        study("plain mean", seed, RISING)
    cells = Results(STUDY, "quick", parts=partial_conv.CELL).tidy(["arm", *partial_conv.CELL])
    gap = partial_conv.relative_gap(cells, "full", "plain mean", ["l1", "lpips"])
    assert gap.index.tolist() == ["l1"]
    assert (gap.loc["l1"] == 10).all()


@pytest.mark.parametrize("preset", ["quick", "night", "full", "exact"])
def test_each_arm_differs_from_full_in_what_it_is_named_after(preset):
    planned = [item.parameters for item in sweep.plan(STUDY, preset)]
    base = {(p["arm"], p["dataset"], p["seed"]): p for p in planned if p["arm"] in ("full", "scratch, partial")}
    allowed = {"no style": {"style_weight"}, "small style": {"style_weight"}, "large style": {"style_weight"},
               "no perceptual": {"perceptual_weight"}, "no TV": {"tv_weight"}, "plain mean": {"conv"},
               "pixel terms": {"perceptual_weight", "style_weight", "tv_weight"}, "from scratch": {"start_preset"},
               "no second stage": {"second_stage_kimg"}, "frozen scale and shift": {"freeze_affine"},
               "VGG normalised": {"vgg_input"}, "pixels normalised": {"pixel_scale"},
               "pixels and VGG normalised": {"pixel_scale", "vgg_input"}, "NVIDIA's training masks": {"train_masks"},
               "scratch, plain": {"conv"}, "scratch, plain grey": {"conv", "placeholder"},
               "scratch, no scaling": {"scaling"}, "scratch, plain on a square": {"conv", "train_masks"},
               "scratch, plain on blocks": {"conv", "train_masks"},
               "scratch, partial on a square": {"train_masks"}}  # fmt: skip
    for p in planned:
        of = "scratch, partial" if p["arm"].startswith("scratch") else "full"
        differs = {n for n, v in p.items() if v != base[of, p["dataset"], p["seed"]][n]} - {"arm", "networks"}
        assert differs == allowed.get(p["arm"], set()), p["arm"]


@pytest.mark.parametrize("preset", ["smoke", "quick", "night", "full"])
def test_every_start_that_a_preset_asks_for_is_among_those_of_partial_conv_start(preset):
    alike = ("dataset", "size", "width", "conv", "placeholder", "scaling", "seed")
    starts = [tuple(item.parameters[n] for n in alike) for item in sweep.plan("partial_conv_start", preset)]
    assert len(starts) == len(set(starts))
    asked = {tuple(item.parameters[n] for n in alike) for item in sweep.plan(STUDY, preset)
             if item.parameters["start_preset"] == preset}  # fmt: skip
    assert asked
    assert asked <= set(starts)


def test_arms_of_claims_are_arms_of_the_sweep_and_claims_are_well_formed():
    plan = sweep.load(STUDY)
    arms = {item.parameters["arm"] for preset in plan.presets for item in sweep.plan(STUDY, preset)}
    for claim in plan.claims:
        claims.check(STUDY, claim)
        named = {claim[key]["arm"] for key in ("a", "b", "where") if "arm" in claim.get(key, {})}
        assert named <= arms, claim["id"]
    assert len({claim["id"] for claim in plan.claims}) == len(plan.claims)
    assert len(plan.claims) >= 40


# Pictures and speed


def test_zoom_lies_where_the_hole_is(style):
    photo, hole = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), bool)
    photo[2:12, 25:35], hole[2:12, 25:35] = 255, True
    figure = partial_conv.zoomed({"input": photo, "truth": photo}, side=0.25, where=hole)
    assert all((ax.images[0].get_array() == 255).all() for ax in figure.axes[2:])
    assert [ax.get_title(loc="center") for ax in figure.axes[:2]] == ["input", "truth"]


def test_errors_by_hole_are_drawn_at_their_bins_in_their_panels(style):
    rows = partial_conv.CELLS.assign(arm="full", metric="l1", value=RISING, ci_low=RISING - 0.01, ci_high=RISING + 0.01)
    figure = partial_conv.by_hole(rows, "l1", ["full"], scale=100)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["border: touching", "border: clear"]
    x, y = figure.axes[1].lines[0].get_data()
    assert y == pytest.approx([1, 2, 3, 4, 5, 6])
    assert x == pytest.approx([5.5, 15, 25, 35, 45, 55], abs=0.3)


def test_the_gif_of_a_closing_mask_ends_when_nothing_is_missing(tmp_path):
    with Image.open(partial_conv.watch_filling(tmp_path / "filling.gif", 128)) as picture:
        picture.seek(picture.n_frames - 1)
        last = np.asarray(picture.convert("L"))[18:, :192]
        picture.seek(picture.n_frames - 2)
        before = np.asarray(picture.convert("L"))[18:, :192]
    assert last.min() > 250
    assert before.min() < 5


def test_the_benchmark_runs_layers_forward_and_backward_and_arms_in_turns():
    layer = bench._layer(bench.PartialConv2d, 4, 8, 16, 5, 2, False, torch.device("cpu"))
    shapes = [tuple(gradient.shape) for gradient in layer()]
    assert shapes == [(2, 4, 16, 16), (8, 4, 5, 5), (8,)]  # backward to features, weights, bias
    turns = []
    seconds = bench._in_turns(
        {"a": lambda *_: turns.append("a"), "b": lambda *_: turns.append("b")}, torch.empty(0), False
    )
    assert turns == ["a", "b"] * 4
    assert len(seconds) == 2
