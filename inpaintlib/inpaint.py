"""``python -m inpaintlib inpaint``: fill holes of your own photos, of any size, with the methods of the catalogue.

A network sees squares of one side, so it gets windows of the photo, about twice as wide as the hole is thick, reduced
to that side; what it fills comes back enlarged, and where windows overlap their mean counts, the more of each the
nearer its centre. Known pixels keep their bytes.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from tqdm.auto import tqdm

from inpaintlib import BadInput
from inpaintlib.data.datasets import EXTENSIONS
from inpaintlib.data.photos import to_rgb
from inpaintlib.files import reason
from inpaintlib.harness import figures
from inpaintlib.methods import classical
from inpaintlib.methods.partial_conv import MOSTLY_HOLE
from inpaintlib.studies.all_methods import METHODS, Loaded, kept_file, method
from inpaintlib.training import choose_device

SPOTS = 64  # holes of a photo that are filled one by one; more are filled together
WINDOWS = 500  # that a network fills at most for one hole; where it would be more, they are larger
BATCH = 16  # windows that a network sees at once
SOLVED = 100_000  # hole pixels of one system of equations; larger holes are reduced for it, and the result enlarged
CELL, ROWS = 256, 24  # side of a picture in a contact sheet, px; photos of a sheet
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")

Box = tuple[slice, slice]


class Photo(NamedTuple):
    """``pixels``: uint8 (H,W,3), upright; ``alpha``: uint8 (H,W), None where all is opaque; ``note``: what reading
    changed, a sentence or ""; ``profile``: its ICC profile."""

    pixels: np.ndarray
    alpha: np.ndarray | None
    note: str
    profile: bytes | None


# Reading


def read(path: Path) -> Photo:
    """A photo; 16 bits, CMYK and greys become RGB of 8 bits. BadInput for what is missing, damaged or animated."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as raw:
            if raw.format in ANIMATED and getattr(raw, "n_frames", 1) > 1:
                raise BadInput(f"{path}: is animated ({raw.n_frames} frames); save the frame that you mean as a PNG")
            deep = raw.mode.startswith("I") or ";16" in str(getattr(raw, "tile", ""))
            note = f"{path}: 16 bits a channel become 8" if deep else ""
            note = f"{path}: CMYK becomes RGB" if raw.mode == "CMYK" else note
            profile = raw.info.get("icc_profile") if raw.mode in ("RGB", "RGBA") else None
            clear = raw.has_transparency_data
            alpha = np.array(ImageOps.exif_transpose(raw).convert("RGBA"))[..., 3] if clear else None
        return Photo(np.array(to_rgb(data)), alpha, note, profile)
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise BadInput(f"{path}: is no picture; give a JPEG or a PNG") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: cannot be read as a picture ({reason(error)}); give a JPEG or a PNG") from error


def hole_of(photo: Photo, path: Path, mask: str | Path) -> np.ndarray:
    """The hole, bool (H,W): all but the opaque pixels for ``alpha``, a central square for ``centre``, else the white of
    a mask picture, or of the one of the photo's name in a folder. BadInput where there is none, or not of this size."""
    high, wide = photo.pixels.shape[:2]
    if mask == "alpha" and photo.alpha is None:
        raise BadInput(f"{path}: has no transparency; erase what is to be filled, or give a mask picture, white = hole")
    if mask == "alpha":
        hole = photo.alpha < 255
    elif mask == "centre":
        hole, side = np.zeros((high, wide), bool), min(high, wide) // 2
        hole[(high - side) // 2 :, (wide - side) // 2 :][:side, :side] = True
    else:
        file = Path(mask) / f"{path.stem}.png" if Path(mask).is_dir() else Path(mask)
        try:
            hole = read(file).pixels.mean(2) > 127.5
        except BadInput as error:
            raise BadInput(f"--mask {error}") from None
        if hole.shape != (high, wide):
            raise BadInput(f"{file}: is {hole.shape[1]}x{hole.shape[0]} px, but {path} is {wide}x{high} px, upright; "
                           "draw the mask at the photo's size, white = hole")  # fmt: skip
    if hole.all() or not hole.any():
        raise BadInput(f"{path}: {mask} marks {'all' if hole.all() else 'nothing'} of it; there must be a hole, and "
                       "something known")  # fmt: skip
    return hole


# Filling


def fill(pixels: np.ndarray, hole: np.ndarray, filler: Loaded, blend: bool = False) -> np.ndarray:
    """A photo uint8 (H,W,3) with its hole, bool (H,W), filled; the other pixels keep their bytes.

    ``blend``: by Poisson's equation, the fill keeps its gradients and meets the known pixels at the hole's edge.
    Raises BadInput for a hole that this method cannot fill.
    """
    filled = pixels.copy()
    for box, spot in _spots(hole):
        work = _solved if filler.side is None else _central if filler.hole is not None else _in_windows
        part = work(pixels, hole, box, spot, filler)
        part = _blended(pixels, hole, box, spot, part) if blend else part
        filled[box][spot] = np.rint(part[spot].clip(0, 1) * 255)
    return filled


def _spots(hole: np.ndarray) -> Iterator[tuple[Box, np.ndarray]]:
    """Each connected hole: the box around it, and which pixels of the box are its own."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=8)
    if count > SPOTS + 1:
        labels = hole.astype(np.uint8)
        stats = np.array([[0] * 4, cv2.boundingRect(labels)])
    for number, (left, top, wide, high, *_) in enumerate(stats[1:], 1):
        box = slice(top, top + high), slice(left, left + wide)
        yield box, labels[box] == number


def _grown(box: Box, margin: int, hole: np.ndarray) -> Box:
    """The box and so many px around it, as far as the photo reaches."""
    return tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, hole.shape, strict=True))


def _inside(box: Box, outer: Box) -> Box:
    """The box as seen from another."""
    return tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(box, outer, strict=True))


def _reduced(picture: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Float (H,W,3) in [0,1] or uint8, and its hole -> (1,3,*size) and (1,1,*size): a pixel that any hole lies in is
    hole, so the others are means of known pixels alone."""
    scale = 255 if picture.dtype == np.uint8 else 1
    photo = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / scale
    mask = torch.from_numpy(np.ascontiguousarray(hole))[None, None].float()
    return F.adaptive_avg_pool2d(photo, size), F.adaptive_max_pool2d(mask, size) > 0


def _enlarged(photo: Tensor, box: Box) -> np.ndarray:
    """(1,3,h,w) -> float (H,W,3) of the box's size."""
    size = [s.stop - s.start for s in box]
    return F.interpolate(photo, size, mode="bilinear")[0].permute(1, 2, 0).numpy()


def _factor(spot: np.ndarray) -> int:
    """How many px become one where a hole is too large to be solved for."""
    return int(np.ceil((spot.sum() / SOLVED) ** 0.5))


def _size(box: Box, factor: int = 1) -> tuple[int, int]:
    return tuple(max(1, (s.stop - s.start) // factor) for s in box)


def _solved(pixels: np.ndarray, hole: np.ndarray, box: Box, spot: np.ndarray, filler: Loaded) -> np.ndarray:
    """What a method without a network makes of the hole and 16 px around it."""
    factor = _factor(spot)
    outer = _grown(box, 16 * factor, hole)
    photo = filler(*_reduced(pixels[outer], hole[outer], _size(outer, factor)))
    return _enlarged(photo, outer)[_inside(box, outer)]


def _in_windows(pixels: np.ndarray, hole: np.ndarray, box: Box, spot: np.ndarray, filler: Loaded) -> np.ndarray:
    """What a network makes of windows that cover the hole; those that are nearly all hole are left to larger ones."""
    total, weight = np.zeros((*spot.shape, 3), np.float32), np.zeros((*spot.shape, 1), np.float32)
    thickness = 2 * cv2.distanceTransform(np.pad(spot, 1).astype(np.uint8), cv2.DIST_C, 3).max()
    window, whole = max(int(2 * thickness), filler.side), False
    while not whole and (spot & (weight[..., 0] == 0)).any():
        windows = _windows(hole, box, spot & (weight[..., 0] == 0), window)
        whole = window >= max(hole.shape)
        if len(windows) <= WINDOWS:
            _add(pixels, hole, box, windows, filler, total, weight, 1 if whole else MOSTLY_HOLE)
        window *= 2
    return total / weight.clip(1e-9)


def _windows(hole: np.ndarray, box: Box, left: np.ndarray, side: int) -> list[Box]:
    """Windows of this side, each half over the next, that hold what is left of a spot."""

    def starts(s: slice, length: int) -> np.ndarray:
        size = min(side, length)
        low, high = max(0, s.start - size // 4), min(length, s.stop + size // 4)
        n = 1 + max(0, -(-2 * (high - low - size) // size))
        first = np.linspace(low, high - size, n) if n > 1 else np.array([(s.start + s.stop - size) / 2])
        return first.round().astype(int).clip(0, length - size)

    rows, columns = (starts(s, length) for s, length in zip(box, hole.shape, strict=True))
    found = [(slice(y, y + min(side, hole.shape[0])), slice(x, x + min(side, hole.shape[1])))
             for y in rows for x in columns]  # fmt: skip
    return [window for window in found if left[_common(window, box)].any()]


def _common(window: Box, box: Box) -> Box:
    """What a window and a box share, as seen from the box."""
    return tuple(slice(max(w.start, b.start) - b.start, max(0, min(w.stop, b.stop) - b.start))
                 for w, b in zip(window, box, strict=True))  # fmt: skip


def _add(pixels: np.ndarray, hole: np.ndarray, box: Box, windows: Sequence[Box], filler: Loaded, total: np.ndarray,
         weight: np.ndarray, most: float) -> None:  # fmt: skip
    """Adds the fills of windows, if no fuller of hole than ``most``, to ``total``, and how much each pixel of them
    counts to ``weight``."""
    for start in range(0, len(windows), BATCH):
        some = [(w, *_reduced(pixels[w], hole[w], (filler.side, filler.side))) for w in windows[start : start + BATCH]]
        some = [each for each in some if each[2].float().mean() <= most]
        if not some:
            continue
        used, photos, holes = zip(*some, strict=True)
        for window, photo in zip(used, filler(torch.cat(photos), torch.cat(holes)).split(1), strict=True):
            shared = _common(window, box)
            part = _inside(shared, _inside(window, box))
            ramps = [np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1), dtype=np.float32) / n for n in _size(window)]
            ramp = np.outer(*ramps)[part][..., None]
            total[shared] += _enlarged(photo, window)[part] * ramp
            weight[shared] += ramp


def _central(pixels: np.ndarray, hole: np.ndarray, box: Box, spot: np.ndarray, filler: Loaded) -> np.ndarray:
    """What a network makes of a hole that must lie in the middle of what it sees."""
    inner = int(filler.hole.sum() ** 0.5)
    for sides in (inner, inner - 2):  # reduced, a hole may reach a pixel further on each side
        side = -(-max(spot.shape) * filler.side // sides)
        first = [s.start - (side - (s.stop - s.start)) // 2 for s in box]
        window = tuple(slice(start, start + side) for start in first)
        if all(s.start >= 0 and s.stop <= n for s, n in zip(window, hole.shape, strict=True)):
            photo, mask = _reduced(pixels[window], hole[window], (filler.side, filler.side))
            if not (mask & ~filler.hole).any():
                return _enlarged(filler(photo, mask), window)[_inside(box, window)]
    raise BadInput("it fills only a hole in the middle of a square of known pixels of twice the hole's side")


def _blended(pixels: np.ndarray, hole: np.ndarray, box: Box, spot: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The fill plus the membrane of what it misses at the hole's edge; of a large hole the membrane is enlarged."""
    factor = _factor(spot)
    outer = _grown(box, 2 * factor, hole)
    source, known = pixels[outer].astype(np.float32) / 255, np.ones(hole[outer].shape, bool)
    inner = _inside(box, outer)
    missing = source.copy()
    source[inner][spot], known[inner] = part[spot], ~spot
    nearest = distance_transform_edt(known, return_distances=False, return_indices=True)
    missing = (missing - source[tuple(nearest)] + 1) / 2
    found = classical.membrane(*_reduced(missing, hole[outer], _size(outer, factor)))
    return part + _enlarged(found, outer)[inner] * 2 - 1


# The command


def files(given: Sequence[str | Path]) -> list[Path]:
    """The photos named, or in folders named. BadInput for a folder without any, and for two photos of one name."""
    found: list[Path] = []
    for path in map(Path, given):
        there = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS) if path.is_dir() else [path]
        if not there:
            raise BadInput(f"{path}: holds no photos ({', '.join(sorted(EXTENSIONS))})")
        found += there
    stems: dict[str, Path] = {}
    for path in found:
        if stems.setdefault(path.stem, path) != path:
            raise BadInput(f"{stems[path.stem]} and {path}: their results would have one name; rename one")
    return list(stems.values())


def fill_each(pixels: np.ndarray, hole: np.ndarray, fillers: dict[str, Loaded], blend: bool = False
              ) -> tuple[dict[str, np.ndarray | None], list[str]]:  # fmt: skip
    """What each method makes of a photo, None where it cannot, and a sentence for each that cannot."""
    fills, sentences = {}, []
    for name, filler in fillers.items():
        try:
            fills[name] = fill(pixels, hole, filler, blend)
        except BadInput as error:
            here = [other for other, one in METHODS.items() if not one.study or kept_file(other).exists()]
            can = ", ".join(other for other in here if METHODS[other].anywhere and other != name)
            sentences.append(f"{name} cannot fill this hole ({error}); these can: {can}")
            fills[name] = None
    return fills, sentences


def run(photos: Sequence[str], mask: str, names: Sequence[str], out: Path, checkpoint: str | None = None,
        blend: bool = False, device: str = "auto") -> int:  # fmt: skip
    """Fills each photo with each method into ``out``: <photo>_<method>.png, and contact_sheet.png of all.

    What cannot be done is said in a sentence each, and the rest is done. Returns 0, or 1 where something could not, or
    2 where nothing could. Raises BadInput before anything starts for an unknown method and one without a network.
    """
    if checkpoint and len(names) > 1:
        raise BadInput("--checkpoint: is of one method; name only that one with --method")
    choose_device(device)
    paths, fillers = files(photos), {name: method(name).load(checkpoint, device) for name in names}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{out}: cannot be made a folder ({reason(error)}); name another with --out") from error
    rows, wrong, right, bar = [], 0, 0, tqdm(total=len(paths), unit="photo", desc="inpaint")
    for path in paths:
        said = []
        try:
            photo = read(path)
            said += [photo.note] if photo.note else []
            hole = hole_of(photo, path, mask)
            fills, failed = fill_each(photo.pixels, hole, fillers, blend)
            said += [f"{path}: {sentence}" for sentence in failed]
            wrong += len(failed)
            rows.append(row(photo.pixels, hole, fills, path.name))
            for name, filled in fills.items():
                if filled is not None:
                    save(filled, out / f"{path.stem}_{name}.png", photo.profile)
                    right += 1
            bar.update(not failed)
        except BadInput as error:
            said.append(str(error))
            wrong += 1
        for sentence in said:
            tqdm.write(f"inpaintlib: {sentence}", file=sys.stderr)
    bar.close()
    for i in range(0, len(rows), ROWS):
        sheet = np.asarray(figures.stacked(rows[i : i + ROWS]))
        save(sheet, out / f"contact_sheet{f'_{i // ROWS + 1}' if i else ''}.png")
    return 0 if not wrong else 1 if right else 2


def save(pixels: np.ndarray, path: Path, profile: bytes | None = None) -> Path:
    """Writes a PNG. BadInput where it cannot be written."""
    try:
        Image.fromarray(pixels).save(path, compress_level=1, icc_profile=profile)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({reason(error)}); make room, or name another folder") from error
    return path


def row(pixels: np.ndarray, hole: np.ndarray, fills: dict[str, np.ndarray | None], name: str) -> Image.Image:
    """A photo with its hole in grey and what each method made of it, side by side, small; white where it failed."""
    cells = {name: np.where(hole[..., None], np.uint8(128), pixels)}
    for key, filled in fills.items():
        title = METHODS[key].title
        cells[title if filled is not None else f"{title}: not filled"] = filled
    blank = np.full((1, 1, 3), 255, np.uint8)
    small = [ImageOps.pad(Image.fromarray(blank if cell is None else cell), (CELL, CELL), color="white")
             for cell in cells.values()]  # fmt: skip
    captioned = [np.asarray(figures.caption(np.asarray(cell), text)) for cell, text in zip(small, cells, strict=True)]
    return Image.fromarray(np.concatenate(captioned, 1))
