"""Irregular holes, measured as Liu 2018 (partial convolutions) does: the twelve cells of its Table 1, and what its
claims need beyond the usual metrics.

A cell is a bin of the masked fraction of the photo and a border rule. Every photo of a :func:`twelve_cell_test_set` is
completed once in each cell, so cells are compared on the same photos.

=============== =======================================================================================================
kid_cell        the photo's part in its cell's KID: the mean over a cell is the KID of that cell
valid_l1        mean |raw prediction - truth| over known pixels: what composition hides
colour_offset   |mean of the fill - mean of the truth| in the hole, mean of the channels
fill_deviation  by how much a pixel of the fill varies (standard deviation) with what the hole held
roughness       mean |difference| of neighbours inside the hole, of the fill over that of the truth: below 1 is smoother
detail          mean |difference| of neighbours inside the hole, of the truth: how complex what is missing is
closed          1 where the encoder's last map has no hole left, else 0 (partial convolutions)
closing_layer   the layer of the encoder after which the map has no hole left (partial convolutions)
high_frequency  power of the fill over the truth's at periods below 4 px
psnr_square     PSNR of the hole where it is a central square of half the side
grid_peak       dB by which the fill's spectrum stands out at periods of 2, 4 and 8 px, less the truth's: strided layers
                leave grids of such periods
=============== =======================================================================================================
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from inpaintlib import ROOT, BadInput, Inpainter
from inpaintlib.data import datasets, masks, nvidia_masks
from inpaintlib.data.photos import to_rgb
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures
from inpaintlib.methods.partial_conv import PartialConv2d, PartialConvNet, Settings, UNet
from inpaintlib.metrics import Evaluation, evaluate, kernel

CELL = ["hole_low", "hole_high", "border"]
CELLS = pd.DataFrame([(*ratio, border) for ratio in masks.RATIO_BINS for border in masks.BORDERS], columns=CELL)
SOURCES = ("auto", "nvidia", "generated")
SQUARES = {"centre": masks.centre, "blocks": masks.random_block}
GRID_PERIODS = (2, 4, 8)  # px


# Holes ---------------------------------------------------------------------------------------------------------------


def twelve_cell_test_set(name: str, photos: Tensor, ids: Sequence[str], pictures: Sequence[str],
                         source: str = "auto", seed: int = 1) -> TestSet:  # fmt: skip
    """Each photo, uint8 (n,3,S,S), with a hole of each cell: 12 n photos, those of one photo in the order of CELLS.

    ``source``: ``nvidia``, the published test masks but for every fifth (:func:`training_masks`), repeated where a cell
    has fewer than n; ``generated``, ours (of one area in both border rules); ``auto``, NVIDIA's where they are fetched.
    The set's name ends in which it was.

    Raises BadInput for another source, and for ``nvidia`` where these masks are not fetched.
    """
    which, holes = _cell_holes(source, len(photos), photos.shape[-1], seed)
    every = [f"{i} {low:g}-{high:g} {border}" for i in ids for low, high, border in CELLS.itertuples(index=False)]
    repeated, of = photos.repeat_interleave(len(CELLS), 0), [p for p in pictures for _ in range(len(CELLS))]
    return TestSet.make(f"{name}, {which}", repeated, holes.flatten(0, 1), every, of)


def one_of_each_cell(size: int, source: str = "auto", seed: int = 2) -> Tensor:
    """Twelve holes bool (12,1,size,size), one of each cell in the order of CELLS; ``source`` as above."""
    return _cell_holes(source, 1, size, seed)[1][0]


def _cell_holes(source: str, n: int, size: int, seed: int) -> tuple[str, Tensor]:
    """Whose masks, and (n,12,1,size,size)."""
    if source not in SOURCES:
        raise BadInput(f"test_masks: {source!r} will not do; it must be one of {', '.join(SOURCES)}")
    archive = None if source == "generated" else _located("nvidia_masks_test", source == "nvidia")
    cells = list(CELLS.itertuples(index=False))
    if archive is None:
        return "generated masks", torch.stack([masks.irregular(n, size, seed, (a, b), c) for a, b, c in cells], 1)
    there = [nvidia_masks.load(archive, size, ratio=(a, b), border=c, limit=n, fifth=False) for a, b, c in cells]
    return "NVIDIA's masks", torch.stack([some[torch.arange(n) % len(some)] for some in there], 1)


def _located(name: str, needed: bool = False) -> Path | None:
    try:
        return datasets.locate(name)
    except BadInput:
        if needed:
            raise
        return None


def training_masks(kind: str, n: int, size: int, seed: int) -> Tensor | None:
    """At most n holes to train on, bool (m,1,size,size); None for ``generated``: the method draws its own, of all bins.

    ``nvidia``: the published training masks, :func:`dilated`; where these are not fetched, every fifth of the test
    masks, which no test set has. ``centre``, ``blocks``: one square of half the side, several of at most a quarter of
    the area together: the holes that networks were trained on before Liu 2018.

    Raises BadInput for another kind, and for ``nvidia`` where neither archive is fetched.
    """
    if kind == "generated":
        return None
    if kind in SQUARES:
        return SQUARES[kind](n, size, seed)
    if kind != "nvidia":
        raise BadInput(f"train_masks: {kind!r} will not do; it must be generated, nvidia, centre or blocks")
    if archive := _located("nvidia_masks_train"):
        return dilated(nvidia_masks.load(archive, size, limit=n), seed)
    return nvidia_masks.load(_located("nvidia_masks_test", needed=True), size, limit=n, fifth=True)


def dilated(raw: Tensor, seed: int) -> Tensor:
    """Raw occlusions grown by a disc 9 to 49 px of 512 across (Liu 2018); those that then mask at most 60 %."""
    radii = np.random.default_rng(seed).uniform(9, 49, len(raw)) / 2 * raw.shape[-1] / 512
    grown = [distance_transform_edt(~one[0].numpy()) <= radius for one, radius in zip(raw, radii, strict=True)]
    grown = torch.from_numpy(np.stack(grown))[:, None]
    return grown[masks.hole_ratio(grown) <= masks.RATIO_BINS[-1][1]]


# Measures ------------------------------------------------------------------------------------------------------------


def measure(method: PartialConvNet, test_set: TestSet, networks: Sequence[str] = (),
            device: torch.device | None = None) -> Evaluation:  # fmt: skip
    """`metrics.evaluate` on twelve cells, each photo's cell in ``per_image``, and the columns named at the top."""
    found = evaluate(method.inpaint, test_set, networks=networks, device=device)
    repeated = pd.concat([CELLS] * (len(test_set) // len(CELLS)), ignore_index=True)
    variation = [neighbours(photos, test_set.masks()) for photos in (found.composites, test_set.photos)]
    columns = {"colour_offset": colour_offset(found.composites, test_set), "valid_l1": valid_l1(method, test_set),
               "fill_deviation": fill_deviation(method, test_set), "detail": variation[1],
               "roughness": variation[0] / variation[1]}  # fmt: skip
    if method.settings.conv == "partial":
        columns["closing_layer"] = closing_layer(method.network, test_set)
        columns["closed"] = (columns["closing_layer"] <= method.settings.levels).astype(float)
    found.per_image = found.per_image.join(repeated).assign(**columns)
    found |= {column: float(np.nanmean(values)) for column, values in columns.items()} | example_metrics()
    first = test_set.photos[:: len(CELLS)]
    square = TestSet.make("square", first, masks.centre(len(first), first.shape[-1]), test_set.ids[:: len(CELLS)])
    found["psnr_square"] = evaluate(method.inpaint, square, networks=(), device=device)["psnr_hole"]
    if found.features:
        found.per_image["kid_cell"] = kid_of_cells(found)
    return found


def kid_of_cells(found: Evaluation) -> np.ndarray:
    """(n,): each photo's part in its cell's paired `metrics.kid`: the mean over a cell's photos is the cell's KID.

    Photo i's is the mean of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j) over its cell's other photos j, x the
    features of completed and y of true photos. Completed and true photo of one i are not independent, so i = j stays
    out of all four.
    """
    parts = np.empty(len(found.per_image))
    for _, cell in found.per_image.groupby(CELL):
        x, y = (features[cell.index].double() for features in found.features[""])
        every = kernel(x, x) + kernel(y, y) - kernel(x, y) - kernel(y, x)
        parts[cell.index] = (every.sum(1) - every.diagonal()) / (len(x) - 1)
    return parts


def neighbours(photos: Tensor, hole: Tensor) -> np.ndarray:
    """(n,) of uint8 (n,3,H,W): mean |difference| of neighbours that both lie in the hole, [0,1]; NaN where none do."""
    total, pairs = 0.0, 0
    for axis in (2, 3):
        inside = hole.narrow(axis, 0, hole.shape[axis] - 1) & hole.narrow(axis, 1, hole.shape[axis] - 1)
        total = total + (photos.float().diff(dim=axis).abs() * inside).sum((1, 2, 3))
        pairs = pairs + 3 * inside.sum((1, 2, 3))
    return (total / pairs / 255).numpy()


@torch.no_grad()
def closing_layer(network: UNet, test_set: TestSet) -> np.ndarray:
    """(n,): after which layer of the encoder (1, 2, ...) the map has no hole left; levels + 1 where it never closes."""
    levels, rows = len(network.encoder), []
    for _, hole in test_set.batches(256, next(network.parameters()).device):
        maps = network.filling(hole)[: levels + 1]
        rows.append(1 + levels - torch.stack([valid.flatten(1).all(1) for valid in maps]).sum(0))
    return torch.cat(rows).cpu().numpy() * 1.0


def colour_offset(composites: Tensor, test_set: TestSet) -> np.ndarray:
    """(n,) of composites uint8 (n,3,H,W): |mean fill - mean truth| in the hole, mean of channels, [0,1]."""
    hole = test_set.masks()
    error = (composites.float() - test_set.photos.float()) / 255 * hole
    return (error.sum((2, 3)) / hole.sum((2, 3))).abs().mean(1).numpy()


@torch.no_grad()
def valid_l1(network: PartialConvNet, test_set: TestSet) -> np.ndarray:
    """(n,): mean |prediction - truth| over known pixels, before known pixels are put back."""
    rows = []
    for photos, hole in test_set.batches(64, network.device):
        error = (network.predict(photos, hole) - photos).abs().mean(1, keepdim=True) * ~hole
        rows.append(error.sum((1, 2, 3)) / (~hole).sum((1, 2, 3)))
    return torch.cat(rows).cpu().numpy()


@torch.no_grad()
def fill_deviation(network: PartialConvNet, test_set: TestSet) -> np.ndarray:
    """(n,): the standard deviation of each pixel of the fill while the hole holds black, grey and white, mean over the
    hole."""
    rows = []
    for photos, hole in test_set.batches(64, network.device):
        held = [torch.full((), value, device=hole.device) for value in (0.0, 0.5, 1.0)]
        ends = torch.stack([network.inpaint(photos, hole, value) for value in held])
        spread = ends.std(0, correction=0).mean(1, keepdim=True) * hole
        rows.append(spread.sum((1, 2, 3)) / hole.sum((1, 2, 3)))
    return torch.cat(rows).cpu().numpy()


def growing_holes(size: int, seed: int = 3, frames: int = 16) -> Tensor:
    """Holes that grow evenly from 3 % to 60 % of the photo, each inside the next: bool (frames,1,size,size)."""
    fractions = torch.linspace(0.03, 0.6, frames).tolist()
    first = masks.irregular(1, size, seed, (0.02, 0.03))[0, 0].numpy()
    order = distance_transform_edt(~first).flatten().argsort(kind="stable")
    grown = torch.zeros(frames, size * size, dtype=torch.bool)
    for row, fraction in zip(grown, fractions, strict=True):
        row[torch.from_numpy(order[: round(fraction * size * size)])] = True
    return grown.view(frames, 1, size, size)


# Spectrum ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def spectrum(inpainter: Inpainter, photos: Tensor, device: torch.device | str = "cpu") -> pd.DataFrame:
    """What frequencies a fill of the central square has: ``frequency`` (cycles/px, above 0), and the power of the
    ``fill`` and of the ``truth`` there, of photos uint8 (n,3,S,S).

    The power is the mean periodogram (Hann window) of the hole's rows and columns.
    """
    size, power = photos.shape[-1], {}
    hole, inside = masks.centre(1, size).to(device), slice((size - size // 2) // 2, (size + size // 2) // 2)
    truth = photos.to(device).float() / 255
    filled = torch.cat([inpainter(some, hole.expand(len(some), -1, -1, -1)) for some in truth.split(64)])
    for name, pictures in (("fill", filled), ("truth", truth)):
        power[name] = periodogram(pictures[..., inside, inside])[1:].cpu().numpy()
    return pd.DataFrame({"frequency": np.arange(1, len(power["fill"]) + 1) / (size // 2), **power})


def periodogram(patches: Tensor) -> Tensor:
    """Mean power (side // 2 + 1,) of the rows and columns of (n,C,side,side), less their mean, under a Hann window."""
    window = torch.hann_window(patches.shape[-1], device=patches.device)
    lines = torch.stack([patches, patches.mT]).float()
    lines = (lines - lines.mean(-1, keepdim=True)) * window
    return torch.fft.rfft(lines).abs().square().mean((0, 1, 2, 3)) / window.square().sum()


def high_frequency(found: pd.DataFrame) -> float:
    """Power of the fill over the truth's at periods of 4 px and below, of a :func:`spectrum`."""
    high = found[found["frequency"] >= 0.25]
    return float(high["fill"].sum() / high["truth"].sum())


def grid_peak(found: pd.DataFrame) -> float:
    """dB by which the fill stands out at GRID_PERIODS from two steps beside them, less the truth, mean of the periods.

    The Hann window spreads a pure tone over one step to either side. Periods that the square is too small for are left
    out.
    """
    excess = 10 * np.log10(found["fill"].to_numpy() / found["truth"].to_numpy())
    side, peaks = 2 * len(excess), []
    for period in GRID_PERIODS:
        at = side // period - 1
        beside = [i for i in (at - 2, at + 2) if 0 <= i < len(excess)]
        if at >= 2:
            peaks.append(excess[at] - excess[beside].mean())
    return float(np.mean(peaks))


# Worked example ------------------------------------------------------------------------------------------------------

EXAMPLE = ((-1, -1, 2, 0, 1), (-1, 7, 7, 7, 0), (1, 7, 7, 7, -1), (0, 7, 7, 7, 0), (1, 0, -1, 0, -1))
WINDOWS = {(0, 0): "#e0803a", (2, 2): "#8268ac", (3, 3): "#3b6fb6"}
"""Centres (row, column) of the three windows that Li 2020 works out, and their colours there: orange, purple, blue."""


def worked_example(bias: float = 1.0) -> dict[str, Tensor]:
    """Li 2020's Figure 3 with numbers of our own, made by `PartialConv2d`: 5x5 each.

    ``X`` with 7 in its hole of 3x3, ``M``, the response ``x'`` to a 3x3 window of ones with that bias and one pixel of
    padding, and the updated map ``m'``. As in the figure the windows hold 3, 0 and 5 valid values, of sum -3.
    """
    x, valid = torch.tensor(EXAMPLE).view(1, 1, 5, 5).float(), ~masks.centre(1, 5, hole=3)
    layer = PartialConv2d(1, 1, 3, padding=1).requires_grad_(False)
    layer.weight.fill_(1), layer.bias.fill_(bias)
    response, reached = layer(x, valid)
    return {"X": x[0, 0], "M": valid[0, 0].int(), "x'": response[0, 0], "m'": reached[0, 0].int()}


def example_metrics(bias: float = 1.0) -> dict[str, float]:
    """What Li 2020 prints of the figure: the responses of the windows with 3, 0 and 5 valid values less the bias, and
    the valid fraction before (``example_valid_before``) and after."""
    grids = worked_example(bias)
    three, none, five = (float(grids["x'"][window]) - bias for window in WINDOWS)
    valid = {"example_valid_before": grids["M"], "example_valid": grids["m'"]}
    return {"example_three": three, "example_none": none, "example_five": five} | {
        name: float(grid.float().mean()) for name, grid in valid.items()
    }


def draw_example(grids: dict[str, Tensor]) -> plt.Figure:
    """The grids of :func:`worked_example` as numbers: windows framed in X and M, their centres in the results; what no
    valid pixel reaches is grey."""
    figure, axes = figures.subplots(1, len(grids), figsize=(2.5 * len(grids), 2.7))
    for ax, (name, grid) in zip(axes, grids.items(), strict=True):
        known = grids["M" if name in ("X", "M") else "m'"]
        ax.imshow(known, cmap="gray", vmin=-1.5, vmax=1)
        for (row, column), value in np.ndenumerate(grid.numpy()):
            ax.text(column, row, f"{value:.4g}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center", fontsize=9)
        reach = 1 if name in ("X", "M") else 0
        for (row, column), colour in WINDOWS.items():
            corner = (column - reach - 0.46, row - reach - 0.46)
            ax.add_patch(plt.Rectangle(corner, 2 * reach + 0.92, 2 * reach + 0.92, fill=False, ec=colour, lw=2.5))
        figures.bare(ax)
        ax.set(title=name, xlim=(-1.6, 5.6), ylim=(5.6, -1.6))
    return figure


# Runs ----------------------------------------------------------------------------------------------------------------


def early(history: pd.DataFrame, metric: str, kimg: float, fraction: float = 0.25) -> float:
    """An evaluation's metric after the first ``fraction`` of a training of so many kimg, from its history."""
    looked = history.dropna(subset=[f"test_{metric}"])
    return float(looked.loc[(looked["kimg"] - fraction * kimg).abs().idxmin(), f"test_{metric}"])


# Reports -------------------------------------------------------------------------------------------------------------

SHOWN = {"l1": (100, 2, "l1, %"), "psnr": (1, 2, "PSNR, dB"), "ssim": (1, 3, "SSIM"), "lpips": (1, 3, "LPIPS"),
         "kid_cell": (1, 4, "KID")}  # fmt: skip
"""Metrics of the table by cell: the factor they are multiplied by, digits, name."""


def by_cell(table: pd.DataFrame, arms: Sequence[str], claims: Sequence[dict]) -> pd.DataFrame:
    """Table 1 rebuilt: a row for each metric and arm, a column for each cell, "mean ± half the 95 % interval".

    ``table``: tidy rows with ``arm`` and the columns CELL. Claims of one figure in one cell are the paper's rows.
    """
    name = {low: f"{100 * low:g}-{100 * high:g} %" for low, high in masks.RATIO_BINS}
    rows = {}
    for metric, (scale, digits, label) in SHOWN.items():
        some = table[table["metric"] == metric]
        for arm in [arm for arm in arms if arm in set(some["arm"])]:
            rows[label, arm] = {
                (r.border, name[r.hole_low]): f"{scale * r.value:.{digits}f}"
                + ("" if np.isnan(r.ci_low) else f" ± {scale * (r.ci_high - r.ci_low) / 2:.{digits}f}")
                for r in some[some["arm"] == arm].itertuples()
            }
        figures_of = [c for c in claims if c["test"] == "figure" and c["metric"] == metric and "hole_low" in c["where"]]
        if figures_of:
            rows[label, "paper: Places2, 512 px"] = {
                (c["where"]["border"], name[c["where"]["hole_low"]]): f"{scale * c['published']:.{digits}f}"
                for c in figures_of
            }
    columns = pd.MultiIndex.from_product([masks.BORDERS, name.values()])
    return pd.DataFrame.from_dict(rows, orient="index").reindex(index=list(rows), columns=columns).fillna("")


def relative_gap(table: pd.DataFrame, arm: str, base: str, metrics: Sequence[str]) -> pd.DataFrame:
    """By how many per cent an arm's error is below the base's: a row a metric, a column a cell; empty without both."""
    if not {arm, base} <= set(table["arm"]):
        return pd.DataFrame()
    means = table.set_index(["metric", "arm", "border", "hole_low"])["value"].sort_index()
    rows = {metric: 100 * (1 - means[metric, arm] / means[metric, base]) for metric in metrics if metric in means.index}
    return pd.DataFrame(rows).T.round(1)


def watch_filling(path: Path, size: int = 512) -> Path:
    """The GIF of a mask of ``size`` px that closes in the encoder of that depth, over a demo photo."""
    photo = to_rgb((ROOT / "data" / "demo" / "test" / "flower-meadow-square.jpg").read_bytes())
    network = UNet(Settings(size=size, width=1))
    maps = network.filling(masks.irregular(1, size, 5, (0.4, 0.5)))
    maps = maps[: 1 + next(i for i, valid in enumerate(maps) if valid.all())]
    layers = ["input", *(f"encoder {i}" for i in range(1, len(maps)))]
    labels = [f"{layer}: {m.shape[-1]} px, {m.float().mean():.0%} valid" for layer, m in zip(layers, maps, strict=True)]
    return filling(maps, labels, path, np.asarray(photo))


def filling(maps: Sequence, labels: Sequence[str], path: Path, photo: np.ndarray) -> Path:
    """The GIF of a mask that closes layer by layer: valid maps bool (1,1,h,w) of any size, white = valid.

    Beside each map the ``photo`` (H,W,3), of which the parts are dark that no valid pixel has reached.
    """
    pictures, lit = [], np.asarray(Image.fromarray(photo).resize((192, 192), Image.Resampling.BILINEAR))
    for valid, label in zip(maps, labels, strict=True):
        grey = np.repeat(np.asarray(valid[0, 0], np.uint8)[..., None] * 255, 3, 2)
        closed = np.asarray(Image.fromarray(grey).resize((192, 192), Image.Resampling.NEAREST))
        reached = (lit * (0.2 + 0.8 * closed / 255)).astype(np.uint8)
        pictures.append(figures.caption(np.concatenate([closed, reached], 1), label))
    return figures.gif(pictures, path, 700, 3)


def by_hole(table: pd.DataFrame, metric: str, arms: Sequence[str], label: str = "", scale: float = 1.0) -> plt.Figure:
    """One metric against the masked fraction of the photo, a line an arm with its interval, a panel a border rule.

    ``table``: tidy rows with ``arm``, ``hole_low``, ``hole_high`` and ``border``; values are multiplied by ``scale``.
    """
    rows = table[table["metric"] == metric]
    borders = [border for border in ("touching", "clear") if border in set(rows["border"])]
    figure, axes = figures.subplots(1, len(borders), figsize=(4.2 * len(borders), 3.3), sharey=True, squeeze=False)
    for ax, border in zip(axes[0], borders, strict=True):
        for i, arm in enumerate(arms):
            colour, dashes = figures.PALETTE[i % len(figures.PALETTE)], "-" if i < len(figures.PALETTE) else "--"
            line = rows[(rows["arm"] == arm) & (rows["border"] == border)].sort_values("hole_low")
            x = 50 * (line["hole_low"] + line["hole_high"]) + 0.5 * (i - len(arms) / 2)
            ends = figures.ends(line, scale)
            ax.errorbar(x, scale * line["value"], ends, label=arm, marker=".", capsize=2, color=colour, ls=dashes)
        ax.set(title=f"border: {border}", xlabel="masked, % of the photo")
    axes[0, 0].set_ylabel(label or metric)
    axes[0, -1].legend(fontsize=8)
    return figure


def zoomed(pictures: dict[str, np.ndarray], side: float = 0.4, where: np.ndarray | None = None) -> plt.Figure:
    """Labelled photos (H,W,3) in a row and, below, a square part of each, enlarged.

    ``side`` of the square over the photo's; it lies where most of the map ``where`` (H,W) is, else in the middle.
    """
    size = next(iter(pictures.values())).shape[0]
    side = max(2, round(side * size))
    weight = np.ones((size, size)) if where is None else where.astype(float)
    sums = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    best = np.argwhere(inside == inside.max())
    top, left = best[np.square(best - (size - side) / 2).sum(1).argmin()]
    figure, axes = figures.subplots(2, len(pictures), squeeze=False, figsize=(1.5 * len(pictures), 3.2))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for (label, photo), (whole, part) in zip(pictures.items(), axes.T, strict=True):
        whole.imshow(photo, interpolation="nearest")
        whole.add_patch(plt.Rectangle((left - 0.5, top - 0.5), side, side, fill=False, color="white", lw=1))
        whole.set_title(label, fontsize=8, loc="center", weight="normal")
        part.imshow(photo[top : top + side, left : left + side], interpolation="nearest")
    for ax in axes.flat:
        figures.bare(ax)
    return figure


def spectra(found: dict[str, Sequence[pd.DataFrame]]) -> plt.Figure:
    """Power of the fill over the ground truth's, dB, against frequency: one line an arm, its mean over seeds and range.

    Grey lines mark the periods (px) at which strided layers can leave a grid.
    """
    figure, ax = figures.subplots(figsize=(6.8, 3.6))
    for period in GRID_PERIODS:
        ax.axvline(1 / period, color="0.8", lw=1, zorder=0)
        ax.text(1 / period, 1, f"{period} px ", transform=ax.get_xaxis_transform(), fontsize=8, ha="right", va="top")
    gains = {arm: [run.assign(gain=10 * np.log10(run["fill"] / run["truth"])) for run in runs]
             for arm, runs in found.items()}  # fmt: skip
    figures.curves(gains, "gain", label="power of the fill over the ground truth, dB", ax=ax, x="frequency")
    ax.axhline(0, color="0.4", lw=1)
    ax.set(xlabel="frequency, cycles a pixel")
    return figure


def growing(runs: dict[str, Path], path: Path) -> Path:
    """The GIF of one photo whose hole grows: input, each arm's fill, ground truth, each at least 128 px wide, of every
    third photo of the strips that the runs left, three beside each other."""
    folder = next(iter(runs.values()))
    rows = {"input": figures.split_strip(folder / "growing_input.png")}
    rows |= {label: figures.split_strip(run / "growing.png") for label, run in runs.items()}
    rows |= {"ground truth": figures.split_strip(folder / "growing_truth.png") * len(rows["input"])}
    zoom, pictures = -(-128 // len(rows["input"][0])), []
    for i in range(0, len(rows["input"]), 3):
        cells = [figures.caption(photos[i], label, zoom) for label, photos in rows.items()]
        lines = [cells[start : start + 3] for start in range(0, len(cells), 3)]
        blank = Image.new("RGB", cells[0].size, "white")
        lines = [[np.asarray(cell) for cell in (line + [blank] * 3)[:3]] for line in lines]
        pictures.append(figures.stacked([Image.fromarray(np.concatenate(line, 1)) for line in lines]))
    return figures.gif(pictures, path, 360, 3)
