"""Masks: exact areas and borders, seeds, and the pictures that people bring."""

import io
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from inpaintlib import BadInput
from inpaintlib.data import masks


def components(mask):
    return cv2.connectedComponents(mask.squeeze().numpy().astype(np.uint8))[0] - 1


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# All generators ------------------------------------------------------------------------------------------------------


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
    other = masks.make(kind, 8, 64, 6)
    assert (other != first).any((1, 2, 3)).sum() >= 4
    assert len({mask.numpy().tobytes() for mask in first}) >= (3 if kind == "half" else 8)


def test_bad_requests_name_the_parameter_and_what_is_right():
    with pytest.raises(BadInput, match="mask kind 'center' is unknown: choose one of centre, random_block"):
        masks.make("center", 1, 64, 0)
    with pytest.raises(BadInput, match="'irregular' have no option 'ratios': they have ratio, border"):
        masks.make("irregular", 1, 64, 0, ratios=(0.1, 0.2))
    for kind, options, message in [
        ("centre", {"hole": 64}, "hole=64 px does not fit a mask of 64 px"),
        ("random_block", {"max_area": 1}, "max_area=1 is no share"),
        ("random_pixels", {"fraction": 80}, "fraction=80 is no share"),
        ("random_region", {"area": (0.3, 0.2)}, r"area=\(0.3, 0.2\) is no range"),
        ("random_region", {"area": (0.9, 0.95)}, r"area=\(0.9, 0.95\) is not reached"),
        ("irregular", {"border": "none"}, "border='none' is unknown: choose one of touching, clear"),
        ("irregular", {"ratio": (0.6, 0.8), "border": "clear"}, r"ratio=\(0.6, 0.8\] has no mask of 64 px"),
        ("irregular", {"ratio": (0.0, 0.0001)}, r"ratio=\(0.0, 0.0001\] has no mask of 64 px"),
        ("half", {"side": "middle"}, "side='middle' is unknown: choose one of left, right, top, bottom"),
        ("strokes", {"count": (0, 0)}, r"count=\(0, 0\) is not a range"),
    ]:
        with pytest.raises(BadInput, match=message):
            masks.make(kind, 1, 64, 0, **options)
    with pytest.raises(BadInput, match=r"n=0, size=64, seed=0: masks need n >= 1"):
        masks.half(0, 64, 0)


# One kind at a time --------------------------------------------------------------------------------------------------


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


# Irregular -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("border", masks.BORDERS)
@pytest.mark.parametrize("ratio", masks.RATIO_BINS)
def test_irregular_keeps_bin_and_border(ratio, border, size):
    mask = masks.irregular(30, size, 7, ratio, border)
    share = masks.hole_ratio(mask)
    assert (share > ratio[0]).all()
    assert (share <= ratio[1]).all()
    assert share.max() - share.min() > 0.7 * (ratio[1] - ratio[0])  # areas fill the bin
    frame = {64: 6, 128: 12}[size]  # round(50 · size / 512)
    outside = mask.clone()
    outside[:, :, frame:-frame, frame:-frame] = False
    if border == "clear":
        assert not outside.any()
    else:
        edge = mask.clone()
        edge[:, :, 1:-1, 1:-1] = False
        assert edge.any((1, 2, 3)).float().mean() > 0.4


def test_irregular_at_the_ends_of_a_bin():
    """Bins are (lo, hi]: at 100 px, 0.3 is exactly 3000 pixels, which belong to the lower bin."""
    share = masks.hole_ratio(masks.irregular(40, 100, 0, (0.2999, 0.3)))
    assert share.tolist() == [0.3] * 40
    share = masks.hole_ratio(masks.irregular(40, 100, 0, (0.3, 0.3001)))
    assert share.tolist() == [0.3001] * 40


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


# Pictures of masks ---------------------------------------------------------------------------------------------------


def nvidia_hole(ratio, clear, size=256):
    """A square hole of about that share: in the middle, or in the top left corner."""
    side = round(size * ratio**0.5)
    start = (size - side) // 2 if clear else 0
    hole = np.zeros((size, size), np.uint8)
    hole[start : start + side, start : start + side] = 255
    return hole


@pytest.fixture
def test_archive(tmp_path):
    files = {}
    for k in range(12):
        low, high = masks.RATIO_BINS[k // 2]
        for i in range(4):
            hole = nvidia_hole(low + (high - low) * (i + 1) / 5, clear=k % 2 == 0)
            files[f"testing_mask_dataset/{1000 * k + i:05d}.png"] = png(hole)
    return write_zip(tmp_path / "masks.zip", files)


@pytest.fixture
def train_archive(tmp_path):
    holes = [nvidia_hole(ratio, clear=False) for ratio in (0.1, 0.2, 0.3, 0.7)]
    files = {f"irregular_mask/disocclusion_img_mask/{17 * i}.png": png(255 - hole) for i, hole in enumerate(holes)}
    return write_zip(tmp_path / "irregular_mask.zip", files)


def test_nvidia_test_masks_by_bin_and_border(test_archive):
    every = masks.nvidia(test_archive, 64)
    assert every.shape == (48, 1, 64, 64)
    for k, low_high in enumerate(masks.RATIO_BINS):
        for border, corner in (("clear", False), ("touching", True)):
            mask = masks.nvidia(test_archive, 64, ratio=low_high, border=border)
            assert torch.equal(mask, every[8 * k :][:8][4:] if corner else every[8 * k :][:4])
            assert (mask[:, 0, 0, 0] == corner).all()
            share = masks.hole_ratio(mask)
            assert ((share > low_high[0] - 0.02) & (share < low_high[1] + 0.02)).all()
    assert torch.equal(masks.nvidia(test_archive, 64, limit=12), every[::4])


def test_nvidia_keeps_every_fifth_mask_for_training(tmp_path):
    holes = [nvidia_hole(0.11 + 0.008 * i, clear=True) for i in range(10)]
    files = {f"testing_mask_dataset/{2000 + i:05d}.png": png(hole) for i, hole in enumerate(holes)}
    archive = write_zip(tmp_path / "masks.zip", files)
    every, kept = masks.nvidia(archive, 64), [4, 9]
    assert torch.equal(masks.nvidia(archive, 64, fifth=True), every[kept])
    assert torch.equal(masks.nvidia(archive, 64, fifth=False), every[[i for i in range(10) if i not in kept]])
    with pytest.raises(BadInput, match=r"holds no mask with ratio=\(0.3, 0.4\) .*, every fifth file left out"):
        masks.nvidia(archive, 64, ratio=(0.3, 0.4), fifth=False)


def test_nvidia_training_masks_are_turned_round(train_archive):
    mask = masks.nvidia(train_archive, 64)
    assert masks.hole_ratio(mask).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.7], abs=0.02)
    assert mask[:, 0, 0, 0].all()
    assert not mask[:, 0, -1, -1].any()


def test_nvidia_reads_the_folder_as_the_archive(test_archive, train_archive, tmp_path):
    for archive in (test_archive, train_archive):
        zipfile.ZipFile(archive).extractall(tmp_path / archive.stem)
        assert torch.equal(masks.nvidia(archive, 64), masks.nvidia(tmp_path / archive.stem, 64))
    inner = tmp_path / "masks" / "testing_mask_dataset"
    assert torch.equal(masks.nvidia(inner, 64), masks.nvidia(test_archive, 64))


def test_nvidia_finds_wrong_polarity_bin_and_border(tmp_path):
    hole = nvidia_hole(0.15, clear=True)
    cases = [
        ("testing_mask_dataset/02000.png", 255 - hole, "02000.png: 0.850 of it is white, but its number says a hole"),
        ("testing_mask_dataset/04000.png", hole, "04000.png: 0.150 of it is white, but its number says .* 0.2 to 0.3"),
        ("testing_mask_dataset/02000.png", nvidia_hole(0.15, clear=False), "02000.png: has a hole within 25 px"),
        ("testing_mask_dataset/12000.png", hole, "12000.png: is no test mask of NVIDIA's"),
        ("irregular_mask/disocclusion_img_mask/1.png", hole, "a typical mask would be 85% hole"),
        ("somewhere/1.png", hole, "say kind='test' or kind='train'"),
    ]
    for name, picture, message in cases:
        path = write_zip(tmp_path / "case.zip", {name: png(picture)})
        with pytest.raises(BadInput, match=message):
            masks.nvidia(path, 64)
    with pytest.raises(BadInput, match="a typical mask would be 85% hole"):
        masks.nvidia(write_zip(tmp_path / "case.zip", {"02000.png": png(hole)}), 64, kind="train")


def test_nvidia_bad_archives_and_options(test_archive, train_archive, tmp_path):
    with pytest.raises(BadInput, match=r"missing\.zip: there is no such mask archive"):
        masks.nvidia(tmp_path / "missing.zip", 64)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(test_archive.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"cut\.zip: is truncated or is not a zip archive"):
        masks.nvidia(cut, 64)
    half_png = write_zip(tmp_path / "half.zip", {"testing_mask_dataset/02000.png": png(nvidia_hole(0.15, True))[:-60]})
    with pytest.raises(BadInput, match=r"02000\.png: cannot be read as a picture"):
        masks.nvidia(half_png, 64)
    with pytest.raises(BadInput, match="holds no PNG file"):
        masks.nvidia(write_zip(tmp_path / "empty.zip", {"readme.txt": b""}), 64)
    with pytest.raises(BadInput, match=r"ratio=\(0.1, 0.3\) is none of the bins"):
        masks.nvidia(test_archive, 64, ratio=(0.1, 0.3))
    with pytest.raises(BadInput, match="not sorted by ratio or border"):
        masks.nvidia(train_archive, 64, border="clear")
    with pytest.raises(BadInput, match="limit=0 selects no mask"):
        masks.nvidia(test_archive, 64, limit=0)
    with pytest.raises(BadInput, match="kind='val' is unknown"):
        masks.nvidia(test_archive, 64, kind="val")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_read_mask_takes_every_kind_of_picture(tmp_path, mode):
    hole = nvidia_hole(0.2, clear=False, size=60)
    if mode == "I;16":
        Image.fromarray(hole.astype(np.uint16) * 200).save(tmp_path / "mask.png")
    else:
        Image.fromarray(hole).convert(mode).save(tmp_path / "mask.png")
    assert torch.equal(masks.read_mask(tmp_path / "mask.png")[0, 0], torch.from_numpy(hole > 0))


def test_read_mask_cuts_greys_at_half_and_resizes_by_nearest(tmp_path):
    greys = np.array([[0, 100, 127], [128, 200, 255]], np.uint8)
    Image.fromarray(greys).save(tmp_path / "mask.png")
    expected = torch.tensor([[False, False, False], [True, True, True]])
    assert torch.equal(masks.read_mask(tmp_path / "mask.png")[0, 0], expected)
    larger = masks.read_mask(tmp_path / "mask.png", size=(4, 9))[0, 0]
    assert torch.equal(larger, expected.repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert masks.read_mask(tmp_path / "mask.png", size=8).shape == (1, 1, 8, 8)


def test_read_mask_names_the_bad_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.png: there is no such mask picture"):
        masks.read_mask(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadInput, match=r"text\.png: is a picture of no known format: give a PNG\.$"):
        masks.read_mask(tmp_path / "text.png")
    huge = b"\0\0\0\rIHDR" + (60_000).to_bytes(4) * 2 + b"\x08\0\0\0\0"
    (tmp_path / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + huge + zlib.crc32(huge[4:]).to_bytes(4) + b"\0\0\0\0IDAT"
    )
    with pytest.raises(BadInput, match=r"huge\.png: cannot be read as a picture .*3600000000 pixels"):
        masks.read_mask(tmp_path / "huge.png")
    Image.fromarray(np.eye(4, dtype=np.int32) * 2**30).save(tmp_path / "deep.tif")
    with pytest.raises(BadInput, match=r"deep\.tif: has floating-point or 32-bit pixels, of which white is unknown"):
        masks.read_mask(tmp_path / "deep.tif")
    for value, message in ((0, r"flat\.png has no hole"), (255, r"flat\.png is all hole")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "flat.png")
        with pytest.raises(BadInput, match=message):
            masks.read_mask(tmp_path / "flat.png")


def test_check_says_what_is_wrong():
    photos, good = torch.zeros(2, 3, 8, 8), masks.centre(2, 8)
    masks.check(good, photos)
    full, empty = good.clone(), good.clone()
    full[1], empty[0] = True, False
    for mask, message in [
        (good.float(), r"mask is torch\.float32: give a bool tensor, True = hole"),
        (good.numpy(), "mask is ndarray: give a bool tensor"),
        (good[:, 0], r"mask has shape \(2, 8, 8\): give \(B, 1, H, W\)"),
        (good.expand(2, 3, 8, 8), r"mask has shape \(2, 3, 8, 8\): give"),
        (masks.centre(2, 16), r"mask has shape \(2, 1, 16, 16\), the photos need \(2, 1, 8, 8\)"),
        (good[:1], r"mask has shape \(1, 1, 8, 8\), the photos need \(2, 1, 8, 8\)"),
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
