"""NVIDIA's irregular masks (Liu 2018), read from the published archives."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inpaintlib import BadInput
from inpaintlib.data import datasets
from inpaintlib.data.masks import BORDERS, RATIO_BINS, check_both, frame_width
from inpaintlib.data.photos import to_rgb
from inpaintlib.files import reason

TEST, TRAIN = FOLDERS = ("testing_mask_dataset", "disocclusion_img_mask")


def load(source: Path, size: int, *, ratio: tuple[float, float] | None = None, border: str | None = None,
         limit: int | None = None, fifth: bool | None = None) -> Tensor:  # fmt: skip
    """The masks of a zip archive or unpacked folder: bool (n, 1, size, size), True = hole, by nearest neighbour.

    Test masks (testing_mask_dataset/NNNNN.png, white = hole) come in file order; ``ratio`` (one of ``RATIO_BINS``) and
    ``border`` select among them: thousand k is bin k // 2, clear of the border where k is even. ``fifth`` takes every
    fifth file (True: numbers 4, 9, 14, ...) or all others (False), so that whoever lacks the training masks can train
    on the former. ``limit`` takes so many, evenly spaced over the selected files. Resized holes can leave their bin by
    a little: bin results by `masks.hole_ratio`.

    Training masks (disocclusion_img_mask/*.png, white = known) are the raw occlusions, which the paper dilates, moves,
    rotates and crops. They are binarised at 0.6, as there; those with nothing left to fill or to know are left out.

    Raises BadInput for a missing, foreign or truncated archive, and where the content contradicts the polarity: a test
    mask's hole must lie in its file number's bin (to 0.005) and border rule, the typical training mask must be mostly
    known.
    """
    if ratio is not None and tuple(ratio) not in RATIO_BINS:
        raise BadInput(f"ratio={ratio} is none of the bins of NVIDIA's masks: choose one of {RATIO_BINS}.")
    if border not in (None, *BORDERS):
        raise BadInput(f"border={border!r} is unknown: choose one of {', '.join(BORDERS)}.")
    if limit is not None and limit < 1:
        raise BadInput(f"limit={limit} selects no mask: give at least 1.")
    source = Path(source).resolve()
    names = {folder: [] for folder in FOLDERS}
    for _, id in datasets.members(source):
        for folder in {*Path(source.name, id).parts}.intersection(FOLDERS):
            names[folder].append(id)
    if all(names.values()) or not any(names.values()):
        raise BadInput(f"{source}: does not hold just one folder {' or '.join(FOLDERS)} of pictures.")
    if names[TRAIN]:
        if ratio is not None or border is not None:
            raise BadInput(f"{source}: the training masks are not sorted by ratio or border: leave both out.")
        return _train(source, names[TRAIN], size, limit)
    wanted = []
    for name in names[TEST]:
        low_high, side = _cell(name)
        if (ratio is None or tuple(ratio) == low_high) and border in (None, side):
            wanted += [name] if fifth is None or (int(Path(name).stem) % 5 == 4) == fifth else []
    if not wanted:
        which = "" if fifth is None else ", every fifth file" if fifth else ", every fifth file left out"
        raise BadInput(f"{source}: holds no mask with ratio={ratio} and border={border!r}{which}.")
    return torch.cat([_test(source, name, size) for name in _spaced(wanted, limit)])


def _cell(name: str) -> tuple[tuple[float, float], str]:
    """The area bin and border rule of a test file, by its number."""
    number = Path(name).stem
    if not (number.isdecimal() and int(number) < 12000):
        raise BadInput(f"{name}: is no test mask of NVIDIA's, which are 00000.png to 11999.png.")
    thousand = int(number) // 1000
    return RATIO_BINS[thousand // 2], "clear" if thousand % 2 == 0 else "touching"


def _test(source: Path, name: str, size: int) -> Tensor:
    hole, ((low, high), border) = _whiteness(source, name) > 0.5, _cell(name)
    if not low - 0.005 <= hole.mean() <= high + 0.005:
        raise BadInput(
            f"{name}: {hole.mean():.3f} of it is white, but its number says a hole of {low} to {high}: "
            "give NVIDIA's own test masks, in which white is the hole."
        )
    frame = frame_width(len(hole), border)
    if frame and hole.sum() > hole[frame:-frame, frame:-frame].sum():
        raise BadInput(f"{name}: has a hole within {frame} px of the border, but its number says clear of it.")
    mask = _resized(hole, size)
    check_both(mask, f"{name} at {size} px")
    return mask


def _train(source: Path, names: list[str], size: int, limit: int | None) -> Tensor:
    typical = np.median([np.mean(_whiteness(source, name) <= 0.6) for name in _spaced(names, 25)])
    if typical > 0.5:
        raise BadInput(
            f"{source}: a typical mask would be {typical:.0%} hole, so white is no known pixel here: "
            "give NVIDIA's own training masks, in which white is known."
        )
    mask = torch.cat([_resized(_whiteness(source, name) <= 0.6, size) for name in _spaced(names, limit)])
    mask = mask[mask.any((1, 2, 3)) & ~mask.all((1, 2, 3))]
    if not len(mask):
        raise BadInput(f"{source}: holds no training mask with both hole and known pixels at {size} px.")
    return mask


def _whiteness(source: Path, name: str) -> np.ndarray:
    """A picture as greys (H, W) in [0, 1]."""
    try:
        return np.asarray(to_rgb(datasets.read(source, name)).convert("L"), np.float32) / 255
    except Exception as error:  # whatever a damaged file makes a decoder raise
        raise BadInput(f"{source}: {name} cannot be read as a picture ({reason(error)}).") from error


def _resized(mask: np.ndarray, size: int) -> Tensor:
    picture = Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture))[None, None]


def _spaced(names: list[str], limit: int | None) -> list[str]:
    """At most ``limit`` of the names, evenly spaced."""
    if limit is None or limit >= len(names):
        return names
    return [names[i * len(names) // limit] for i in range(limit)]
