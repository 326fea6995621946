"""What notebook 31 asks of a latent search: the GAN of a finished run, and each fill of each kind of mask, measured.

One run searches several kinds of mask, keeps G(z*) pasted and Poisson-blended, and of K restarts also what fewer would
have found, since the first four of sixteen are those of a search with four. So a run's per_image has a row for each
photo, mask, fill and number of restarts; its columns :data:`PARTS` tell them apart, and reports read them with
``Results(study, preset, PARTS)``.
"""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from inpaintlib import BadInput, Inpainter, metrics
from inpaintlib.data import masks
from inpaintlib.data import photos as stored
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures, sweep
from inpaintlib.methods import classical, poisson
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.latent_search import (
    LatentSearch,
    Search,
    Settings,
    context_loss,
    context_weights,
    pixel_weights,
    value_scale,
)
from inpaintlib.training import load_checkpoint, save_checkpoint, strip

PARTS = ("arm", "mask", "blend", "restarts")
CONTEXT_ENCODERS = {"centre": "ratio", "random_region": "random region", "random_pixels": "random pixels"}
"""Arms of notebook 10's sweeps whose networks a search is compared with, by the region they were trained on."""
FACES = ("celeba", "utkface")


# What a search needs


def trained_gan(study: str, preset: str, kimg: float = 0.0, device: str = "auto", **wanted) -> DCGAN:
    """The DCGAN of the one finished run of notebook 30 with these parameters, as it was after ``kimg`` (0: at the end).

    Raises BadInput where there is no such run, naming the command that makes it, and for a length it did not keep.
    """
    run = sweep.finished(study, preset, **wanted)
    if not kimg:
        return DCGAN.load(run.folder / "weights.pt", device)
    kept = {float(path.stem): path for path in sorted((run.folder / "networks").glob("*.pt"))}
    if near := [path for length, path in kept.items() if abs(length - kimg) <= 0.1]:
        return DCGAN.load(near[0], device)
    lengths = ", ".join(f"{length:g}" for length in kept) or "none"
    raise BadInput(f"gan_kimg: {run.folder} kept no network after {kimg:g} kimg; it has {lengths}")


def baselines(regions: str, study: str, preset: str, device: str = "auto", **wanted) -> dict[str, Inpainter]:
    """The trained Context Encoders of "centre+random_pixels", say, by the region they were trained on; or "none".

    They are the finished runs of notebook 10 at ratio 1000 with these parameters. Raises BadInput for an unknown region
    and where a run is missing.
    """
    names = regions.split("+") if regions != "none" else []
    for region in names:
        if region not in CONTEXT_ENCODERS:
            raise BadInput(f"baselines: there is no Context Encoder of {region!r}; choose none, or from "
                           f"{', '.join(CONTEXT_ENCODERS)}, joined by +")  # fmt: skip
    found = {name: sweep.finished(study, preset, arm=CONTEXT_ENCODERS[name], ratio=1000.0, **wanted) for name in names}
    return {name: ContextEncoder.load(run.folder / "weights.pt", device).inpaint for name, run in found.items()}


def fitting(baselines: dict[str, Inpainter], mask: str) -> Inpainter | None:
    """The Context Encoder that was trained on this kind of mask, else the one of random regions; None without it."""
    return baselines.get(mask if mask in CONTEXT_ENCODERS else "random_region")


def masked_sets(
    kinds: str, dataset: str, photos: Tensor, ids: list[str], pictures: list[str] | None = None
) -> dict[str, TestSet]:
    """The uint8 photos under each kind of mask of, say, "centre+half"; BadInput for an unknown kind."""
    size, n = photos.shape[-1], len(photos)
    return {
        kind: TestSet.make(f"{dataset} {size} px, {kind}", photos, masks.make(kind, n, size, 1), ids, pictures)
        for kind in kinds.split("+")
    }


def shown_sets(kinds: str, dataset: str, size: int, n: int = 2) -> dict[str, TestSet]:
    """The ``n`` photos that figures show under each kind of mask: two portraits for a GAN of faces."""
    photos, names = stored.examples(size, n, faces=dataset in FACES)
    return masked_sets(kinds, "examples", (photos * 255).round().byte(), names)


# Searching and measuring


def search(method: LatentSearch, test_set: TestSet, records: int = 16) -> tuple[Search, float]:
    """What the search of all photos found, with the paths of the best restarts, and the seconds it took."""
    start = time.perf_counter()
    found = method.search(test_set.photos01(), test_set.masks(), records, path=True)
    if method.device.type == "cuda":
        torch.cuda.synchronize(method.device)
    return found, time.perf_counter() - start


def search_all(method: LatentSearch, test_sets: dict[str, TestSet], folder: Path
               ) -> tuple[dict[str, Search], dict[str, float]]:  # fmt: skip
    """What :func:`search` found in each test set. Each is saved in the folder's checkpoint.pt, and not done again."""
    path, found, seconds = folder / "checkpoint.pt", {}, {}
    saved = load_checkpoint(path, method.device, "delete it to search anew") if path.exists() else {}
    for kind, test_set in test_sets.items():
        if kind not in saved:
            searched, took = search(method, test_set)
            saved[kind] = searched._asdict() | {"seconds": took}
            save_checkpoint(path, saved)
        seconds[kind] = saved[kind]["seconds"]
        found[kind] = Search(**{name: saved[kind][name] for name in Search._fields})
    return found, seconds


def fewer_restarts(method: LatentSearch, found: Search) -> dict[int, Search]:
    """What a search with 1, 4, 16, ... restarts would have found, up to all of them; after a coarse round only all."""
    whole, n = found.restart_losses.shape[1], len(found.restart_losses)
    counts = [] if method.settings.coarse_restarts else [4**i for i in range(10) if 4**i < whole]
    kept = {}
    for k in counts:
        loss, best = found.restart_losses[:, :k].min(1)
        latents = found.restart_latents[torch.arange(n, device=best.device), best]
        with torch.no_grad():
            generated = torch.cat([method.generate(part) for part in latents.split(512)]).float().clamp(0, 1)
        kept[k] = found._replace(
            generated=generated, latents=latents, loss=loss, path=None, filled=None,
            restart_losses=found.restart_losses[:, :k], restart_latents=found.restart_latents[:, :k],
        )  # fmt: skip
    return kept | {whole: found}


def fills(found: Search, test_set: TestSet, blend: bool = True) -> dict[bool, Tensor]:
    """The completed photos (n,3,S,S) on the CPU: without blending (False), and with it (True) if ``blend``."""
    photos, mask, generated = test_set.photos01(), test_set.masks(), found.generated.float().cpu()
    pasted = {False: torch.where(mask, generated, photos)}
    return pasted | ({True: poisson.blend(photos, generated, mask)} if blend else {})


def keep_pictures(found: Search, test_set: TestSet, folder: Path, baseline: Inpainter | None = None) -> Path:
    """Leaves the rows of a comparison as strips, 0_input.png to 7_ground truth.png; `pictures` reads them."""
    photos, mask, filled = test_set.photos01(), test_set.masks(), fills(found, test_set)
    rows = {"input": torch.where(mask, 0.5, photos), "G(z)": found.generated, "pasted": filled[False],
            "blended": filled[True], "mean colour": classical.mean_colour(photos, mask),
            "Telea": classical.telea(photos, mask)}  # fmt: skip
    rows |= {"Context Encoder": fill_all(baseline, test_set, found.generated.device)} if baseline else {}
    folder.mkdir(parents=True, exist_ok=True)
    for i, (label, row) in enumerate((rows | {"ground truth": photos}).items()):
        strip(row).save(folder / f"{i}_{label}.png")
    return folder


def pictures(folder: Path) -> dict[str, list[np.ndarray]]:
    """The rows that `keep_pictures` left, for `figures.grid`."""
    return {path.stem[2:]: figures.split_strip(path) for path in sorted(folder.glob("*.png"))}


def side_by_side(folders: dict[str, Path]) -> dict[str, list[np.ndarray]]:
    """The rows of several `pictures` folders beside each other, those that all of them have."""
    each = [pictures(folder) for folder in folders.values()]
    return {
        label: [photo for rows in each for photo in rows[label]]
        for label in each[0]
        if all(label in rows for rows in each)
    }


def configuration(row) -> str:
    """A searched arm as a table names it: "paper, K = 4, λ = 0.003, lr 0.05"; any other by its name and photos, since
    fills that learn nothing are measured on the photos of every arm."""
    if row.arm in (*metrics.TRIVIAL.values(), "context encoder"):
        return f"{row.arm}, {row.n_photos:g} photos"
    name = {"optimiser": row.optimiser, "GAN of other turns": f"GAN of {row.gan_arm}"}.get(row.arm, row.arm)
    return f"{name}, K = {row.restarts:g}, λ = {row.lambda_prior:g}, lr {row.lr:g}"


def fill_all(inpainter: Inpainter, test_set: TestSet, device="cpu", batch: int = 64) -> Tensor:
    """Another method's fill of all photos, on the CPU."""
    return torch.cat([inpainter(photos, mask).detach().cpu() for photos, mask in test_set.batches(batch, device)])


def measure(fill: Tensor, test_set: TestSet, networks=(), device=None, batch: int = 64) -> pd.DataFrame:
    """The rows of a fill's photos; with networks also FID and KID, the same in every row."""
    composites = (metrics.quantise(fill.float()) * 255).round().byte()
    scores = metrics.score(composites, test_set, networks=networks, device=device, batch=batch)
    of_all = {name: scores[name] for name in ("fid", "fid_hole", "kid", "kid_hole") if name in scores}
    return scores.per_image.assign(**of_all, test_set=test_set.hash)


def measure_search(
    method: LatentSearch, found: Search, test_set: TestSet, seconds: float, networks=(), blend: bool = True
) -> pd.DataFrame:
    """The rows of a search: each photo, pasted and blended, with all restarts and with fewer."""
    tables = []
    for k, part in fewer_restarts(method, found).items():
        extra = search_columns(method, part, test_set, seconds * k / found.restart_losses.shape[1])
        for blended, fill in fills(part, test_set, blend).items():
            rows = measure(fill, test_set, networks, method.device)
            tables.append(rows.join(extra).assign(blend=blended, restarts=k))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def search_columns(method: LatentSearch, found: Search, test_set: TestSet, seconds: float) -> pd.DataFrame:
    """What the search itself says of each photo.

    ``loss`` and its ``context_loss``; ``realism``, D's logit of G(z*) (above 0: taken for a photo); ``ring_l1``, the
    mean |G(z*) - y| of known pixels by Yeh's window weights: how well the fill's surroundings fit; ``hole_l1`` the same
    in the hole, by equal weights. Over the photo's restarts: ``restart_spread``, the standard deviation in dB of the
    hole's PSNR; ``restart_mean`` and ``restart_best``, its mean and maximum; ``restart_agreement``, Spearman's rho of
    the PSNR with minus the loss (1: the restart of lowest loss is the best fill). ``seconds_per_photo`` of the whole
    search, without blending.
    """
    n, restarts = found.restart_losses.shape
    losses, psnrs = found.restart_losses.cpu().numpy(), restart_psnrs(method, found, test_set).cpu().numpy()
    logits = [method.discriminator(part * 2 - 1).flatten() for part in found.generated.to(method.dtype).split(512)]
    of_rho = [stats.spearmanr(p, -q).statistic if restarts > 2 else np.nan for p, q in zip(psnrs, losses, strict=True)]
    photos, mask = test_set.photos01().to(method.device), test_set.masks().to(method.device)
    context = context_loss(found.generated, photos, pixel_weights(mask, method.settings), method.settings.context)
    ring, error = context_weights(mask), (found.generated - photos).abs().mean(1, keepdim=True)
    return pd.DataFrame({
        "loss": found.loss.cpu(), "context_loss": context.cpu(), "realism": torch.cat(logits).float().cpu(),
        "ring_l1": ((ring * error).sum((1, 2, 3)) / ring.sum((1, 2, 3))).cpu(),
        "hole_l1": ((mask * error).sum((1, 2, 3)) / mask.sum((1, 2, 3))).cpu(),
        "restart_spread": psnrs.std(1, ddof=1) if restarts > 1 else np.nan, "restart_mean": psnrs.mean(1),
        "restart_best": psnrs.max(1), "restart_agreement": of_rho, "seconds_per_photo": seconds / n,
    })  # fmt: skip


@torch.no_grad()
def restart_psnrs(method: LatentSearch, found: Search, test_set: TestSet) -> Tensor:
    """The hole's PSNR (n,K) in dB of G at the best latent of each restart, as 256 grey levels would store it."""
    photos, mask = test_set.photos01().to(method.device), test_set.masks().to(method.device)
    columns = []
    for z in found.restart_latents.unbind(1):
        generated = torch.cat([method.generate(part) for part in z.split(512)]).float().clamp(0, 1)
        columns.append(metrics.psnr(metrics.quantise(generated), photos, mask))
    return torch.stack(columns, 1)


def overall(per_image: pd.DataFrame, seconds: float) -> dict[str, float | str]:
    """metrics.json of a run that searched these rows' photos and masks in so many seconds.

    ``test_set`` is that of the mask where there is one, else the hash over the masks' in order.
    """
    hashes = list(dict.fromkeys(per_image["test_set"]))
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    means = per_image.drop(columns=[part for part in PARTS if part in per_image]).mean(numeric_only=True).dropna()
    speed = {"seconds": seconds, "images_per_second": len(per_image) / seconds}
    return means.to_dict() | metrics.summarise(per_image) | speed | {"test_set": whole}


def history(found: Search, kind: str) -> pd.DataFrame:
    """The losses of the best restarts as they went, means over photos, in history.csv's form."""
    best = found.restart_losses.argmin(1)
    photo = torch.arange(len(best), device=best.device)
    losses = {name: getattr(found, name)[:, photo, best].mean(1).cpu() for name in ("total", "context", "prior")}
    return pd.DataFrame({"mask": kind, "iteration": found.iterations, **losses})


@torch.no_grad()
def film(method: LatentSearch, found: Search, test_set: TestSet, folder: Path) -> dict[str, Path]:
    """Leaves a search as frames, for `figures.evolution_of`: G(z) whole, and pasted."""
    photos, mask = test_set.photos01(), test_set.masks()
    folders = {"G(z)": folder / "film" / "generated", "pasted": folder / "film" / "pasted"}
    for place in folders.values():
        (place / "frames").mkdir(parents=True, exist_ok=True)
        strip(photos).save(place / "truth.png")
    for iteration, z in zip(found.iterations, found.path, strict=True):
        generated = method.generate(z).float().clamp(0, 1).cpu()
        for place, picture in zip(folders.values(), (generated, torch.where(mask, generated, photos)), strict=True):
            strip(picture).save(place / "frames" / f"{iteration:06d}.png")
    return folders


# Worked examples


def weights_by_hand(side: int = 9, hole: int = 3, window: int = 3) -> pd.DataFrame:
    """Yeh's window weights of a small mask, in neighbours: W times the window's pixels; the hole is blank."""
    mask = masks.centre(1, side, hole=hole)
    neighbours = (context_weights(mask, window) * window**2)[0, 0].round().int().numpy()
    return pd.DataFrame(np.where(mask[0, 0], "", neighbours.astype(str)))


def blended_row(known: list[float], source: list[float]) -> pd.DataFrame:
    """Poisson blending of one row of pixels, the first and the last of them known."""
    y, g = (torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1) for values in (known, source))
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[..., [0, -1]] = False
    shown = {"source g": g, "pasted": torch.where(mask, g, y), "blended x": poisson.blend(y, g, mask)}
    return pd.DataFrame({label: row.flatten().numpy() for label, row in shown.items()})


def by_mask(table: pd.DataFrame, masks: list[str], metrics: dict[str, str]) -> plt.Figure:
    """Means and intervals of metrics (name -> label), a panel each, a place for each mask and a colour for each fill.

    ``table``: rows of a tidy table with ``fill`` and ``mask``.
    """
    metrics = {name: label for name, label in metrics.items() if name in set(table["metric"])}
    figure, axes = figures.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 3.2), squeeze=False)
    fills = list(dict.fromkeys(table["fill"]))
    for ax, (metric, label) in zip(axes[0], metrics.items(), strict=True):
        for i, fill in enumerate(fills):
            rows = table[(table["metric"] == metric) & (table["fill"] == fill)].set_index("mask").reindex(masks)
            places = [j + 0.1 * (i - (len(fills) - 1) / 2) for j in range(len(masks))]
            colour = figures.PALETTE[i % len(figures.PALETTE)]
            ax.errorbar(places, rows["value"], figures.ends(rows), fmt="o", color=colour, label=fill)
        ax.set_xticks(range(len(masks)), [mask.replace("_", " ") for mask in masks], rotation=20)
        ax.set(title=label)
    figures.legend(axes[0, -1])
    return figure


# What the ports chose


YEH = Settings()
IFT6266 = Settings(context="l2", weights="uniform", lambda_prior=1e-5, reduction="mean", signed=False, optimiser="gd",
                lr=0.9, iterations=250_000, clip=False, stop="blog")  # fmt: skip
_NAG = Settings(prior="non_saturating", optimiser="nesterov")
PORTS = {
    "Yeh 2017": YEH,
    "IFT6266 blog, λ 1e-4": replace(IFT6266, lambda_prior=1e-4),
    "IFT6266 blog, λ 1e-5": IFT6266,
    "IFT6266 blog, λ 1e-6": replace(IFT6266, lambda_prior=1e-6),
    "bamos": replace(_NAG, weights="uniform", lambda_prior=0.1, optimiser="adam", iterations=1000),
    "moodoki": replace(_NAG, lambda_prior=0.1, iterations=1000),
    "moodoki extensions": replace(_NAG, window=15, lambda_prior=0.2, lr=3e-4, iterations=3000),
    "ChengBinJin": replace(_NAG, lambda_prior=3.0),
    "KrnTneja": replace(_NAG, context="l2", window=25, lambda_prior=0.003, optimiser="adam", lr=1e-3, clip=False),
    "catalinlup": replace(YEH, reduction="mean", signed=False, lr=0.3, iterations=1000, clip=False),
}
"""Who searched how. What a field cannot say: moodoki's W is inverted by mistake (conv(M) for conv(1 - M)); its z, like
ChengBinJin's and KrnTneja's, starts from N(0, 1), catalinlup's from U(0, 1); ChengBinJin lowers its learning rate by
5 % every 100 iterations and keeps batch norm in train mode; KrnTneja's photos are grey, of 96 px and no fixed range,
its |N| has no centre and wraps around; catalinlup means to clip, but its clamp is not in place; Yeh 2017 gives no
learning rate."""


def lambda_table(size: int = 64) -> pd.DataFrame:
    """The λ of each of :data:`PORTS`, as published and as it must be under other conventions for the same minimum.

    ``sum`` and ``mean`` compare photos in [-1,1], ``sum [0,1]`` and ``mean [0,1]`` (the IFT6266 blog's) in [0,1].
    Between L1 and L2 there is no conversion.
    """
    rows = []
    for name, port in PORTS.items():
        row = {"port": name, "context": port.context, "prior": port.prior, "reduction": port.reduction,
               "photos": "[-1, 1]" if port.signed else "[0, 1]", "lambda": port.lambda_prior}  # fmt: skip
        targets = {"sum": ("sum", True), "mean": ("mean", True), "sum [0,1]": ("sum", False),
                   "mean [0,1]": ("mean", False)}  # fmt: skip
        for column, (reduction, signed) in targets.items():
            row[column] = convert_lambda(port, replace(port, reduction=reduction, signed=signed), size)
        rows.append(row)
    return pd.DataFrame(rows)


def convert_lambda(port: Settings, target: Settings, size: int = 64) -> float:
    """``port``'s λ in the reduction and range of ``target``, for photos of ``size`` px; BadInput if their norms differ.

    The learning rate of plain gradient descent converts the other way round (times the old λ over the new); Adam's
    does not.
    """
    if port.context != target.context:
        raise BadInput(f"context: λ cannot be converted from {port.context} to {target.context}; keep the norm")
    values = 3 * size**2
    return port.lambda_prior * value_scale(target, values) / value_scale(port, values)
