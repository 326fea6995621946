"""The catalogue of methods, and filling the holes of a user's own photos."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import inpaintlib
from inpaintlib import BadInput, inpaint
from inpaintlib.__main__ import main
from inpaintlib.data import masks
from inpaintlib.drawing import Drawing
from inpaintlib.methods import classical, partial_conv
from inpaintlib.methods.partial_conv import PartialConvNet
from inpaintlib.studies import all_methods
from inpaintlib.studies.all_methods import METHODS, Loaded


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """An empty folder of small networks in an empty folder of results."""
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")
    (tmp_path / "results" / "networks").mkdir(parents=True)
    return tmp_path / "results" / "networks"


def save(path, conv="partial"):
    settings = partial_conv.Settings(size=32, width=2, conv=conv, bank=6, perceptual_weight=0.0, style_weight=0.0)
    network = PartialConvNet(settings, device="cpu", precision="fp32")
    network.save(path)
    return network


def test_half_precision_networks_fill_like_the_network_rounded_to_half(networks):
    network = save(networks / "partial_conv.pt")
    state = torch.load(networks / "partial_conv.pt", weights_only=True)
    halved = {n: t.half() if t.is_floating_point() else t for n, t in state["network"].items()}
    torch.save(state | {"network": halved}, networks / "partial_conv.pt")
    found = METHODS["partial_conv"].load(all_methods.newest("partial_conv"), "cpu")
    network.network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in halved.items()})
    photos, mask = torch.rand(1, 3, 32, 32), masks.centre(1, 32)
    assert found.side == 32
    assert found.parameters == sum(t.numel() for t in network.network.parameters())
    assert torch.equal(found(photos, mask), network.inpaint(photos, mask))


def test_a_checkpoint_of_another_method_is_refused_by_name(networks):
    save(networks / "mine.pt")
    with pytest.raises(BadInput, match=r"mine.pt: a checkpoint of partial_conv, not of plain_conv; give one of plain"):
        METHODS["plain_conv"].load(networks / "mine.pt", "cpu")
    torch.save({"settings": {"kernel": 3}}, networks / "other.pt")
    with pytest.raises(BadInput, match="a checkpoint of no method here, not of medfe_cae"):
        METHODS["medfe_cae"].load(networks / "other.pt", "cpu")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.study])
def test_a_missing_network_says_how_to_make_it(networks, name):
    method = METHODS[name]
    with pytest.raises(BadInput, match=f"{name}: no trained network is here; make one with python -m inpaintlib sweep "
                       f"{method.study} --preset (quick|night) --only arm='{method.run['arm']}'"):  # fmt: skip
        all_methods.newest(name)


def test_no_two_methods_fit_one_network_but_the_two_ends_of_a_search():
    settings = [{"region": "centre", "ratio": 100.0}, {"region": "centre", "ratio": math.inf},
                {"region": "random_region", "ratio": 1.0}, {"region": "random_pixels", "ratio": 1.0},
                {"conv": "plain"}, {"conv": "partial"}, {"constraint": "none"}, {"constraint": "cae"},
                {"constraint": "conv1x1"}, {"constraint": "conv1x1", "fixes": ""}, {"constraint": "cae", "fixes": ""},
                {"g_steps": 2}]  # fmt: skip
    found = [[name for name, method in METHODS.items() if method.fits(each)] for each in settings]
    assert found[-1] == ["latent_search", "latent_search_unblended"]
    assert all(len(names) == 1 for names in found[:-1])
    assert len({names[0] for names in found}) == len(found)


def test_classical_fills_are_the_library_s():
    photos, mask = torch.rand(1, 3, 20, 30), torch.rand(1, 1, 20, 30) > 0.7
    assert torch.equal(METHODS["telea"].load()(photos, mask), classical.telea(photos, mask))
    with pytest.raises(BadInput, match=r"there is no 'tela'; did you mean 'telea'\?"):
        all_methods.method("tela")


# Photos


def textured(high, wide, seed=0):
    """Noise with few levels: every byte of it matters."""
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)


def disc(high, wide, radius, y, x):
    rows, columns = np.ogrid[:high, :wide]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def filler(side=32, value=0.25, hole=None):
    """A network that fills with one value, whatever it sees, and keeps what it saw."""
    seen = []

    def work(photos, mask):
        seen.append((photos, mask))
        return torch.where(mask, value, photos)

    return Loaded(work, side, hole), seen


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("shape", [(96, 140), (21, 17), (300, 64)])
def test_known_pixels_keep_their_bytes_and_all_of_the_hole_is_filled(shape, blend):
    pixels = textured(*shape)
    hole = disc(*shape, 6, 10, 8) | disc(*shape, 2, shape[0] - 1, shape[1] - 1)
    for loaded in (filler()[0], METHODS["telea"].load()):
        found = inpaint.fill(pixels, hole, loaded, blend)
        assert found.dtype == np.uint8
        assert (found[~hole] == pixels[~hole]).all()
        assert (inpaint.fill(np.where(hole[..., None], 255 - pixels, pixels), hole, loaded, blend) == found).all()
    if not blend:
        assert (inpaint.fill(pixels, hole, filler(value=0.6)[0])[hole] == 153).all()


def test_strokes_and_specks_are_filled_in_many_windows_of_known_size():
    hole = np.zeros((400, 500), bool)
    hole[::37, 5:480] = True
    hole[3::50, ::7] = True
    pixels = np.where(hole[..., None], textured(400, 500), np.uint8(153))
    loaded, seen = filler(side=32, value=0.6)
    assert (inpaint.fill(pixels, hole, loaded)[hole] == 153).all()
    assert {tuple(part.shape[1:]) for part, _ in seen} == {(3, 32, 32)}
    assert sum(len(part) for part, _ in seen) <= inpaint.WINDOWS
    assert all(mask.flatten(1).any(1).all() and not mask.flatten(1).all(1).any() for _, mask in seen)


def test_a_smooth_photo_reduced_and_enlarged_comes_back():
    """A network that knows the truth gives the truth back: windows, reduction and enlargement add no shift."""
    rows, columns = np.mgrid[:240, :320]
    pixels = np.stack([rows / 2, columns / 2, (rows + columns) / 4], -1).round().astype(np.uint8)
    for hole in (disc(240, 320, 50, 110, 150), disc(240, 320, 60, 0, 319), np.abs(rows - columns) < 5):
        truth = Loaded(lambda photos, mask: photos, 32)
        error = np.abs(inpaint.fill(pixels, hole, truth).astype(int) - pixels)[hole]
        assert error.max() <= 3  # enlarging clamps at a window's edge: half a reduced pixel of the slope


def test_the_photo_s_hole_never_reaches_a_known_pixel_of_what_a_network_sees():
    pixels, hole = textured(200, 200), disc(200, 200, 40, 100, 100)
    (loaded, seen), (other, seen_other) = filler(), filler()
    inpaint.fill(pixels, hole, loaded)
    inpaint.fill(np.where(hole[..., None], 0, pixels).astype(np.uint8), hole, other)
    for (photos, mask), (photos_other, mask_other) in zip(seen, seen_other, strict=True):
        assert torch.equal(mask, mask_other)
        assert torch.equal(photos.where(~mask, 0), photos_other.where(~mask, 0))


def test_a_central_network_sees_the_hole_in_its_middle_or_refuses():
    central = masks.centre(1, 32)
    loaded, seen = filler(hole=central)
    hole = np.zeros((300, 400), bool)
    hole[130:190, 210:270] = True
    pixels = np.where(hole[..., None], textured(300, 400), np.uint8(64))
    found = inpaint.fill(pixels, hole, loaded)
    assert (found == 64).all()
    assert not (seen[0][1] & ~central).any()
    hole[:4, 5:9] = True  # at the border
    fills, sentences = inpaint.fill_each(pixels, hole, {"context_encoder": loaded, "telea": METHODS["telea"].load()})
    assert fills["context_encoder"] is None
    assert (fills["telea"][~hole] == pixels[~hole]).all()
    assert sentences == [
        "context_encoder cannot fill this hole (it fills only a hole in the middle of a square of known pixels of "
        "twice the hole's side); these can: partial_conv, latent_search, latent_search_unblended, medfe_cae, telea, "
        "navier_stokes, biharmonic, membrane, mean_colour"
    ]


def test_blending_meets_a_flat_photo_at_the_hole_s_edge():
    """In a photo of one colour a fill of another one is moved onto the photo's, wherever it was."""
    pixels, hole = np.full((120, 90, 3), 200, np.uint8), disc(120, 90, 7, 60, 40)
    assert (inpaint.fill(pixels, hole, filler(value=0.1)[0], blend=True) == 200).all()


# The command


@pytest.fixture
def folder(tmp_path):
    """Two photos and the mask of the first."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(textured(60, 80)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(textured(64, 64, 1)).save(tmp_path / "photos" / "b.png")
    Image.fromarray(disc(60, 80, 9, 30, 40)).convert("L").save(tmp_path / "mask.png")
    return tmp_path


def command(folder, *words, method="telea"):
    return main(["inpaint", *map(str, words), "--method", method, "--out", str(folder / "out")])


def test_folders_methods_and_a_contact_sheet(folder):
    assert command(folder, folder / "photos", "--mask", "centre", method="telea,membrane") == 0
    left = {path.name: Image.open(path).size for path in (folder / "out").iterdir()}
    fills = {f"{photo}_{name}.png": size for photo, size in (("a", (80, 60)), ("b", (64, 64)))
             for name in ("telea", "membrane")}  # fmt: skip
    assert left == fills | {"contact_sheet.png": (3 * inpaint.CELL, 2 * (inpaint.CELL + 18))}


def test_a_mask_of_one_size_fills_its_photo_and_leaves_the_other_with_a_sentence(folder, capfd):
    assert command(folder, folder / "photos", "--mask", folder / "mask.png") == 1
    said = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("inpaintlib")]
    assert said == [f"inpaintlib: {folder}/mask.png: is 80x60 px, but {folder}/photos/b.png is 64x64 px, upright; draw "
                    "the mask at the photo's size, white = hole"]  # fmt: skip
    hole = disc(60, 80, 9, 30, 40)
    found = np.array(Image.open(folder / "out" / "a_telea.png"))
    assert (found[~hole] == textured(60, 80)[~hole]).all()
    assert (found[hole] != textured(60, 80)[hole]).any()


def test_transparency_is_a_hole_and_exif_turns_photo_and_hole(folder):
    pixels, hole = textured(40, 50, 3), disc(40, 50, 5, 10, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    alpha = np.where(hole, 0, 255)[..., None].astype(np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], -1)).save(folder / "clear.png", exif=exif)
    assert command(folder, folder / "clear.png", "--mask", "alpha") == 0
    found = np.array(Image.open(folder / "out" / "clear_telea.png"))
    turned = np.rot90(hole, -1)
    assert (found[~turned] == np.rot90(pixels, -1)[~turned]).all()


def deep(path):
    Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60) * 18).save(path)


def animated(path):
    frames = [Image.fromarray(textured(60, 60, i)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "status", "sentence"),
    [
        ("x.png", deep, 0, "x.png: 16 bits a channel become 8"),
        ("x.jpg", lambda path: Image.new("CMYK", (60, 60), 9).save(path), 0, "x.jpg: CMYK becomes RGB"),
        ("x.png", lambda path: Image.new("L", (60, 60), 9).save(path), 0, ""),
        ("x.gif", animated, 2, "x.gif: is animated (3 frames); save the frame that you mean as a PNG"),
        ("x.jpg", lambda path: path.write_text("no photo"), 2, "x.jpg: is no picture; give a JPEG or a PNG"),
        ("x.jpg", lambda path: None, 2, "x.jpg: there is no such file"),
        (
            "x.png",
            lambda path: Image.new("RGB", (1, 60)).save(path),
            2,
            "x.png: centre marks nothing of it",
        ),
    ],
)
def test_kinds_of_photos(folder, capfd, name, make, status, sentence):
    make(folder / name)
    assert command(folder, folder / name, "--mask", "centre") == status
    said = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("inpaintlib")]
    assert [f"/{sentence}" in line for line in said] == ([True] if sentence else [])
    assert (folder / "out" / "x_telea.png").exists() == (status == 0)
    assert command(folder, folder / name, folder / "photos" / "a.png", "--mask", "centre") == min(status, 1)
    assert (folder / "out" / "a_telea.png").exists()
    assert ("100%" in capfd.readouterr().err) == (status == 0)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ("alpha", "a.png: has no transparency; erase what is to be filled, or give a mask picture, white = hole"),
        ("black.png", "a.png: {folder}/black.png marks nothing of it; there must be a hole, and something known"),
        ("white.png", "a.png: {folder}/white.png marks all of it; there must be a hole, and something known"),
        ("none.png", "inpaintlib: --mask {folder}/none.png: there is no such file"),
        ("holes", "inpaintlib: --mask {folder}/holes/a.png: there is no such file"),
        ("text.png", "inpaintlib: --mask {folder}/text.png: is no picture; give a JPEG or a PNG"),
    ],
)
def test_masks_that_will_not_do(folder, capfd, mask, sentence):
    (folder / "holes").mkdir()
    (folder / "text.png").write_text("no picture")
    Image.new("L", (80, 60), 0).save(folder / "black.png")
    Image.new("L", (80, 60), 255).save(folder / "white.png")
    assert command(folder, folder / "photos" / "a.png", "--mask", mask if mask == "alpha" else folder / mask) == 2
    assert sentence.format(folder=folder) in capfd.readouterr().err


def test_what_is_wrong_is_said_before_anything_starts(folder, networks, capsys):
    photo = folder / "photos" / "a.png"
    for words, method, sentence in [
        ([], "tela", "there is no 'tela'; did you mean 'telea'?"),
        ([], "partial_conv", "make one with python -m inpaintlib sweep partial_conv_losses --preset quick"),
        (["--checkpoint", photo], "telea,partial_conv", "--checkpoint: is of one method"),
        (["--device", "foo"], "telea", "device: 'foo' cannot be used here"),
        (["--checkpoint", photo], "partial_conv", "a.png: not a readable checkpoint"),
        (["--checkpoint", photo], "telea", "telea: has no network, so it takes no checkpoint"),
        ([folder / "photos"], "telea", "there"),
    ]:
        assert command(folder, photo, *words, "--mask", "centre", method=method) == (0 if sentence == "there" else 2)
        said = capsys.readouterr().err
        assert sentence == "there" or sentence in said
        assert "delete it" not in said
        assert (folder / "out").exists() == (sentence == "there")
    (folder / "empty").mkdir()
    assert command(folder, folder / "empty", "--mask", "centre") == 2
    assert "empty: holds no photos" in capsys.readouterr().err


# Drawing


def test_a_stroke_is_a_hole_of_the_brush_s_width_at_the_photo_s_size():
    holes = []
    drawing = Drawing(np.zeros((300, 1280, 3), np.uint8), holes.append, brush=10, width=640)
    drawing.move(5, 5)
    drawing.press(100, 50)
    drawing.move(200, 50)
    drawing.release(200, 50)
    drawing.move(300, 140)
    assert len(holes) == 1
    rows, columns = np.nonzero(holes[0])
    assert holes[0].shape == (300, 1280)
    assert (rows.min(), rows.max()) == (90, 110)
    assert (columns.min(), columns.max()) == (190, 410)
    drawing.press(1, 1)
    drawing.release(1, 1)
    assert holes[1][0, 0]
    drawing.clear()
    assert not drawing.hole.any()


@pytest.mark.notebooks
def test_notebook_92_runs(tmp_path):
    environment = os.environ | {"INPAINT_RESULTS": str(tmp_path / "results")}
    words = ["92_your_own_photo.ipynb", tmp_path / "92.ipynb", "-k", "python3", "-p", "methods", "partial_conv+telea"]
    done = subprocess.run([sys.executable, "-m", "papermill", *words], cwd=inpaintlib.ROOT / "notebooks",
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "partial_conv: no trained network is here" in (tmp_path / "92.ipynb").read_text()
    assert {path.name for path in (tmp_path / "results" / "your_own_photo").iterdir()} == {
        "flower-meadow-square.png", "flower-meadow-square_telea.png"}  # fmt: skip


def test_without_the_canvas_there_is_nothing_to_draw_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipycanvas", None)
    assert Drawing(np.zeros((30, 40, 3), np.uint8)).widget() is None
