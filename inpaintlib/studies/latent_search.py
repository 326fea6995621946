"""What notebook 31 asks of a latent search: the GAN of a finished run, and each fill of each kind of mask, measured.

One search gives two fills of a photo, G(z*) pasted into the hole and Poisson-blended, and one run searches several
kinds of mask. So a run's ``per_image.csv`` has a row for each photo, mask and fill; its columns :data:`PARTS` tell them
apart, and reports read them with ``Results(study, preset, PARTS)``.
"""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from inpaintlib import BadInput, Inpainter, metrics
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures, sweep, tables
from inpaintlib.methods import classical, dcgan, poisson
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.methods.latent_search import LatentSearch, Search, context_loss, pixel_weights
from inpaintlib.training import strip

PARTS = ("arm", "mask", "blend")


# What a search needs


def trained_gan(study: str, preset: str, kimg: float = 0.0, device: str = "auto", **wanted) -> dcgan.DCGAN:
    """The DCGAN of the one finished run of notebook 30 with these parameters, as it was after ``kimg`` (0: at the end).

    Raises BadInput where there is no such run, naming the command that makes it, and for a length it did not keep.
    """
    run = sweep.finished(study, preset, **wanted)
    kept = {float(path.stem): path for path in sorted((run.folder / "networks").glob("*.pt"))}
    if kimg and kimg not in kept:
        raise BadInput(f"gan_kimg: {run.folder} kept no network after {kimg:g} kimg; it has "
                       f"{', '.join(f'{length:g}' for length in kept)}")  # fmt: skip
    if not kept:
        raise BadInput(f"{run.folder}: its networks are gone; delete the folder and make the run again with "
                       f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
    return dcgan.load(kept[kimg or max(kept)], device)


def rivals(names: str, preset: str, seed: int, device: str = "auto") -> dict[str, Inpainter]:
    """Other fills to measure on the same photos, by arm: of "telea+membrane+context_encoder", or "none".

    ``membrane`` is Poisson blending of a flat source: what blending does without any GAN. The Context Encoder is the
    one of study 1 at ratio 1000 with this preset and seed; BadInput where it is missing, and for an unknown name.
    """
    found: dict[str, Inpainter] = {}
    fills = classical.FILLS | {"membrane": membrane}
    for name in names.split("+") if names != "none" else ():
        if name == "context_encoder":
            run = sweep.finished("context_encoder_ratios", preset, arm="ratio", ratio=1000.0, seed=seed)
            found["context encoder"] = ContextEncoder.load(run.folder / "weights.pt", device).inpaint
        elif name in fills:
            found[name] = fills[name]
        else:
            raise BadInput(f"rivals: there is no fill {name!r}; choose from context_encoder, "
                           f"{', '.join(fills)}, joined by +")  # fmt: skip
    return found


def membrane(photos: Tensor, mask: Tensor) -> Tensor:
    """The smooth surface that the known pixels span: an Inpainter, Poisson blending of nothing."""
    return poisson.blend(photos, torch.zeros_like(photos), mask)


def test_sets(kinds: str, dataset: str, photos: Tensor, ids: list[str]) -> dict[str, TestSet]:
    """The photos under each kind of mask of, say, "centre+half"; BadInput for an unknown kind."""
    size = photos.shape[-1]
    return {kind: TestSet.make(f"{dataset} {size} px, {kind}", photos, masks.make(kind, len(photos), size, 1), ids)
            for kind in kinds.split("+")}  # fmt: skip


# Searching and measuring


def search(method: LatentSearch, test_set: TestSet, records: int = 16) -> tuple[Search, float]:
    """What the search of all photos found, with the paths of the best starts, and the seconds it took."""
    start = time.perf_counter()
    found = method.search(test_set.photos01(), test_set.masks(), records, path=True)
    if method.device.type == "cuda":
        torch.cuda.synchronize(method.device)
    return found, time.perf_counter() - start


def fills(found: Search, test_set: TestSet, blend: bool = True) -> dict[bool, Tensor]:
    """The completed photos (n,3,S,S) on the CPU: without blending (False), and with it (True) if ``blend``."""
    photos, mask, generated = test_set.photos01(), test_set.masks(), found.generated.cpu()
    pasted = {False: torch.where(mask, generated, photos)}
    return pasted | ({True: poisson.blend(photos, generated, mask)} if blend else {})


def keep_pictures(found: Search, fills: dict[bool, Tensor], test_set: TestSet, shown: list[int], folder: Path) -> Path:
    """Leaves the rows of a comparison as strips, 0_corrupted.png to 4_truth.png; `pictures` reads them."""
    photos, mask = test_set.photos01(shown), test_set.masks(shown)
    rows = {"corrupted": torch.where(mask, 0.5, photos), "G(z)": found.generated[shown]}
    rows |= {"blended" if blended else "pasted": fill[shown] for blended, fill in fills.items()} | {"truth": photos}
    folder.mkdir(parents=True, exist_ok=True)
    for i, (label, row) in enumerate(rows.items()):
        strip(row).save(folder / f"{i}_{label}.png")
    return folder


def pictures(folder: Path) -> dict[str, list[np.ndarray]]:
    """The rows that `keep_pictures` left, for `figures.grid`."""
    return {path.stem[2:]: figures.split_strip(path) for path in sorted(folder.glob("*.png"))}


def way(row) -> str:
    """A searched arm as a table names it: "paper, K = 4, λ = 0.003, rate 0.05"; any other by its name alone."""
    if row.arm in (*classical.FILLS, "membrane", "context encoder"):
        return row.arm
    return f"{row.arm}, K = {row.starts}, λ = {row.lambda_prior:g}, rate {row.lr:g}"


def fill_all(inpainter: Inpainter, test_set: TestSet, device="cpu", batch: int = 64) -> Tensor:
    """Another method's fill of all photos, on the CPU."""
    return torch.cat([inpainter(photos, mask).detach().cpu() for photos, mask in test_set.batches(batch, device)])


def measure(fill: Tensor, test_set: TestSet, networks=(), device=None, batch: int = 64) -> pd.DataFrame:
    """The rows of a fill's photos; with networks also FID and KID, the same in every row."""
    parts = iter(fill.split(batch))
    scores = metrics.evaluate(
        lambda photos, mask: next(parts).to(photos), test_set, networks=networks, device=device, batch=batch
    )
    of_all = {name: scores[name] for name in ("fid", "fid_hole", "kid", "kid_hole") if name in scores}
    return scores.per_image.assign(**of_all, test_set=test_set.hash)


@torch.no_grad()
def search_columns(method: LatentSearch, found: Search, test_set: TestSet, seconds: float) -> pd.DataFrame:
    """What the search itself says of each photo.

    ``loss`` and its ``context_loss``; ``realism``, D's logit of G(z*) (above 0: taken for a photo);
    ``start_spread``, the standard deviation in dB of the hole's PSNR over the photo's starts; ``start_agreement``,
    Spearman's rho over them of the PSNR with minus the loss (1: the start of lowest loss is the best fill);
    ``seconds_per_photo`` of the whole search, without blending.
    """
    n, starts = found.start_losses.shape
    losses, psnrs = found.start_losses.cpu().numpy(), start_psnrs(method, found, test_set).cpu().numpy()
    logits = [method.discriminator(part * 2 - 1).flatten() for part in found.generated.to(method.dtype).split(512)]
    of_rho = [stats.spearmanr(p, -q).statistic if starts > 2 else np.nan for p, q in zip(psnrs, losses, strict=True)]
    photos, mask = test_set.photos01().to(method.device), test_set.masks().to(method.device)
    context = context_loss(found.generated, photos, pixel_weights(mask, method.settings), method.settings.context)
    return pd.DataFrame({
        "loss": found.loss.cpu(), "context_loss": context.cpu(), "realism": torch.cat(logits).float().cpu(),
        "start_spread": psnrs.std(1, ddof=1) if starts > 1 else np.nan, "start_agreement": of_rho,
        "seconds_per_photo": seconds / n,
    })  # fmt: skip


@torch.no_grad()
def start_psnrs(method: LatentSearch, found: Search, test_set: TestSet) -> Tensor:
    """The hole's PSNR (n,K) in dB of G at the best latent of each start."""
    photos, mask = test_set.photos01().to(method.device), test_set.masks().to(method.device)
    columns = [metrics.psnr(method.generate(z).float().clamp(0, 1), photos, mask)
               for z in found.start_latents.unbind(1)]  # fmt: skip
    return torch.stack(columns, 1)


def overall(per_image: pd.DataFrame, seconds: float) -> dict[str, float | str]:
    """metrics.json of a run that searched these rows' photos and masks in so many seconds.

    ``test_set`` is that of the mask where there is one, else the hash over the masks' in order.
    """
    hashes = list(dict.fromkeys(per_image["test_set"]))
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    means = per_image[[name for name in tables.METRICS if name in per_image]].mean().dropna().to_dict()
    speed = {"seconds": seconds, "images_per_second": len(per_image) / seconds}
    return means | metrics.summarise(per_image) | speed | {"test_set": whole}


def history(found: Search, kind: str) -> pd.DataFrame:
    """The losses of the best starts as they went, means over photos, in history.csv's form."""
    best = found.start_losses.argmin(1)
    photo = torch.arange(len(best), device=best.device)
    losses = {name: getattr(found, name)[:, photo, best].mean(1).cpu() for name in ("total", "context", "prior")}
    return pd.DataFrame({"mask": kind, "iteration": found.iterations, **losses})


@torch.no_grad()
def film(method: LatentSearch, found: Search, test_set: TestSet, folder: Path, shown: Iterable[int]) -> dict[str, Path]:
    """Leaves the search of some photos as frames, for `figures.evolution_of`: G(z) whole, and pasted."""
    shown = list(shown)
    photos, mask = test_set.photos01(shown), test_set.masks(shown)
    folders = {"G(z)": folder / "film" / "generated", "pasted": folder / "film" / "pasted"}
    for place in folders.values():
        (place / "frames").mkdir(parents=True, exist_ok=True)
        strip(photos).save(place / "truth.png")
    for iteration, z in zip(found.iterations, found.path[:, shown], strict=True):
        generated = method.generate(z).float().clamp(0, 1).cpu()
        for place, picture in zip(folders.values(), (generated, torch.where(mask, generated, photos)), strict=True):
            strip(picture).save(place / "frames" / f"{iteration:06d}.png")
    return folders
