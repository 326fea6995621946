"""Holes: the masks of the four papers, generated from a seed.

Every generator is ``(n, size, seed, ...) -> bool (n, 1, size, size)`` on the CPU, True = hole. Mask ``i`` depends on
``(seed, i)`` alone, so the first four of eight masks are the four masks of the same seed. Every mask has at least one
hole pixel and one known pixel. Lengths are fractions of ``size``, so that a recipe looks alike at every resolution.
All raise BadInput for a parameter out of range.
"""

import inspect
from collections.abc import Callable
from math import floor

import cv2
import numpy as np
import torch
from torch import Tensor

from inpaintlib import BadInput

RATIO_BINS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))
"""The hole-area bins (lo, hi] in which partial convolutions are reported (Liu 2018, Table 1)."""

BORDERS = ("touching", "clear")
"""Liu 2018's two halves of each bin: holes may touch the image border, or keep 50 px of 512 away from it."""

SIDES = ("left", "right", "top", "bottom")
LARGEST = 8192  # px a side: larger masks fill the memory

# Generators


def centre(n: int, size: int, seed: int = 0, hole: int | None = None) -> Tensor:
    """A centred square of ``hole`` px a side, half of ``size`` unless told (Pathak 2016, Yeh 2017).

    Where size - hole is odd, the hole lies half a pixel towards the top left. The seed changes nothing.
    """
    _generators(n, size, seed)
    hole = size // 2 if hole is None else hole
    if not isinstance(hole, int) or not 0 < hole < size:
        raise BadInput(f"hole={hole} px does not fit a mask of {size} px: choose a whole number, 1 to {size - 1}.")
    start = (size - hole) // 2
    mask = torch.zeros(n, 1, size, size, dtype=torch.bool)
    mask[:, :, start : start + hole, start : start + hole] = True
    return mask


def random_block(n: int, size: int, seed: int, max_area: float = 0.25) -> Tensor:
    """Several possibly overlapping squares that cover at most ``max_area`` of the image (Pathak 2016, section 3.3).

    No code was released for these. Ours: 3 to 8 squares with sides of 0.2 to 0.5 times sqrt(max_area) of the image;
    a square that would exceed ``max_area`` is left out.
    """
    _check_fraction("max_area", max_area)

    def draw(rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros((size, size), bool)
        for _ in range(rng.integers(3, 9)):
            side = max(1, floor(rng.uniform(0.2, 0.5) * max_area**0.5 * size))
            y, x = rng.integers(0, size - side + 1, 2)
            grown = mask.copy()
            grown[y : y + side, x : x + side] = True
            if grown.mean() <= max_area:
                mask = grown
        return mask

    return _stack(draw, n, size, seed)


def random_region(n: int, size: int, seed: int, area: tuple[float, float] = (0.2, 0.3)) -> Tensor:
    """Blobs that cover a fraction of the image within ``area``, ends included (Pathak 2016's released code).

    Uniform noise is enlarged bicubically and thresholded at .25, and windows of the wanted area are kept. The released
    code takes one window for a whole batch; here each mask has its own. The paper itself deforms PASCAL VOC's masks.
    Raises BadInput for an area that the thresholded noise does not reach (it lies around 0.2).
    """
    low, high = _check_range("area", area)

    def draw(rng: np.random.Generator) -> np.ndarray:
        for _ in range(50):
            sheet = _noise(rng, size, windows=2) < 0.25
            sums = cv2.integral(sheet.astype(np.uint8))
            holes = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
            fits = np.flatnonzero((low * size**2 <= holes) & (holes <= high * size**2))
            if fits.size:
                y, x = np.unravel_index(rng.choice(fits), holes.shape)
                return sheet[y : y + size, x : x + size]
        raise BadInput(f"area=({low}, {high}) is not reached by this noise: choose a range near (0.2, 0.3).")

    return _stack(draw, n, size, seed)


def pattern(n: int, size: int, seed: int, fraction: float = 0.25) -> Tensor:
    """Blobs that cover exactly ``fraction`` of the image, to the pixel: Yeh 2017's "pattern" masks.

    Published is only that about 25 % is missing; the shapes here are those of `random_region`.
    """
    _check_fraction("fraction", fraction)
    return _stack(lambda rng: _lowest(_noise(rng, size, windows=1), fraction * size**2), n, size, seed)


def random_pixels(n: int, size: int, seed: int, fraction: float = 0.8) -> Tensor:
    """Single pixels drawn at random, exactly ``fraction`` of them holes (Yeh 2017: 80 %)."""
    _check_fraction("fraction", fraction)
    return _stack(lambda rng: _lowest(rng.random((size, size)), fraction * size**2), n, size, seed)


def half(n: int, size: int, seed: int, side: str | None = None) -> Tensor:
    """One half of the image: a random side of each, or ``side`` in left, right, top, bottom (Yeh 2017).

    With an odd size the hole is the smaller half.
    """
    if side is not None and side not in SIDES:
        raise BadInput(f"side={side!r} is unknown: choose one of {', '.join(SIDES)}.")
    left = np.broadcast_to(np.arange(size) < size // 2, (size, size))
    halves = {"left": left, "right": left[:, ::-1], "top": left.T, "bottom": left.T[::-1]}
    return _stack(lambda rng: halves[side or SIDES[rng.integers(4)]], n, size, seed)


def strokes(n: int, size: int, seed: int, count: tuple[int, int] = (2, 6),
            width: tuple[float, float] = (0.04, 0.1)) -> Tensor:  # fmt: skip
    """Brush strokes: ``count`` winding strokes, each ``width`` of the image wide, both ends included.

    In the manner of Yu 2019 (gated convolution); the numbers are ours.
    """
    low, high = _check_range("width", width)
    if not 1 <= count[0] <= count[1]:
        raise BadInput(f"count={count} is not a range of stroke numbers: give (least, most) with 1 <= least <= most.")

    def draw(rng: np.random.Generator) -> np.ndarray:
        canvas = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(count[0], count[1] + 1)):
            _draw_walk(canvas, rng, step=0.12, turn=0.9, thickness=max(1, round(rng.uniform(low, high) * size)))
        return canvas > 0

    return _stack(draw, n, size, seed)


def irregular(n: int, size: int, seed: int, ratio: tuple[float, float] = (0.1, 0.2),
              border: str = "touching") -> Tensor:  # fmt: skip
    """Irregular holes of an exact area, in the likeness of Liu 2018's flow-occlusion masks.

    1. Draw 2 to 8 primitives around and over the image (:func:`_draw_primitive`).
    2. Draw an area in the bin ``ratio`` = (lo, hi], and make the hole the pixels nearest to what was drawn: a
       dilation, or an erosion where more than that was drawn. Each mask has a widest dilation, of 9 to 49 px of 512
       across as in the paper, times 1 + 3.5 f^2, f the fraction to be masked of what may be; where it does not reach
       the area, more primitives are drawn.

    The factor 3.5 is fitted to NVIDIA's test masks: at 128 px and .5 to .6 theirs have 3.9 (touching) and 1.5 (clear)
    connected holes and a widest place of 23 and 25 px radius, these 4.0 and 1.5 of 21 and 27 px.

    ``border="touching"`` allows holes at the image border and does not force them there, as in the paper ("N");
    ``"clear"`` keeps them out of the outer round(50·size/512) px ("B"). Raises BadInput for a bin that has no whole
    number of pixels or does not fit inside a clear border.
    """
    low, high = _check_range("ratio", ratio)
    fewest, most = floor(low * size**2 + 1e-9) + 1, floor(high * size**2 + 1e-9)
    frame = frame_width(size, border)
    if not fewest <= min(most, size**2 - 1) or most > (size - 2 * frame) ** 2:
        raise BadInput(f"ratio=({low}, {high}] has no mask of {size} px with border {border!r}: widen it or lower it.")

    def draw(rng: np.random.Generator) -> np.ndarray:
        area = rng.integers(fewest, min(most, size**2 - 1) + 1)
        widest = rng.uniform(9, 49) / 2 * size / 512 * (1 + 3.5 * (area / (size - 2 * frame) ** 2) ** 2)
        drawn = np.zeros((size, size), np.uint8)
        primitives = rng.integers(2, 9)
        while True:
            for _ in range(primitives):
                _draw_primitive(drawn, rng)
            outside, inside = (cv2.distanceTransform(d, cv2.DIST_L2, cv2.DIST_MASK_5) for d in (1 - drawn, drawn))
            distance = outside.astype(np.float64) - inside
            distance += rng.uniform(-0.5, 0.5) * np.linspace(0, 1, size)  # breaks ties by less than a pixel
            if frame:
                distance = np.pad(distance[frame:-frame, frame:-frame], frame, constant_values=np.inf)
            if np.count_nonzero(distance <= widest) >= area:
                return _lowest(distance, area)
            primitives = 2

    return _stack(draw, n, size, seed)


KINDS: dict[str, Callable[..., Tensor]] = {
    kind.__name__: kind
    for kind in (centre, random_block, random_region, irregular, random_pixels, half, pattern, strokes)
}


def make(kind: str, n: int, size: int, seed: int, **options) -> Tensor:
    """Masks of the kind that ``KINDS`` names. Raises BadInput for an unknown kind or option, and lists those known."""
    if kind not in KINDS:
        raise BadInput(f"mask kind {kind!r} is unknown: choose one of {', '.join(KINDS)}.")
    known = [name for name in inspect.signature(KINDS[kind]).parameters if name not in ("n", "size", "seed")]
    for name in options:
        if name not in known:
            raise BadInput(f"masks of kind {kind!r} have no option {name!r}: they have {', '.join(known)}.")
    return KINDS[kind](n, size, seed, **options)


# Any masks


def check(mask: Tensor, photos: Tensor) -> None:
    """Raises BadInput unless ``mask`` is bool (B, 1, H, W) for ``photos`` (B, C, H, W), each with hole and known."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise BadInput(f"mask is {found}: give a bool tensor, True = hole.")
    wanted = (photos.shape[0], 1, *photos.shape[-2:])
    if mask.shape != wanted:
        raise BadInput(f"mask has shape {tuple(mask.shape)}, the photos need {wanted}.")
    check_both(mask, "mask")


def check_both(mask: Tensor, what: str) -> None:
    """Raises BadInput unless each mask has a hole pixel and a known pixel."""
    for i, holes in enumerate(mask.sum((1, 2, 3)).tolist()):
        number = f" (number {i})" if len(mask) > 1 else ""
        if holes == 0:
            raise BadInput(f"{what}{number} has no hole: mark at least one pixel.")
        if holes == mask[i].numel():
            raise BadInput(f"{what}{number} is all hole: leave at least one pixel known.")


def hole_ratio(mask: Tensor) -> Tensor:
    """The fraction of hole pixels of each mask: (n, 1, H, W) -> float64 (n,), exact enough to compare with a bin."""
    return mask.sum((1, 2, 3)).double() / mask[0].numel()


def frame_width(size: int, border: str) -> int:
    """Width in px of the frame that holes keep out of. Raises BadInput for an unknown border."""
    if border not in BORDERS:
        raise BadInput(f"border={border!r} is unknown: choose one of {', '.join(BORDERS)}.")
    return round(50 * size / 512) if border == "clear" else 0


# Helpers of the generators


def _generators(n: int, size: int, seed: int) -> list[np.random.Generator]:
    """One random generator a mask, of (seed, its number)."""
    if n < 1 or not 2 <= size <= LARGEST or seed < 0:
        raise BadInput(f"n={n}, size={size}, seed={seed}: masks need n >= 1, size 2 to {LARGEST} and seed >= 0.")
    return [np.random.default_rng((seed, i)) for i in range(n)]


def _stack(draw: Callable[[np.random.Generator], np.ndarray], n: int, size: int, seed: int) -> Tensor:
    mask = torch.from_numpy(np.stack([draw(rng) for rng in _generators(n, size, seed)]))[:, None]
    check_both(mask, "these options give a mask that")
    return mask


def _lowest(field: np.ndarray, area: float) -> np.ndarray:
    """The round(area) pixels with the lowest values, at least one and not all. Of equal ones the first: a stable sort,
    as NumPy's partition takes others on other processors."""
    area = min(max(round(area), 1), field.size - 1)
    mask = np.zeros(field.size, bool)
    mask[np.argsort(field, axis=None, kind="stable")[:area]] = True
    return mask.reshape(field.shape)


def _noise(rng: np.random.Generator, size: int, windows: int) -> np.ndarray:
    """Bicubically enlarged uniform noise of windows·size px a side, with 7.68 cells to a window (128·600/10000)."""
    cells = np.ceil(windows * 7.68 + 1).astype(int)
    enlarged = round(cells * size / 7.68)
    y, x = rng.integers(0, enlarged - windows * size + 1, 2)
    sheet = cv2.resize(rng.random((cells, cells)), (enlarged, enlarged), interpolation=cv2.INTER_CUBIC)
    return sheet[y : y + windows * size, x : x + windows * size]


def _draw_primitive(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """One of: what a moving object uncovers (50 %), a thin walk (35 %), and single pixels as errors of the optical
    flow leave (15 %)."""
    choice = rng.random()
    if choice < 0.5:  # a polygon around or over the image XOR its translate, moved by 3 % of the width (s.d.)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 12)))
        radii = rng.uniform(0.1, 0.4) * rng.uniform(0.5, 1, len(angles))
        polygon = rng.uniform(-0.25, 1.25, 2) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        moved = polygon + rng.normal(0, 0.03, 2)
        alone = np.zeros_like(canvas)
        cv2.fillPoly(alone, [_pixels(polygon, canvas), _pixels(moved, canvas)], 1)  # two outlines: filled even-odd
        canvas |= alone
    elif choice < 0.65:  # a loose cluster of 4 to 20 pixels
        specks = rng.uniform(0, 1, 2) + rng.normal(0, 0.12, (rng.integers(4, 21), 2))
        x, y = _pixels(specks[((specks >= 0) & (specks < 1)).all(1)], canvas).T
        canvas[y, x] = 1
    else:
        _draw_walk(canvas, rng, step=0.06, turn=0.5, thickness=max(1, round(rng.uniform(1, 4) * len(canvas) / 256)))


def _draw_walk(canvas: np.ndarray, rng: np.random.Generator, step: float, turn: float, thickness: int) -> None:
    """A smooth random walk from inside the image: 4 to 16 steps of ``step`` widths, turning by ``turn`` rad (s.d.)."""
    steps = rng.integers(4, 17)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, turn, steps))
    moves = step * np.stack([np.cos(heading), np.sin(heading)], 1)
    path = np.cumsum(np.vstack([rng.uniform(0, 1, 2), moves]), 0)
    cv2.polylines(canvas, [_pixels(path, canvas)], isClosed=False, color=1, thickness=thickness)


def _pixels(points: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Points in fractions of the width as OpenCV wants them."""
    return np.floor(points * len(canvas)).astype(np.int32)


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise BadInput(f"{name}={value} is no fraction of the image: choose a number between 0 and 1.")


def _check_range(name: str, pair: tuple[float, float]) -> tuple[float, float]:
    if np.shape(pair) != (2,) or not 0 <= pair[0] < pair[1] <= 1:
        raise BadInput(f"{name}={pair} is no range of fractions: give (low, high) with 0 <= low < high <= 1.")
    return pair[0], pair[1]
