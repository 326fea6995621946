"""Masks: exact areas and borders, and seeds that alone decide."""

import hashlib

import cv2
import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.data import masks


def components(mask):
    return cv2.connectedComponents(mask.squeeze().numpy().astype(np.uint8))[0] - 1


@pytest.mark.parametrize("kind", masks.KINDS)
@pytest.mark.parametrize("size", [33, 64])
def test_each_kind_gives_bool_masks_with_hole_and_known_pixels(kind, size):
    mask = masks.make(kind, 9, size, 3)
    assert mask.shape == (9, 1, size, size)
    assert mask.dtype == torch.bool
    assert mask.any((1, 2, 3)).all()
    assert not mask.all((1, 2, 3)).any()


@pytest.mark.parametrize("kind", [kind for kind in masks.KINDS if kind != "centre"])
def test_the_seed_alone_decides(kind):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = masks.make(kind, 8, 64, 5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(1)
    assert torch.equal(masks.make(kind, 8, 64, 5), first)
    assert torch.equal(masks.make(kind, 3, 64, 5), first[:3])  # mask i does not depend on n
    assert (masks.make(kind, 8, 64, 6) != first).any((1, 2, 3)).sum() >= 4
    assert len({mask.numpy().tobytes() for mask in first}) >= (3 if kind == "half" else 8)


SAME = {  # of 50 masks of 64 px and seed 1
    "centre": "df5fbbbc366f",
    "random_block": "98ed62a8391d",
    "random_region": "4fa0b901b3a5",
    "irregular": "e230b20a3e7a",
    "random_pixels": "c984a842c79a",
    "half": "50cc7949fed1",
    "pattern": "a3605a353125",
    "strokes": "c57cb74a9b03",
}


@pytest.mark.parametrize("kind", masks.KINDS)
def test_every_processor_draws_the_same_masks(kind):
    assert hashlib.sha256(masks.make(kind, 50, 64, 1).numpy().tobytes()).hexdigest()[:12] == SAME[kind]


def test_of_equal_pixels_the_first_are_taken():
    field = np.array([[2, 1, 1, 0], [1, 1, 2, 1]])
    assert masks._lowest(field, 4).tolist() == [[False, True, True, True], [True, False, False, False]]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("center", {}, "mask kind 'center' is unknown: choose one of centre, random_block"),
        ("irregular", {"ratios": (0.1, 0.2)}, "'irregular' have no option 'ratios': they have ratio, border"),
        ("centre", {"hole": 64}, "hole=64 px does not fit a mask of 64 px"),
        ("centre", {"hole": 3.5}, "hole=3.5 px does not fit a mask of 64 px: choose a whole number, 1 to 63"),
        ("irregular", {"ratio": 0.2}, r"ratio=0.2 is no range of fractions: give \(low, high\)"),
        ("random_block", {"max_area": 1}, "max_area=1 is no fraction"),
        ("random_pixels", {"fraction": 80}, "fraction=80 is no fraction"),
        ("random_region", {"area": (0.3, 0.2)}, r"area=\(0.3, 0.2\) is no range"),
        ("random_region", {"area": (0.9, 0.95)}, r"area=\(0.9, 0.95\) is not reached"),
        ("irregular", {"border": "none"}, "border='none' is unknown: choose one of touching, clear"),
        ("irregular", {"ratio": (0.6, 0.8), "border": "clear"}, r"ratio=\(0.6, 0.8\] has no mask of 64 px"),
        ("irregular", {"ratio": (0.0, 0.0001)}, r"ratio=\(0.0, 0.0001\] has no mask of 64 px"),
        ("half", {"side": "middle"}, "side='middle' is unknown: choose one of left, right, top, bottom"),
        ("strokes", {"count": (0, 0)}, r"count=\(0, 0\) is not a range"),
    ],
)
def test_bad_requests_name_the_parameter_and_what_is_right(kind, options, message):
    with pytest.raises(BadInput, match=message):
        masks.make(kind, 1, 64, 0, **options)


@pytest.mark.parametrize(("n", "size", "seed"), [(0, 64, 0), (1, 60_000, 0), (1, 64, -1)])
def test_number_size_and_seed_have_their_limits(n, size, seed):
    with pytest.raises(BadInput, match=f"n={n}, size={size}, seed={seed}: masks need n >= 1, size 2 to 8192 and seed"):
        masks.half(n, size, seed)


# One kind at a time


def test_centre_is_the_middle_square():
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[16:48, 16:48] = True
    assert torch.equal(masks.centre(2, 64), expected.expand(2, 1, 64, 64))
    hole = masks.centre(1, 64, hole=50)[0, 0]
    assert hole.sum() == 2500
    assert torch.equal(hole, hole.flip(0))
    assert torch.equal(hole, hole.flip(1))


def test_random_block_is_several_squares_over_a_quarter_at_most():
    mask = masks.random_block(200, 64, 0)
    ratio = masks.hole_ratio(mask)
    assert ratio.max() <= 0.25
    assert 0.1 < ratio.mean() < 0.2
    assert np.mean([components(m) > 1 for m in mask]) > 0.8
    assert masks.hole_ratio(masks.random_block(100, 64, 0, max_area=0.1)).max() <= 0.1


@pytest.mark.parametrize("size", [64, 128])
def test_random_region_keeps_the_area_and_the_blobs_grow_with_the_size(size):
    mask = masks.random_region(60, size, 0)
    ratio = masks.hole_ratio(mask)
    assert ratio.min() >= 0.2
    assert ratio.max() <= 0.3
    outline = (mask[..., 1:] != mask[..., :-1]).sum() / (60 * size)  # crossings of a line, whatever the resolution
    assert 2 < outline < 4


@pytest.mark.parametrize(("kind", "fraction"), [("pattern", 0.25), ("pattern", 0.4), ("random_pixels", 0.8)])
def test_fractions_are_exact_to_the_pixel(kind, fraction):
    mask = masks.make(kind, 5, 65, 0, fraction=fraction)
    assert mask.sum((1, 2, 3)).tolist() == [round(fraction * 65**2)] * 5


def test_random_pixels_have_no_favourite_place():
    often = masks.random_pixels(400, 16, 0).float().mean(0)
    assert (often - 0.8).abs().max() < 5 * (0.8 * 0.2 / 400) ** 0.5  # five standard errors, 256 pixels


def test_half_takes_every_side():
    left = torch.zeros(64, 64, dtype=torch.bool)
    left[:, :32] = True
    sides = {"left": left, "right": ~left, "top": left.T, "bottom": ~left.T}
    for side, expected in sides.items():
        assert torch.equal(masks.half(1, 64, 0, side=side)[0, 0], expected)
    drawn = [next(s for s, e in sides.items() if torch.equal(m[0], e)) for m in masks.half(200, 64, 0)]
    assert all(30 <= drawn.count(side) <= 70 for side in sides)


def test_strokes_follow_width_and_count():
    thin, thick = masks.strokes(50, 64, 0, width=(0.03, 0.04)), masks.strokes(50, 64, 0, width=(0.12, 0.14))
    assert masks.hole_ratio(thick).mean() > 2 * masks.hole_ratio(thin).mean()
    few, many = masks.strokes(50, 64, 0, count=(1, 1)), masks.strokes(50, 64, 0, count=(9, 9))
    assert np.mean([components(mask) == 1 for mask in few]) > 0.9  # a stroke may leave the image and come back
    assert masks.hole_ratio(many).mean() > 4 * masks.hole_ratio(few).mean()


# Irregular


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("border", masks.BORDERS)
@pytest.mark.parametrize("ratio", masks.RATIO_BINS)
def test_irregular_keeps_bin_and_border(ratio, border, size):
    mask = masks.irregular(30, size, 7, ratio, border)
    fraction = masks.hole_ratio(mask)
    assert (fraction > ratio[0]).all()
    assert (fraction <= ratio[1]).all()
    assert fraction.max() - fraction.min() > 0.7 * (ratio[1] - ratio[0])  # areas fill the bin
    frame = {64: 6, 128: 12}[size] if border == "clear" else 1  # round(50 · size / 512)
    at_border = mask.clone()
    at_border[:, :, frame:-frame, frame:-frame] = False
    if border == "clear":
        assert not at_border.any()
    else:
        assert at_border.any((1, 2, 3)).float().mean() > 0.4


@pytest.mark.parametrize(("ratio", "only"), [((0.2999, 0.3), 0.3), ((0.3, 0.3001), 0.3001)])
def test_bins_are_open_below_and_closed_above(ratio, only):
    """At 100 px, 0.3 is exactly 3000 pixels, which belong to the lower bin."""
    assert masks.hole_ratio(masks.irregular(40, 100, 0, ratio)).tolist() == [only] * 40


def test_irregular_looks_like_nvidias_masks():
    """Against the means of 100 of NVIDIA's test masks in each of six cells: number of pieces, radius of the widest
    place and length of the outline, both in widths of the image."""
    cells = {"touching": [(0.1, 13.9, 0.063, 8.5), (0.3, 8.6, 0.100, 11.4), (0.5, 3.9, 0.184, 8.6)],
             "clear": [(0.1, 9.6, 0.062, 7.5), (0.3, 4.6, 0.098, 9.7), (0.5, 1.5, 0.194, 6.2)]}  # fmt: skip
    for low, pieces, radius, outline, border in ((*cell, b) for b in cells for cell in cells[b]):
        mask = masks.irregular(100, 128, 0, (low, round(low + 0.1, 1)), border)
        padded = [np.pad(m[0].numpy().astype(np.uint8), 1, mode="edge") for m in mask]
        ours = np.mean([cv2.distanceTransform(m, cv2.DIST_L2, 5).max() for m in padded]) / 128
        length = ((mask[..., 1:] != mask[..., :-1]).sum() + (mask[..., 1:, :] != mask[..., :-1, :]).sum()) / 12800
        assert 0.65 * pieces < np.mean([components(m) for m in mask]) < 1.5 * pieces
        assert 0.8 * radius < ours < 1.25 * radius
        assert 0.8 * outline < length < 1.25 * outline


# Any masks


def test_check_says_what_is_wrong():
    photos, good = torch.zeros(2, 3, 8, 8), masks.centre(2, 8)
    masks.check(good, photos)
    full, empty = good.clone(), good.clone()
    full[1], empty[0] = True, False
    for mask, message in [
        (good.float(), r"mask is torch\.float32: give a bool tensor, True = hole"),
        (good.numpy(), "mask is ndarray: give a bool tensor"),
        (good[:, 0], r"mask has shape \(2, 8, 8\), the photos need \(2, 1, 8, 8\)"),
        (masks.centre(2, 16), r"mask has shape \(2, 1, 16, 16\), the photos need \(2, 1, 8, 8\)"),
        (full, r"mask \(number 1\) is all hole"),
        (empty, r"mask \(number 0\) has no hole"),
    ]:
        with pytest.raises(BadInput, match=message):
            masks.check(mask, photos)


def test_hole_ratio_counts():
    mask = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    mask[0, 0, :3] = True
    mask[1, 0, 0, 0] = True
    assert masks.hole_ratio(mask).tolist() == [0.3, 0.01]
