"""Structure Extraction from Texture via Relative Total Variation (Xu, Yan, Xia, Jia; SIGGRAPH Asia 2012).

MEDFE trains its structure branch on photos without texture, made by this filter. It minimises

    Σ_p (S_p - I_p)² + λ (D_x / (L_x + ε) + D_y / (L_y + ε))

where D, the windowed total variation, sums |∂S| and L, the windowed inherent variation, sums ∂S before taking |·|:
texture oscillates, so its L is small and it costs much; an edge has L = D. Reweighted: each iteration takes weights
from the S of the one before and solves a linear system, ``(1 + λ/2 L_w) S = I`` for each channel, in which L_w is the
Laplacian of a 4-neighbour grid with these weights. Solved are the published MATLAB code's systems, weights, blur
(zero outside the image) and halving of σ included, by SciPy's sparse factorisation; the copy that we read stops at a
residual of a tenth.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from inpaintlib import BadInput
from inpaintlib.methods.poisson import FACTORISATION

FLOOR = 1e-3  # ε of the paper: what |L| is at least


@dataclass(frozen=True)
class Settings:
    """The filter's parameters; the defaults are what MEDFE's structure images were made with."""

    lam: float = 0.015  # λ: how much is smoothed away
    sigma: float = 3.0  # px, of the window of the first iteration; it halves until 0.5: the largest texture
    eps_s: float = 0.001  # ε_s: smaller gradients count as this; the smaller, the sharper what remains
    iterations: int = 3

    def __post_init__(self):
        for name, ok, right in (
            ("lam", 0 <= self.lam <= 1, "a number from 0 (nothing is smoothed) to 1; published are 0.01 and 0.015"),
            ("sigma", 0 < self.sigma <= 100, "above 0 px and at most 100; published is 3"),
            ("eps_s", 0 < self.eps_s <= 1, "above 0 and at most 1; published are 0.001 and 0.02"),
            ("iterations", isinstance(self.iterations, int) and self.iterations >= 1,
             "a whole number of at least 1; published are 3 and 4"),
        ):  # fmt: skip
            if not ok:
                raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")


MEDFE = Settings()


@torch.no_grad()
def structure(photos: Tensor, settings: Settings = MEDFE) -> Tensor:
    """Photos without their texture: float (B,3,H,W) in [0,1] -> the same shape, type and device, in [0,1].

    Computed in float64 on the CPU, as many photos at a time as PyTorch has threads. Raises BadInput for photos of
    another shape, type or range.
    """
    if photos.ndim != 4 or photos.shape[1] != 3 or 0 in photos.shape:
        raise BadInput(f"photos: have shape {tuple(photos.shape)}, but must be (B, 3, H, W)")
    if not photos.is_floating_point():
        raise BadInput(f"photos: are {photos.dtype}, but must be float in [0, 1]; divide uint8 by 255")
    low, high = (value.item() for value in photos.aminmax())
    if not 0 <= low <= high <= 1:
        raise BadInput(f"photos: have values from {low:g} to {high:g}, but must lie in [0, 1]")
    image, sigma = photos.cpu().double(), settings.sigma
    x = image
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in range(settings.iterations):
            right, down = (settings.lam / 2 * w[:, 0] for w in weights(x, sigma, settings.eps_s))
            x, sigma = torch.stack(list(pool.map(solve, image, right, down))), max(sigma / 2, 0.5)
    return x.clamp(0, 1).to(photos)


def weights(x: Tensor, sigma: float, eps_s: float) -> tuple[Tensor, Tensor]:
    """(right, down) of L_w for images x (B,C,H,W), channels averaged: (B,1,H,W) each, u w_x and u w_y.

    ``right`` couples a pixel with its right neighbour, ``down`` with the one below; the last column of the one and the
    last row of the other are zero. u = 1 / max(|∇x|, ε_s) with forward differences, the same for both directions;
    w = 1 / max(|∂ blurred x|, ε).
    """
    across, along = differences(x)
    u = 1 / (across.square() + along.square()).sqrt().mean(1, keepdim=True).clamp(min=eps_s)
    right, down = (u / d.abs().mean(1, keepdim=True).clamp(min=FLOOR) for d in differences(blur(x, sigma)))
    right[..., -1], down[..., -1, :] = 0, 0
    return right, down


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences to the right and downwards, zero in the last column and row."""
    return F.pad(x.diff(dim=-1), (0, 1)), F.pad(x.diff(dim=-2), (0, 0, 0, 1))


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian of ``sigma`` px over 5 sigma, an odd number of px, as if all were zero outside the image."""
    reach = (int(5 * sigma + 0.5) | 1) // 2
    kernel = [np.exp(-((i / sigma) ** 2) / 2) for i in range(-reach, reach + 1)]
    for dim in (-1, -2):
        size, padded = x.shape[dim], F.pad(x, (reach, reach) if dim == -1 else (0, 0, reach, reach))
        x = sum(float(k / sum(kernel)) * padded.narrow(dim, i, size) for i, k in enumerate(kernel))
    return x


def solve(image: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """x (C,H,W) with (1 + L_w) x = image, weights (H,W): one sparse factorisation in float64."""
    high, wide = right.shape
    r, d = right.numpy().ravel(), down.numpy().ravel()
    parts = ((r[:-1], 1), (d[: (high - 1) * wide], wide))
    upper = sum(sparse.diags_array(w, offsets=offset, shape=(r.size, r.size)) for w, offset in parts)
    coupled = upper + upper.T
    matrix = sparse.diags_array(1 + coupled.sum(1)) - coupled
    solved = splu(matrix.tocsc(), **FACTORISATION).solve(image.flatten(1).numpy().T)
    return torch.from_numpy(solved.T.reshape(image.shape))
