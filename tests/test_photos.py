"""Prepared photos: exact pixels, honest splits, all or nothing on disk; and batches that depend on the step alone."""

import errno
import io
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.__main__ import main
from inpaintlib.data import datasets, photos
from inpaintlib.data.photos import Batches, Photos, crop_boxes, load, prepare, to_rgb

RANDOM = np.random.default_rng(0)


def picture(width=8, height=8):
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path):
    """Six train and three test photos of 8 px."""
    root = tmp_path / "photos"
    for split, n in (("train", 6), ("test", 3)):
        (root / split).mkdir(parents=True)
        for i in range(n):
            (root / split / f"{i}.png").write_bytes(encoded(picture()))
    return root


def expected(path):
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def test_structure_images_are_prepared_with_the_photos(data, folder, monkeypatch, capsys):
    monkeypatch.setattr(inpaintlib, "DATA", data)
    assert main(["prepare", str(folder), "8", "--limit", "4", "--structures"]) == 0
    [path] = (data / "prepared" / "structure").glob("*.npy")
    kept = np.load(path)
    assert kept.shape == (4, 6, 8, 8)
    assert np.array_equal(kept[:, :3], load(str(folder), 8, "train", limit=4).array)
    assert f"{path}: 4 photos with their structure images" in capsys.readouterr().out


def left_over(data):
    return [file.name for file in (data / "prepared").rglob("*")]


# prepare


def test_photos_of_the_right_size_are_kept_bit_for_bit(folder):
    for rule in ("crop", "squash"):
        prepared = prepare(str(folder), 8, rule)
        assert (prepared.meta["train"], prepared.meta["test"]) == (6, 3)
        train = prepared.photos("train")
        assert train.array.dtype == np.uint8
        assert isinstance(train.array, np.memmap)
        assert not train.array.flags.writeable
        assert train.ids == [f"train/{i}.png" for i in range(6)]
        for id, pixels in zip(train.ids, train.array, strict=True):
            assert np.array_equal(pixels, expected(folder / id))


def test_zip_and_folder_give_identical_arrays(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"any/{file.relative_to(folder)}")
    for split in ("train", "test"):
        a, b = (load(str(path), 5, split, "multiscale") for path in (folder, tmp_path / "archive.zip"))
        assert np.array_equal(a.array, b.array)
        assert a.ids == b.ids
        assert len(a) > 9


def test_rerun_reuses_until_the_source_changes(folder, monkeypatch):
    first = prepare(str(folder), 8)
    with monkeypatch.context() as patch:
        patch.setattr(photos, "_build", None)
        assert prepare(str(folder), 8) == first
    (folder / "train" / "new.png").write_bytes(encoded(picture()))
    assert prepare(str(folder), 8).meta["train"] == 7


def test_a_run_walks_through_its_folder_once(folder, monkeypatch):
    prepare(str(folder), 8)
    datasets.walked.cache_clear()
    scan, seen = datasets.os.scandir, []
    monkeypatch.setattr(datasets.os, "scandir", lambda path: seen.append(path) or scan(path))
    for split in ("train", "test"):
        load(str(folder), 8, split)
    walked = sorted(str(path) for path in seen if str(path).startswith(str(folder)))
    assert walked == [str(folder), str(folder / "test"), str(folder / "train")]


def test_prepared_photos_outlive_their_source(data):
    (data / "UTKFace" / "train").mkdir(parents=True)
    (data / "UTKFace" / "test").mkdir()
    for split in ("train", "test"):
        (data / "UTKFace" / split / "a.png").write_bytes(encoded(picture()))
    before = np.array(load("utkface", 4, "train").array)
    (data / "UTKFace").rename(data / "moved")
    assert np.array_equal(load("utkface", 4, "train").array, before)
    with pytest.raises(BadInput, match="utkface is not here"):
        load("utkface", 5, "train")


def test_truncated_jpeg_is_named_and_counted(folder, data):
    good = encoded(picture(64, 64), "JPEG")
    (folder / "train" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "test" / "empty.jpg").write_bytes(b"")
    named = r"2 photos of .*test/empty\.jpg \(a picture of no known format\); train/cut\.jpg \(.*truncated"
    with pytest.raises(BadInput, match=named):
        prepare(str(folder), 8)
    assert left_over(data) == []
    meta = prepare(str(folder), 8, skip_bad=True).meta
    assert (meta["train"], meta["test"], sorted(meta["bad"])) == (6, 3, ["test/empty.jpg", "train/cut.jpg"])
    assert len(load(str(folder), 8, "train")) == 6
    with pytest.raises(BadInput, match="2 photos"):
        prepare(str(folder), 8)


def test_a_photo_damaged_inside_a_zip_is_named(folder, tmp_path):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    content, pixels = path.read_bytes(), (folder / "train" / "3.png").read_bytes()
    path.write_bytes(content.replace(pixels, pixels[:-30] + bytes(30)))
    with pytest.raises(BadInput, match=r"1 photo of .*train/3\.png \(Bad CRC"):
        prepare(str(path), 8)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("module", "where", "error", "said"), [
    (photos, "_write_header", FULL, BadInput), (os, "fsync", FULL, BadInput), (os, "replace", FULL, BadInput),
    (photos, "write_json", KeyboardInterrupt(), KeyboardInterrupt), (photos, "write_json", MemoryError(), MemoryError),
])  # fmt: skip
def test_a_full_disk_or_an_interruption_leaves_nothing_that_counts_as_done(
    folder, data, monkeypatch, module, where, error, said
):
    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, where, fail)
        with pytest.raises(said, match="No space left on device" if said is BadInput else None):
            prepare(str(folder), 8)
        assert left_over(data) == []
    assert prepare(str(folder), 8).meta["train"] == 6


def test_a_killed_preparation_is_done_again(folder):
    prepared = prepare(str(folder), 8)
    (prepared.folder / "meta.json").unlink()
    (prepared.folder / "train.npy").write_bytes(b"half")
    assert len(load(str(folder), 8, "train")) == 6


def test_duplicates_never_straddle_a_split(folder):
    """A copy of the file, and another file with the same pixels, are dropped from train; test keeps them."""
    (folder / "train" / "copy.png").write_bytes((folder / "test" / "1.png").read_bytes())
    Image.open(folder / "test" / "2.png").save(folder / "train" / "same.bmp")
    for rule in ("crop", "squash"):
        meta = prepare(str(folder), 4, rule).meta
        assert (meta["train"], meta["test"], meta["duplicates"]) == (6, 3, 2)
    assert not [id for id in load(str(folder), 4, "train", "multiscale").ids if "copy" in id or "same" in id]


def test_a_photo_equal_only_once_prepared_is_a_duplicate(folder):
    """The central squares are equal, the photos are not."""
    inner = Image.open(folder / "test" / "0.png")
    wide = picture(12, 8)
    wide.paste(inner, (2, 0))
    wide.save(folder / "train" / "wide.png")
    assert prepare(str(folder), 8, "crop").meta["duplicates"] == 1
    assert prepare(str(folder), 8, "squash").meta["duplicates"] == 0


def test_equal_files_without_official_split_fall_on_one_side(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(60):
        content = encoded(Image.new("RGB", (4, 4), (i, 0, 0)))
        (root / f"{i}.png").write_bytes(content)
        (root / f"{i}-copy.png").write_bytes(content)
    prepared = prepare(str(root), 4)
    sides = [{id.split("-")[0].split(".")[0] for id in prepared.photos(split).ids} for split in ("train", "test")]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 60
    assert (prepared.meta["train"], prepared.meta["test"]) == (2 * len(sides[0]), 2 * len(sides[1]))


def test_limit_draws_from_all_classes(tmp_path):
    for split in ("train", "test"):
        for i in range(40):
            path = tmp_path / "photos" / split / str(i // 20) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(4, 4)))
    some = load(str(tmp_path / "photos"), 4, "train", limit=12)
    assert len(some) == 12
    assert {id.split("/")[1] for id in some.ids} == {"0", "1"}
    everything = load(str(tmp_path / "photos"), 4, "train")
    assert set(some.ids) < set(everything.ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "stretch"}, "resize is 'stretch': it is one of squash, crop, multiscale"),
        ({"size": 0}, "size is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"dataset": "dmo"}, "did you mean 'demo'"),
        ({"size": 9, "resize": "multiscale"}, "0 are unreadable and 9 too small"),
    ],
)
def test_bad_parameters(folder, arguments, message):
    with pytest.raises(BadInput, match=message):
        prepare(**({"dataset": str(folder), "size": 8} | arguments))


def test_a_set_without_test_photos_says_so(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4), (2, 0, 0))))
    sides = [prepare(str(tmp_path / "photos"), 4).meta[split] for split in ("train", "test")]
    assert sum(sides) == 1
    with pytest.raises(BadInput, match=r"has no (train|test) photos: a small set needs folders"):
        load(str(tmp_path / "photos"), 4, "test" if sides[0] else "train")
    with pytest.raises(BadInput, match="split is 'val'"):
        load(str(tmp_path / "photos"), 4, "val")


# colours


def pixels(data):
    image = to_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_greyscale_and_palette_become_rgb_exactly():
    grey = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
    assert np.array_equal(pixels(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    colours, indices = RANDOM.integers(0, 256, (16, 3), dtype=np.uint8), RANDOM.integers(0, 16, (5, 7), dtype=np.uint8)
    palette = Image.fromarray(indices, "P")
    palette.putpalette(colours.tobytes())
    assert np.array_equal(pixels(encoded(palette)), colours[indices])
    assert np.array_equal(pixels(encoded(Image.fromarray(grey > 127)))[..., 0], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_rounded_to_eight(format):
    deep = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(deep), format))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparency_lies_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(rgba))).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([9, 8, 7, 6, 5, 4])
    assert pixels(encoded(palette, transparency=1)).tolist() == [[[9, 8, 7], [255, 255, 255]]]


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(pixels(encoded(cmyk, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (3, Image.ROTATE_180), (6, Image.ROTATE_270)])
def test_exif_orientation_is_applied(orientation, turn):
    image, exif = picture(6, 4), Image.Exif()
    exif[0x0112] = orientation
    upright = image if turn is None else image.transpose(turn)
    assert np.array_equal(pixels(encoded(image, exif=exif)), np.asarray(upright))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_white_are_refused(dtype):
    with pytest.raises(ValueError, match="32-bit pixels, of which the white level is unknown"):
        to_rgb(encoded(Image.fromarray(np.eye(4, dtype=dtype) * 2**30), "TIFF"))


# resize rules


@pytest.mark.parametrize("rule", photos.RULES)
@pytest.mark.parametrize("side", [7, 16, 31])
def test_a_constant_photo_stays_constant(rule, side):
    image = Image.new("RGB", (48, 31), (13, 200, 255))
    for box in crop_boxes(48, 31, side, rule, 5, bytes(32)):
        assert (photos._resized(image, side, box) == np.array([13, 200, 255])[:, None, None]).all()


def test_a_checkerboard_is_antialiased_to_grey():
    """Every halving of a 1-pixel checkerboard weighs black and white alike, 127.5; without antialiasing bilinear
    sampling at a quarter of the size would hit pixels at random."""
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    inside = photos._resized(board, 16, (0, 0, 64, 64))[:, 1:-1, 1:-1]
    assert np.abs(inside - 127.5).max() <= 1


def test_halving_is_a_triangle_filter():
    """Antialiased bilinear by a factor 2: weights 1 3 3 1 over 8, against an independent computation."""
    image = picture(32, 32)
    rows = np.asarray(image).astype(float)
    for _ in range(2):  # each axis
        rows = np.stack([rows[i : i + 26 : 2] for i in range(3, 7)])
        rows = np.tensordot(np.array([1, 3, 3, 1]) / 8, rows, 1).swapaxes(0, 1)
    ours = photos._resized(image, 16, (0, 0, 32, 32))[:, 2:15, 2:15].transpose(1, 2, 0)
    assert np.abs(ours - rows).max() <= 1.01  # two roundings


@pytest.mark.parametrize(
    ("width", "height", "rule", "box"),
    [
        (178, 218, "crop", (0, 20, 178, 198)),
        (218, 178, "crop", (20, 0, 198, 178)),
        (218, 178, "squash", (0, 0, 218, 178)),
    ],
)
def test_crop_and_squash_boxes(width, height, rule, box):
    assert crop_boxes(width, height, 64, rule, 1, bytes(32)) == [box]


@pytest.mark.parametrize(("width", "height", "size"), [(768, 512, 64), (512, 900, 300), (512, 512, 512), (70, 66, 64)])
def test_multiscale_boxes_are_squares_inside_the_photo_never_enlarged(width, height, size):
    boxes = crop_boxes(width, height, size, "multiscale", 40, os.urandom(32))
    sides = [right - left for left, _, right, _ in boxes]
    assert len(set(boxes)) == len(boxes)
    assert sides == sorted(sides, reverse=True)
    assert sides == [bottom - top for _, top, _, bottom in boxes]
    assert max(sides) == min(width, height)
    assert min(sides) == max(size, round(min(width, height) / 3))
    assert all(box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height for box in boxes)


def test_multiscale_boxes_depend_on_the_seed_alone_and_cover_the_photo():
    boxes = crop_boxes(768, 512, 64, "multiscale", 40, bytes(range(32)))
    assert boxes == crop_boxes(768, 512, 64, "multiscale", 40, bytes(range(32)))
    assert boxes != crop_boxes(768, 512, 64, "multiscale", 40, bytes(32))
    covered = np.zeros((512, 768), int)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert (covered > 0).mean() > 0.9
    assert crop_boxes(63, 90, 64, "multiscale", 40, bytes(32)) == []


def test_demo_crops_are_named_after_photo_and_box():
    train, test = (load("demo", 16, split) for split in ("train", "test"))
    assert (len(train), len(test), train.name) == (1738, 248, "demo")
    names = [set(part.pictures) for part in (train, test)]
    assert (len(names[0]), len(names[1])) == (71, 31)
    assert all(name.startswith("train/") for name in names[0])
    assert all(name.startswith("test/") for name in names[1])
    assert 0.2 < sum("reef-" in picture for picture in train.pictures) / len(train) <= 0.25
    name, box = train.ids[777].split("#")
    photo = Image.open(datasets.locate("demo") / name)
    square = photo.resize((16, 16), Image.BILINEAR, box=tuple(map(int, box.split(","))))
    assert np.array_equal(train.array[777], np.asarray(square).transpose(2, 0, 1))


def test_a_series_gives_at_most_a_quarter_of_the_train_crops():
    ids = [str(i) for i in range(10)]
    assert photos._crops_of_series(ids, {"8": "a", "9": "a"}) == {"8": 40, "9": 40}  # 80 of 400: no limit needed
    few = photos._crops_of_series(ids, dict.fromkeys(ids[4:], "a"))
    assert set(few.values()) == {8}  # 6 * 8 of 4 * 40 + 6 * 8 are 23 %; with 9 they would be 25.2 %


def test_enlarged_photos_have_no_finer_detail():
    board = np.broadcast_to(np.indices((8, 8)).sum(0) % 2 * 200, (1, 3, 8, 8)).astype(np.uint8)
    half = photos.enlarged(Photos(board, ["board"], "demo"), 4)
    assert half.name == "demo from 4 px"
    assert np.abs(half.array.astype(int)[..., 2:-2, 2:-2] - 100).max() <= 1
    with pytest.raises(BadInput, match="source_size is 8: it must be below the photos' side, 8 px"):
        photos.enlarged(half, 8)


# spread, and the examples that figures show


def test_pictures_are_ids_without_the_crop_box():
    some = replace(numbered(3), ids=["a.jpg#1,2,3,4", "b#1,2,3,4.jpg", "c.jpg"])
    assert some.pictures == ["a.jpg", "b#1,2,3,4.jpg", "c.jpg"]


@pytest.mark.parametrize("n", [1, 5, 7, 16, 40, 56, 0, 100])
def test_spread_takes_as_many_photos_of_each_picture(n):
    """Seven pictures, of one 2 photos, of the others 9."""
    ids = [f"{p}#{i},0,8,8" for p in "abcdefg" for i in range(2 if p == "c" else 9)]
    every = replace(numbered(56), ids=ids)
    chosen, names, pictures = every.spread(n)
    count = min(n or 56, 56)
    assert len(chosen) == len(set(names)) == count
    assert names == sorted(names)
    assert [name.split("#")[0] for name in names] == pictures
    assert [ids[row] for row in chosen[:, 0, 0, 0].tolist()] == names
    counts = [pictures.count(p) for p in "abdefg"]
    assert max(counts) - min(counts) <= 1
    assert pictures.count("c") == 2 or pictures.count("c") >= min(counts)
    chosen[0] = 9  # memory of its own
    assert every.array[0, 0, 0, 0] == 0


@pytest.mark.parametrize("n", [2, 8, 64, 1000])
def test_spread_is_even_over_photos_that_are_a_picture_each(n):
    rows = np.array(photos._even_rows([str(i) for i in range(1000)], n))
    assert len(set(np.diff(rows))) <= 3
    assert np.diff([*rows, 1000]).max() <= 3 * 1000 / n
    more = photos._even_rows([str(i) for i in range(1000)], min(2 * n, 1000))
    assert set(rows) <= set(more)


def test_examples_are_the_centres_of_different_test_pictures():
    shown, names = photos.examples(32)
    assert (shown.shape, shown.dtype, len(set(names))) == ((12, 3, 32, 32), torch.float32, 12)
    assert shown.min() >= 0
    assert 0.9 < shown.max() <= 1
    at = names.index("kodim04")
    photo = Image.open(datasets.locate("demo") / "test" / "kodim04.jpg")
    square = np.asarray(photo.resize((32, 32), Image.BILINEAR, box=(0, 128, 512, 640))).transpose(2, 0, 1)
    assert np.array_equal(shown[at].mul(255).round().byte().numpy(), square)
    assert len(photos.examples(8, n=1000)[1]) == 31
    faces, people = photos.examples(32, faces=True)
    assert (len(faces), people) == (2, ["kodim04", "kodim15"])
    assert not torch.equal(faces[0], shown[at])
    with pytest.raises(BadInput, match="size=0, n=12: examples need both to be at least 1"):
        photos.examples(0)


# batches


def numbered(n, size=2):
    """Photos whose pixels tell their number and which side is left."""
    array = np.zeros((n, 3, size, size), np.uint8)
    array[:, 0] = np.arange(n)[:, None, None]
    array[:, 1, :, 0] = 1
    return Photos(array, [str(i) for i in range(n)], "numbered")


def numbers(batch):
    return batch[:, 0, 0, 0].tolist()


def mirrored(batch):
    return (batch[:, 1, 0, 0] == 0).tolist()


@pytest.mark.parametrize("batch", [1, 4, 10, 23])
def test_every_photo_once_an_epoch_and_batches_run_on_into_the_next(batch):
    n = 10
    batches = Batches(numbered(n), batch, "cpu", seed=3)
    stream = [number for step in range(12) for number in numbers(batches.at(step))]
    epochs = [stream[start : start + n] for start in range(0, len(stream) - n + 1, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len(epochs) == 1 or epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_alone():
    ahead = Batches(numbered(50), 8, "cpu", seed=1)
    sequence = [ahead.at(step) for step in range(30)]
    for step in (29, 3, 17, 0, 29):
        assert torch.equal(Batches(numbered(50), 8, "cpu", seed=1).at(step), sequence[step])
        assert torch.equal(ahead.at(step), sequence[step])
    assert not torch.equal(Batches(numbered(50), 8, "cpu", seed=2).at(0), sequence[0])


def test_half_of_the_photos_are_mirrored_anew_each_epoch():
    batches = Batches(numbered(200, 4), 200, "cpu", seed=0)
    first, second = batches.at(0), batches.at(1)
    flips = [dict(zip(numbers(batch), mirrored(batch), strict=True)) for batch in (first, second)]
    assert all(abs(sum(flip.values()) - 100) < 4 * 7.1 for flip in flips)  # 4 standard deviations
    agree = sum(flips[0][i] == flips[1][i] for i in range(200))
    assert abs(agree - 100) < 4 * 7.1
    assert not any(mirrored(Batches(numbered(200), 200, "cpu", seed=0, flip=False).at(0)))


@pytest.mark.parametrize("steps", [range(12), (5, 5, 2, 9, 10, 0)])
def test_streaming_gives_the_same_batches(folder, steps):
    train = load(str(folder), 5, "train", "multiscale")
    resident, streaming = (Batches(train, 7, "cpu", seed=5, stream=stream) for stream in (False, True))
    assert (resident.stream, streaming.stream) == (False, True)
    for step in steps:
        assert torch.equal(resident.at(step), streaming.at(step))


@pytest.mark.parametrize("stream", [False, True])
def test_channels_behind_the_photos_go_with_them(stream):
    colours = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8).numpy()
    both = Photos(np.concatenate([colours, 255 - colours], 1), [str(i) for i in range(20)], "both")
    for step in range(3):
        batch = Batches(both, 12, "cpu", seed=1, stream=stream).at(step)
        assert torch.equal(batch[:, :3], Batches(replace(both, array=colours), 12, "cpu", seed=1).at(step))
        assert torch.equal(batch[:, 3:], 255 - batch[:, :3])


def test_what_does_not_fit_streams(monkeypatch):
    monkeypatch.setattr(photos, "RAM_LIMIT", numbered(10).array.nbytes - 1)
    assert Batches(numbered(10), 2, "cpu", seed=0).stream
    assert not Batches(numbered(9), 2, "cpu", seed=0).stream


@pytest.mark.parametrize("stream", [False, True])
def test_writing_to_a_batch_does_not_change_the_photos(stream):
    batches = Batches(numbered(6), 6, "cpu", seed=0, flip=False, stream=stream)
    before = batches.at(0).clone()
    batches.at(0).zero_()
    assert torch.equal(batches.at(0), before)


def test_batch_size_is_checked():
    with pytest.raises(BadInput, match="batch is 0"):
        Batches(numbered(6), 0, "cpu", seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stream", [False, True])
def test_a_gpu_gives_the_same_batches(stream):
    ours, reference = (Batches(numbered(50), 8, device, 1, stream=stream) for device in ("cuda", "cpu"))
    for step in range(20):
        assert torch.equal(ours.at(step).cpu(), reference.at(step))
