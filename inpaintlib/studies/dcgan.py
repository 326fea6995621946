"""What notebook 30 asks of a GAN: how far its photos are from true ones, how much they differ, how smooth z is."""

import hashlib
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from inpaintlib import metrics
from inpaintlib.data.photos import Photos
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.training import generator


def measuring(gan: DCGAN, real: Tensor, n: int, inception: nn.Module | None = None) -> Callable[[], dict[str, float]]:
    """A function that measures ``gan`` as it stands, on ``n`` photos of the same latents each time, beside uint8 photos
    ``real`` (m,3,S,S).

    ``logit_real``, ``logit_fake``: D's mean logits in eval mode. ``diversity``: see :func:`diversity`, over that of the
    photos. With the ``inception`` network also ``kid`` between the two sets.
    """
    photos = real.to(gan.device).float() / 255
    of_photos, wanted = diversity(photos), features(inception, photos) if inception else None

    def measure() -> dict[str, float]:
        fakes, rows = gan.samples(n), logits(gan, real, n)
        found = {f"logit_{kind}": float(part.mean()) for kind, part in rows.groupby("kind")["logit"]}
        found["diversity"] = diversity(fakes) / of_photos
        return found | ({"kid": metrics.kid(features(inception, fakes), wanted)} if inception else {})

    return measure


def diversity(photos: Tensor) -> float:
    """Root of the mean squared difference of two different photos of (n,3,S,S), per value: √2 σ over the photos."""
    return float((2 * photos.double().var(0, correction=1).mean()).sqrt())


@torch.no_grad()
def logits(gan: DCGAN, real: Tensor, n: int) -> pd.DataFrame:
    """D's logit of each of ``n`` generated photos and of photos ``real`` uint8: columns kind (fake, real) and logit."""
    training = gan.discriminator.training
    gan.discriminator.eval()
    parts = [("fake", gan.samples(n) * 2 - 1), ("real", real.to(gan.device).float() / 127.5 - 1)]
    rows = [pd.DataFrame({"kind": kind, "logit": gan.discriminator(x).float().cpu()}) for kind, x in parts]
    gan.discriminator.train(training)
    return pd.concat(rows, ignore_index=True)


@torch.no_grad()
def features(inception: nn.Module, photos: Tensor) -> Tensor:
    """FID's features (n,2048) of photos (n,3,S,S) in [0,1], on the CPU."""
    return torch.cat([inception(part).cpu() for part in photos.split(64)])


def over_training(history: pd.DataFrame) -> dict[str, float]:
    """What the losses and looks of a training say of its course.

    ``g_early``, ``g_late``: mean loss of G in its first and second half; ``g_early_deviation``, ``g_late_deviation``:
    standard deviation of the logged losses there. ``g_first``, ``g_last``: in the second half, G's loss at the first
    and the last update of its turn. ``kid_first``: KID at the first look after the start, where it was measured.
    """
    rows = history.dropna(subset=["g"])
    late = rows["kimg"] > rows["kimg"].max() / 2
    halves = {"early": rows[~late], "late": rows[late]}
    found = {f"g_{name}": float(half["g"].mean()) for name, half in halves.items()}
    found |= {f"g_{name}_deviation": float(half["g"].std()) for name, half in halves.items()}
    found |= {"g_first": float(halves["late"]["g_first"].mean()), "g_last": found["g_late"]}
    if "test_kid" in history:
        found["kid_first"] = float(history.loc[history["kimg"] > 0, "test_kid"].dropna().iloc[0])
    return found


def nearest(photos: Tensor, train: Photos) -> float:
    """Mean over float photos (n,3,S,S) in [0,1] of the root mean squared difference from the nearest training photo."""
    flat, best = photos.cpu().flatten(1), torch.full((len(photos),), torch.inf)
    for start in range(0, len(train), 1024):
        some = torch.from_numpy(train.array[start : start + 1024].copy()).float().flatten(1) / 255
        best = torch.minimum(best, torch.cdist(flat, some).min(1).values)
    return float(best.mean() / flat.shape[1] ** 0.5)


def walk(gan: DCGAN, steps: int, rows: int, seed: int = 0) -> Tensor:
    """Photos (rows,steps,3,S,S) on straight lines between pairs of latents of the prior."""
    first, last = (gan.latents(rows, generator(seed, -2 - end)) for end in range(2))
    t = torch.linspace(0, 1, steps, device=first.device).view(1, -1, 1)
    z = first[:, None] * (1 - t) + last[:, None] * t
    return gan.generate(z.flatten(0, 1)).unflatten(0, (rows, steps))


def photos_hash(photos: Tensor) -> str:
    """SHA-256 (hexadecimal) of uint8 photos: which test photos a GAN was measured beside."""
    return hashlib.sha256(photos.contiguous().numpy()).hexdigest()
