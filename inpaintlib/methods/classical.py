"""Fills that learn nothing: one colour, or diffusion and fast marching from the hole's edge inwards.

All are Inpainters and raise BadInput for a mask that `masks.check` refuses. Liu 2018's own classical baseline,
PatchMatch, is in none of the libraries kept here, so it is not offered.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from inpaintlib import BadInput, Inpainter
from inpaintlib.data import masks
from inpaintlib.methods import poisson


def grey(photos: Tensor, mask: Tensor) -> Tensor:
    """Mid-grey, .5 in every channel."""
    masks.check(mask, photos)
    return torch.where(mask, 0.5, photos)


def mean_colour(photos: Tensor, mask: Tensor) -> Tensor:
    """The mean of each photo's known pixels: of all fills of one colour the one that fits what is known best."""
    masks.check(mask, photos)
    known = ~mask
    mean = (photos * known).sum((2, 3), keepdim=True, dtype=torch.float64) / known.sum((2, 3), keepdim=True)
    return torch.where(mask, mean.to(photos).clamp(0, 1), photos)


def membrane(photos: Tensor, mask: Tensor) -> Tensor:
    """The solution of Laplace's equation: each hole pixel is the mean of its neighbours inside the photo."""
    return poisson.blend(photos, torch.zeros_like(photos), mask)


def telea(photos: Tensor, mask: Tensor, radius: float = 3) -> Tensor:
    """Fast marching (Telea 2004, OpenCV, 8 bits a channel): each pixel is a weighted mean of what is known within
    ``radius`` px. Raises BadInput also for a radius below 1."""
    return _opencv(photos, mask, radius, cv2.INPAINT_TELEA)


def navier_stokes(photos: Tensor, mask: Tensor, radius: float = 3) -> Tensor:
    """Isophotes carried into the hole like a fluid's vorticity (Bertalmio 2001, OpenCV); otherwise as `telea`."""
    return _opencv(photos, mask, radius, cv2.INPAINT_NS)


def biharmonic(photos: Tensor, mask: Tensor) -> Tensor:
    """The smoothest surface through the known pixels (biharmonic equation, Damelin 2018, scikit-image)."""
    return _each(lambda photo, hole: inpaint_biharmonic(photo, hole, channel_axis=-1), photos, mask)


FILLS: dict[str, Inpainter] = {
    fill.__name__: fill for fill in (grey, mean_colour, membrane, telea, navier_stokes, biharmonic)
}


def _opencv(photos: Tensor, mask: Tensor, radius: float, method: int) -> Tensor:
    if radius < 1:
        raise BadInput(f"radius: {radius} px will not do; it must be at least 1")

    def fill(photo: np.ndarray, hole: np.ndarray) -> np.ndarray:
        blanked = np.where(hole[..., None], photo[~hole].mean(0), photo)  # OpenCV's fill looks into the hole a little
        return cv2.inpaint(np.round(blanked * 255).astype(np.uint8), hole.astype(np.uint8), radius, method) / 255

    return _each(fill, photos, mask)


def _each(fill: Callable[[np.ndarray, np.ndarray], np.ndarray], photos: Tensor, mask: Tensor) -> Tensor:
    """Applies fill(photo (H,W,3) in [0,1], hole (H,W)) to each photo and keeps what it wrote into the hole."""
    masks.check(mask, photos)
    images, holes = photos.detach().double().permute(0, 2, 3, 1).cpu().numpy(), mask[:, 0].cpu().numpy()
    filled = np.stack([fill(image, hole) for image, hole in zip(images, holes, strict=True)])
    return torch.where(mask, torch.from_numpy(filled).permute(0, 3, 1, 2).to(photos).clamp(0, 1), photos)
