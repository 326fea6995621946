"""NVIDIA's masks: each in its cell, archive and folder alike, and archives that contradict themselves."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from inpaintlib import BadInput
from inpaintlib.data import masks, nvidia_masks

FOLDER = "testing_mask_dataset"


def hole_of(ratio, clear, size=256):
    """A square hole of about that fraction: in the middle, or in the top left corner."""
    side = round(size * ratio**0.5)
    start = (size - side) // 2 if clear else 0
    hole = np.zeros((size, size), np.uint8)
    hole[start : start + side, start : start + side] = 255
    return hole


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def test_archive(tmp_path):
    """Four masks of each thousand."""
    files = {}
    for k in range(12):
        low, high = masks.RATIO_BINS[k // 2]
        for i in range(4):
            hole = hole_of(low + (high - low) * (i + 1) / 5, clear=k % 2 == 0)
            files[f"{FOLDER}/{1000 * k + i:05d}.png"] = png(hole)
    return write_zip(tmp_path / "masks.zip", files)


@pytest.fixture
def train_archive(tmp_path):
    holes = [hole_of(ratio, clear=False) for ratio in (0.1, 0.2, 0.3, 0.7)]
    files = {f"irregular_mask/disocclusion_img_mask/{17 * i}.png": png(255 - hole) for i, hole in enumerate(holes)}
    return write_zip(tmp_path / "irregular_mask.zip", files)


def test_test_masks_by_bin_and_border(test_archive):
    every = nvidia_masks.load(test_archive, 64)
    assert every.shape == (48, 1, 64, 64)
    for k, low_high in enumerate(masks.RATIO_BINS):
        for border, corner in (("clear", False), ("touching", True)):
            mask = nvidia_masks.load(test_archive, 64, ratio=low_high, border=border)
            assert torch.equal(mask, every[8 * k :][:8][4:] if corner else every[8 * k :][:4])
            assert (mask[:, 0, 0, 0] == corner).all()
            fraction = masks.hole_ratio(mask)
            assert ((fraction > low_high[0] - 0.02) & (fraction < low_high[1] + 0.02)).all()
    assert torch.equal(nvidia_masks.load(test_archive, 64, limit=12), every[::4])


def test_every_fifth_mask_is_kept_for_training(tmp_path):
    holes = [hole_of(0.11 + 0.008 * i, clear=True) for i in range(10)]
    files = {f"{FOLDER}/{2000 + i:05d}.png": png(hole) for i, hole in enumerate(holes)}
    archive = write_zip(tmp_path / "masks.zip", files)
    every, kept = nvidia_masks.load(archive, 64), [4, 9]
    assert torch.equal(nvidia_masks.load(archive, 64, fifth=True), every[kept])
    assert torch.equal(nvidia_masks.load(archive, 64, fifth=False), every[[i for i in range(10) if i not in kept]])
    with pytest.raises(BadInput, match=r"holds no mask with ratio=\(0.3, 0.4\) .*, every fifth file left out"):
        nvidia_masks.load(archive, 64, ratio=(0.3, 0.4), fifth=False)


def test_training_masks_are_turned_round(train_archive):
    mask = nvidia_masks.load(train_archive, 64)
    assert masks.hole_ratio(mask).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.7], abs=0.02)
    assert mask[:, 0, 0, 0].all()
    assert not mask[:, 0, -1, -1].any()


def test_a_folder_is_read_as_the_archive(test_archive, train_archive, tmp_path):
    for archive in (test_archive, train_archive):
        zipfile.ZipFile(archive).extractall(tmp_path / archive.stem)
        assert torch.equal(nvidia_masks.load(archive, 64), nvidia_masks.load(tmp_path / archive.stem, 64))
    inner = tmp_path / "masks" / FOLDER
    assert torch.equal(nvidia_masks.load(inner, 64), nvidia_masks.load(test_archive, 64))


HOLE = hole_of(0.15, clear=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"{FOLDER}/02000.png", png(255 - HOLE), "02000.png: 0.850 of it is white, but its number says a hole"),
        (f"{FOLDER}/04000.png", png(HOLE), "04000.png: 0.150 of it is white, but its number says .* 0.2 to 0.3"),
        (f"{FOLDER}/02000.png", png(hole_of(0.15, clear=False)), "02000.png: has a hole within 25 px"),
        (f"{FOLDER}/12000.png", png(HOLE), "12000.png: is no test mask of NVIDIA's"),
        (f"{FOLDER}/02000.png", png(HOLE)[:-60], r"02000\.png cannot be read as a picture"),
        (f"{FOLDER}/02000.png", b"no picture", r"02000\.png cannot be read as a picture \(a picture of no known"),
        ("irregular_mask/disocclusion_img_mask/1.png", png(HOLE), "a typical mask would be 85% hole"),
        ("somewhere/1.png", png(HOLE), "does not hold just one folder testing_mask_dataset or disocclusion_img_mask"),
        ("readme.txt", b"", "does not hold just one folder"),
    ],
)
def test_foreign_and_damaged_archives_are_refused(tmp_path, name, content, message):
    with pytest.raises(BadInput, match=message):
        nvidia_masks.load(write_zip(tmp_path / "case.zip", {name: content}), 64)


def test_missing_and_truncated_archives_and_bad_options(test_archive, train_archive, tmp_path):
    (tmp_path / "cut.zip").write_bytes(test_archive.read_bytes()[:-200])
    for archive, options, message in [
        (tmp_path / "missing.zip", {}, r"there is no folder or zip of photos at .*missing\.zip"),
        (tmp_path / "cut.zip", {}, r"cut\.zip is truncated or is not a zip archive"),
        (test_archive, {"ratio": (0.1, 0.3)}, r"ratio=\(0.1, 0.3\) is none of the bins"),
        (test_archive, {"border": "open"}, "border='open' is unknown"),
        (test_archive, {"limit": 0}, "limit=0 selects no mask"),
        (train_archive, {"border": "clear"}, "not sorted by ratio or border"),
    ]:
        with pytest.raises(BadInput, match=message):
            nvidia_masks.load(archive, 64, **options)
