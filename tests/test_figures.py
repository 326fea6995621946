"""Figures and GIFs show what they were given."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from inpaintlib.harness import figures
from inpaintlib.studies import context_encoder
from inpaintlib.studies import medfe as branches
from inpaintlib.training import strip


def test_a_strip_comes_apart_into_the_photos_it_was_made_of(tmp_path):
    photos = torch.randint(0, 256, (5, 3, 16, 16)).float() / 255
    strip(photos).save(tmp_path / "strip.png")
    for photo, given in zip(figures.split_strip(tmp_path / "strip.png"), figures.arrays(photos), strict=True):
        assert np.array_equal(photo, given)


def test_curves_are_means_over_seeds_with_their_range():
    runs = [
        pd.DataFrame({"kimg": [0, 1, 2], "psnr": [1.0, np.nan, 3.0]}),
        pd.DataFrame({"kimg": [0, 1, 2], "psnr": [2.0, 5.0, 5.0]}),
    ]
    axes = figures.curves({"arm": runs}, "psnr")
    assert axes.lines[0].get_xydata().tolist() == [[0, 1.5], [2, 4.0]]
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (1.0, 5.0)


def test_many_arms_stand_below_each_other_from_the_top():
    arms = [f"arm {i}" for i in range(9)]
    table = pd.DataFrame({"arm": arms, "metric": "fid", "value": np.arange(9.0), "ci_low": -1.0, "ci_high": 10.0})
    axes = figures.panels(table, {"fid": "FID", "kid": "KID"}, "arm").axes
    assert [ax.get_title("left") + ax.get_title("center") for ax in axes] == ["FID"]
    assert axes[0].lines[0].get_xydata().tolist() == [[i, i] for i in range(9)]
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == arms
    assert axes[0].yaxis_inverted()
    bars = [segment[:, 0].tolist() for segment in axes[0].collections[0].get_segments()]
    assert bars == [[-1.0, 10.0]] * 9


def claim(id, direction, ours, low, high, published, detectable, limit, verdict, study="a", below_trivial="False"):
    return locals() | {"statement": f"what {id} says", "ci_low": low, "ci_high": high}


def test_a_claim_stands_in_units_of_what_its_seeds_could_have_seen_and_points_to_the_right_where_it_holds():
    nan = np.nan
    rows = pd.DataFrame([
        claim("more", "greater", 2.0, 1.0, 3.0, 4.0, 2.0, 0.0, "reproduced"),
        claim("falls", "decreasing", -0.5, -0.75, -0.25, nan, 0.5, nan, "undecided", "b", "True"),
        claim("by over .5", "less", -2.0, -3.0, -1.0, -1.5, 0.5, 0.5, "reproduced", "b"),
        claim("no scale", "greater", 1.0, 0.0, 2.0, nan, nan, 0.0, "by construction", "b"),
        claim("same", "equal", 17.0, 16.0, 18.0, 18.0, 3.0, 0.5, "contradicted"),
        claim("none", "greater", nan, nan, nan, 1.0, nan, 0.0, "not tested"),
    ])  # fmt: skip
    above, below = figures.claims_forest(rows).axes
    found = {}
    for ax in (above, below):
        labels = [label.get_text().split("  ")[0] for label in ax.get_yticklabels()]
        ids = dict(zip(ax.get_yticks(), labels, strict=True))
        lines = iter([line for line in ax.lines if line.get_ydata()[0] in ids])
        for interval, value, published in zip(lines, lines, lines, strict=True):
            x = [*interval.get_xdata(), *value.get_xdata(), *published.get_xdata()]
            found[ids[value.get_ydata()[0]]] = (x, value.get_marker(), value.get_markerfacecolor() == "white")
    nan = pytest.approx(nan, nan_ok=True)
    assert found == {
        "more": ([0.5, 1.5, 1.0, 2.0], "o", False),
        "falls": ([1.5, 0.5, 1.0, nan], "s", True),
        "by over .5": ([5.0, 1.0, 3.0, 2.0], "o", False),
        "no scale": ([0.0, 2.0, 1.0, nan], "^", False),
        "same": ([-4.0, 0.0, -2.0, 0.0], "X", False),
    }
    assert [text.get_text() for text in above.texts] == ["a", "b"]


def test_a_claim_without_a_scale_has_a_mark_and_one_beyond_the_axis_an_arrow():
    nan = np.nan
    rows = pd.DataFrame([
        claim("trend", "increasing", 1.0, nan, nan, nan, nan, nan, "by construction"),
        claim("far", "greater", 500.0, 499.0, 501.0, -90.0, 1.0, 0.0, "reproduced"),
    ])  # fmt: skip
    marks = [line for line in figures.claims_forest(rows).axes[0].lines if line.get_marker() not in ("None", "d")]
    found = [(line.get_marker(), line.get_xdata()[0]) for line in marks]
    assert found == [("^", 1.0), ("o", 40.0), (">", 52.0), ("<", -52.0)]


def test_a_statement_is_whole_and_its_lines_are_alike():
    for words in range(5, 40):
        text = "id  " + " ".join(["statement"] * words)
        lines = figures._wrapped(text).split("\n")
        assert " ".join(lines) == text
        assert max(map(len, lines)) <= 68
        assert len(lines) <= -(-len(text) // 68) + 1


def test_a_strip_of_photos_is_as_wide_as_its_photos_and_keeps_their_pixels():
    photos = [np.full((40, 40, 3), value, np.uint8) for value in (10, 20, 30)]
    figure = figures.grid({"input": photos, "filled": photos[::-1]}, columns=2)
    shown = [ax.get_images()[0].get_array() for ax in figure.axes]
    assert [line.shape for line in shown] == [(40, 81, 3)] * 2
    assert shown[0][0, :, 0].tolist() == [10] * 40 + [255] + [20] * 40
    assert shown[1][0, :, 0].tolist() == [30] * 40 + [255] + [20] * 40
    assert [ax.get_ylabel() for ax in figure.axes] == ["input", "filled"]


def test_a_plot_is_saved_with_a_palette_and_photos_with_all_colours(tmp_path):
    plot, ax = figures.subplots()
    ax.plot([0, 1], color="#d55e00", lw=20)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, figure, mode in (("a", plot, "P"), ("b", figures.grid({"photo": [photo]}), "RGBA")):
        for turn in (1, 2):
            assert figures.save(figure, tmp_path / f"{name}{turn}.png") is figure
        with Image.open(tmp_path / f"{name}1.png") as picture:
            assert picture.mode == mode
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert (tmp_path / f"{name}1.png").read_bytes() == (tmp_path / f"{name}2.png").read_bytes()
        if mode == "P":
            assert (np.abs(colours.astype(int) - (0xD5, 0x5E, 0x00)).max(1) < 3).mean() > 0.02


def test_every_panel_of_losses_says_what_its_axis_is():
    history = pd.DataFrame({"kimg": [0, 1], "d_real": [1.0, 2.0], "test_psnr_hole": [9.0, 12.0]})
    axes = figures.losses(history, ["d_real", "test_psnr_hole"]).axes
    assert [ax.get_ylabel() for ax in axes] == ["d_real, loss", "PSNR of the hole, dB"]


@pytest.mark.parametrize(("terms", "shape"), [(3, (1, 3)), (5, (2, 3)), (7, (2, 4)), (8, (2, 4)), (9, (3, 3))])
def test_losses_stand_in_lines_of_at_most_four(terms, shape):
    history = pd.DataFrame({"kimg": [0, 1]} | {f"term {i}": [1.0, 2.0] for i in range(terms)})
    axes = figures.losses(history).axes
    assert [ax.get_ylabel() for ax in axes] == [f"term {i}, loss" for i in range(terms)]
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape


@pytest.mark.parametrize("text", ["a", "reconstruction only", "Context Encoder, random regions: not filled"])
def test_no_caption_is_cut_where_it_fits_at_six_points(text):
    picture = np.asarray(figures.caption(np.full((8, 264, 3), 255, np.uint8), text).convert("L"))
    narrow = np.asarray(figures.caption(np.full((8, 128, 3), 255, np.uint8), text[:20]).convert("L"))
    for each in (picture, narrow):
        assert each.shape[0] == 18 + 8
        assert each.min() < 128
        assert each[:, -2:].min() == each[[0, -1]].min() == 255


def test_every_seed_is_a_point_beside_a_bar_of_the_published_gap():
    runs = pd.DataFrame({"arm": ["a", "b", "a", "b", "c"], "fid": [1.0, 5.0, 3.0, np.nan, np.nan]})
    axes = branches.every_seed(runs, "fid", ["c", "b", "a"], gap=0.5, of="published").axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 5.0]], [[1, 1.0], [1, 3.0]]]
    means_and_bar = [segment.tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert means_and_bar == [[[-0.25, 5], [0.25, 5]], [[0.75, 2], [1.25, 2]], [[2, 2.75], [2, 3.25]]]
    assert [text.get_text() for text in axes.texts] == ["published"]


def test_intervals_are_drawn_where_the_table_says():
    table = pd.DataFrame({"metric": ["m", "m", "other"], "ratio": [1.0, np.inf, 1.0], "value": [2.0, 3.0, 9.0],
                          "ci_low": [1.5, np.nan, 9], "ci_high": [2.25, np.nan, 9]})  # fmt: skip
    axes = figures.panels(table, {"m": "M"}, "ratio", context_encoder.ratio_label, xlabel="λ").axes[0]
    assert axes.get_xlabel() == "λ"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["×1", "reconstruction only"]
    segments = axes.collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[1.5, 2.25], [3.0, 3.0]]


@pytest.mark.parametrize(("ratio", "label"), [(0, "adversarial only"), (500, "×500"), (np.inf, "reconstruction only")])
def test_ratio_labels(ratio, label):
    assert context_encoder.ratio_label(ratio) == label


def test_gifs_hold_every_frame_in_order_and_rest_on_the_last(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    figures.gif(frames, tmp_path / "walk.gif", milliseconds=100, hold=5)
    with Image.open(tmp_path / "walk.gif") as picture:
        assert picture.n_frames == 3
        seen, durations = [], []
        for i in range(3):
            picture.seek(i)
            durations.append(picture.info["duration"])
            seen.append(picture.convert("RGB").getpixel((5, 5)))
    assert durations == [100, 100, 500]
    for (r, g, b), colour in zip(seen, ((255, 0, 0), (0, 128, 0), (0, 0, 255)), strict=True):
        assert max(abs(r - colour[0]), abs(g - colour[1]), abs(b - colour[2])) < 40


def test_the_evolution_shows_only_the_lengths_that_all_runs_have(tmp_path):
    for name, kimgs in (("a", ("000.000", "001.000", "002.000")), ("b", ("000.000", "002.000"))):
        folder = tmp_path / name
        (folder / "frames").mkdir(parents=True)
        for file in (*(folder / "frames" / f"{kimg}.png" for kimg in kimgs), folder / "truth.png"):
            strip(torch.rand(7, 3, 16, 16)).save(file)
    figures.evolution_of({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "both.gif")
    with Image.open(tmp_path / "both.gif") as picture:
        assert picture.n_frames == 2
        assert picture.size == (6 * 16, 18 + 3 * (18 + 16))


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "image/jpeg"), ("a.png", "image/png")])
def test_a_shown_picture_is_as_large_as_one_that_is_drawn_there(tmp_path, style, name, kind):
    Image.new("RGB", (320, 160), "red").save(tmp_path / name)
    data, _ = figures.show(tmp_path / name)._repr_mimebundle_()
    with Image.open(io.BytesIO(base64.b64decode(data[kind]))) as picture:
        assert picture.size == (220, 110)
        assert picture.convert("RGB").getpixel((110, 55)) == pytest.approx((255, 0, 0), abs=2)


def test_a_figure_of_some_runs_is_drawn_only_where_none_is_kept(tmp_path):
    folders = {name: tmp_path / name for name in "ab"}
    (tmp_path / "a").mkdir()
    kept = tmp_path / "kept.jpg"
    assert figures.pictured(folders, kept) == folders  # none has pictures
    (tmp_path / "a" / "notebook.ipynb").touch()
    assert figures.pictured(folders, kept) == {"a": tmp_path / "a"}
    kept.touch()
    assert figures.pictured(folders, kept) == folders


def test_a_shown_gif_is_the_file_itself_labelled_png(tmp_path):
    path = figures.gif([Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")], tmp_path / "a.gif")
    data, _ = figures.show(path)._repr_mimebundle_()
    assert set(data) == {"image/png"}
    assert base64.b64decode(data["image/png"]) == path.read_bytes()
