"""What notebook 30 asks of a GAN: how far its photos are from true ones, how much they differ, how smooth z is."""

import pandas as pd
import torch
from torch import Tensor, nn

from inpaintlib import metrics
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.training import generator


def measure(gan: DCGAN, real: Tensor, n: int, inception: nn.Module | None = None) -> dict[str, float]:
    """Numbers on ``n`` generated photos, always of the same latents, beside uint8 photos ``real`` (m,3,S,S).

    ``logit_real``, ``logit_fake``: D's mean logits in eval mode. ``diversity``: see :func:`diversity`. With the
    ``inception`` network also ``kid`` between the two sets.
    """
    fakes, rows = gan.samples(n), logits(gan, real, n)
    found = {f"logit_{kind}": float(part.mean()) for kind, part in rows.groupby("kind")["logit"]}
    found["diversity"] = diversity(fakes) / diversity(real.to(fakes.device).float() / 255)
    if inception:
        found["kid"] = metrics.kid(features(inception, fakes), features(inception, real.to(fakes.device).float() / 255))
    return found


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
def features(inception: nn.Module, photos: Tensor, batch: int = 64) -> Tensor:
    """FID's features (n,2048) of photos (n,3,S,S) in [0,1], on the CPU."""
    return torch.cat([inception(part).cpu() for part in photos.split(batch)])


def walk(gan: DCGAN, steps: int, rows: int, seed: int = 0) -> Tensor:
    """Photos (rows,steps,3,S,S) on straight lines between pairs of latents of the prior."""
    first, last = (gan.latents(rows, generator(seed, -2 - end)) for end in range(2))
    t = torch.linspace(0, 1, steps, device=first.device).view(1, -1, 1)
    z = first[:, None] * (1 - t) + last[:, None] * t
    return gan.generate(z.flatten(0, 1)).unflatten(0, (rows, steps))
