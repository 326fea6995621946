"""What the claims on Context Encoders need beyond the usual metrics.

=================== ===================================================================================================
psnr_inner          of the hole less ``inner_margin`` px a side, which networks with and without a visible band all have
                    to fill; ``seam_inner``, ``psnr_inner_pooled`` likewise
context_gain        dB of PSNR that a fill loses when it was made for another photo's context; 0: the context is ignored
context_change      mean |difference| of two photos' fills over that of their ground truths; 0: all fills are one
regression_slope    least-squares slope of ground truths on fills, over all pixels: 1 for the mean of what could be
                    there, which is what squared error asks for, less for one concrete guess
detail              of the ground truth: mean |Laplacian| in the hole
colourfulness       of the photo (Hasler & Süsstrunk 2003)
gain_over_telea     PSNR of the hole less that of Telea's fill, dB
=================== ===================================================================================================
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.metrics import Evaluation, evaluate, measure_trivial_fills, psnr, seam


def measure(
    network: ContextEncoder, test_set: TestSet, networks: Sequence[str] = (), inner_margin: int = 0
) -> Evaluation:
    """`metrics.evaluate`, the numbers named above, and the trivial fills of this test set (`measure_trivial_fills`).

    All but the last three need a hole at the centre; ``inner_margin`` is in px.
    """
    found = evaluate(network.inpaint, test_set, networks=networks, device=network.device)
    per_image = found.per_image
    telea = measure_trivial_fills(test_set, networks, network.device)["Telea"].per_image.set_index("id")["psnr_hole"]
    columns = {"gain_over_telea": per_image["psnr_hole"] - per_image["id"].map(telea),
               "detail": per_image["laplacian_truth"] / (3 * per_image["pixels"] * per_image["hole_ratio"]),
               "colourfulness": colourfulness(test_set.photos01())}  # fmt: skip
    if network.settings.region == "centre":
        hole = test_set.masks([0])[0, 0]
        fills, truths = (photos[..., hole].double() / 255 for photos in (found.composites, test_set.photos))
        columns["context_gain"], found["context_change"] = swapped_contexts(fills, truths)
        found["regression_slope"] = regression_slope(fills, truths)
        columns |= inner_hole(found.composites, test_set.photos, network.settings.patch - 2 * inner_margin)
        found["psnr_inner_pooled"] = float(-10 * np.log10(np.mean(10 ** (-columns["psnr_inner"] / 10))))
    found.per_image = per_image.assign(**columns)
    found |= {name: float(np.mean(values)) for name, values in columns.items()}
    return found


def inner_hole(composites: Tensor, photos: Tensor, side: int) -> dict[str, np.ndarray]:
    """``psnr_inner`` and ``seam_inner`` (n,) of uint8 composites and photos (n,3,S,S): a central hole of ``side`` px.

    Around it the ground truth stands, as if only these pixels had been pasted.
    """
    inner = masks.centre(len(photos), photos.shape[-1], hole=side)
    truths = photos.float() / 255
    pasted = torch.where(inner, composites.float() / 255, truths)
    return {"psnr_inner": psnr(pasted, truths, inner).numpy(), "seam_inner": seam(pasted, truths, inner).numpy()}


def swapped_contexts(fills: Tensor, truths: Tensor) -> tuple[np.ndarray, float]:
    """Of the holes' contents (n,3,pixels) in [0,1]: ``context_gain`` (n,) and ``context_change``.

    A fill depends on its context alone, so the fill for another context is another photo's: the one half a set away.
    """
    other = fills.roll(len(fills) // 2, 0)
    own_error, other_error = ((f - truths).square().mean((1, 2)).clamp_min(1e-6) for f in (fills, other))
    change = (fills - other).abs().mean() / (truths - truths.roll(len(fills) // 2, 0)).abs().mean()
    return (10 * (other_error / own_error).log10()).numpy(), float(change)


def regression_slope(fills: Tensor, truths: Tensor) -> float:
    """sum (t - mean t) (f - mean f) / sum (f - mean f)^2 over photos, channels and pixels; nan where no fill varies."""
    f, t = fills - fills.mean(), truths - truths.mean()
    return float((t * f).sum() / f.square().sum())


def colourfulness(photos: Tensor) -> np.ndarray:
    """(n,) of photos (n,3,H,W) in [0,1], Hasler & Süsstrunk 2003: 0 for grey; spread and mean of opponent colours."""
    red, green, blue = photos.double().unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(2)
    return (opponents.var(-1).sum(0).sqrt() + 0.3 * opponents.mean(-1).square().sum(0).sqrt()).numpy()


def of_training(history: pd.DataFrame) -> dict[str, float]:
    """``training_seconds``; ``training_photos_per_second``, the median row's, so that looks and interruptions do not
    count; ``discriminator_loss``, of both its terms, mean of the last quarter (where it was trained)."""
    between = history[["kimg", "seconds"]].diff().dropna()
    found = {"training_seconds": float(history["seconds"].iloc[-1]),
             "training_photos_per_second": float((1000 * between["kimg"] / between["seconds"]).median())}  # fmt: skip
    if "d_real" in history:
        late = history[history["kimg"] > 0.75 * history["kimg"].iloc[-1]]
        found["discriminator_loss"] = float((late["d_real"] + late["d_fake"]).mean())
    return found


# What notebook 11 shows


def ordered_colours(n: int) -> list[tuple]:
    """n colours from dark to light for a quantity that has an order, such as the loss ratio."""
    return [plt.cm.viridis(x) for x in np.linspace(0.0, 0.88, max(n, 1))]


def ratio_label(ratio: float) -> str:
    """0 -> "adversarial only", inf -> "reconstruction only", else "×100"."""
    return {0.0: "adversarial only", np.inf: "reconstruction only"}.get(ratio, f"×{ratio:g}")


def tradeoff(
    points: pd.DataFrame, x: str, y: str, by: str, *, name: Callable = str, xlabel: str = "", ylabel: str = ""
) -> plt.Figure:
    """One point a run, coloured by arm, the arms' means joined in order: what one metric costs in another."""
    figure, ax = figures.subplots(figsize=(6.4, 4))
    arms = list(dict.fromkeys(points[by]))
    means = points.groupby(by)[[x, y]].mean().loc[arms]
    ax.plot(means[x], means[y], color="0.75", lw=1, zorder=0)
    for arm, colour in zip(arms, ordered_colours(len(arms)), strict=True):
        some = points[points[by] == arm]
        ax.scatter(some[x], some[y], color=colour, s=26, alpha=0.6)
        ax.scatter(*means.loc[arm], color=colour, s=90, edgecolor="white", label=name(arm))
    ax.set(xlabel=xlabel or x, ylabel=ylabel or y)
    ax.legend(fontsize=8)
    return figure


def step_through(runs: dict[str, Path], path: Path, zoom: int = 2, columns: int = 4) -> Path:
    """The GIF that steps through arms: the last frame of each, the ground truth below."""

    def row(picture: Path, label: str):
        return figures.caption(np.concatenate(figures.split_strip(picture)[:columns], 1), label, zoom)

    truth = row(next(iter(runs.values())) / "truth.png", "ground truth")
    fills = [row(figures.frames(folder)[-1], label) for label, folder in runs.items()]
    return figures.gif([figures.stacked([fill, truth]) for fill in fills], path, 1100, 1)
