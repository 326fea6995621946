"""Structure Extraction from Texture via Relative Total Variation (Xu, Yan, Xia, Jia; SIGGRAPH Asia 2012).

MEDFE trains its structure branch on photos without texture, made by this filter. It minimises

    Σ_p (S_p - I_p)² + λ (D_x / (L_x + ε) + D_y / (L_y + ε))

where D, the windowed total variation, sums |∂S| and L, the windowed inherent variation, sums ∂S before taking |·|:
texture oscillates, so its L is small and it costs much; an edge has L = D. Reweighted: each iteration takes weights
from the S of the one before and solves a linear system, ``(1 + λ/2 L_w) S = I`` for each channel, in which L_w is the
Laplacian of a 4-neighbour grid with these weights. Solved are the published MATLAB code's systems, weights, blur
(zero outside the image) and halving of σ included; the copy that we read stops at a residual of a tenth, ours not.

Two solvers: ``direct`` (SciPy's sparse factorisation in float64, one photo at a time on the CPU) is the reference;
``cg`` solves all photos at once on their device and differs from it by less than :data:`TOLERANCE`. On a CPU the
reference is faster; a GPU wants ``cg``.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from inpaintlib import BadInput

TOLERANCE = 1e-3  # largest difference of ``cg`` from ``direct`` with the published settings, of a range of 1
RESIDUAL = 1e-4  # relative residual at which conjugate gradients stop
ITERATIONS = 5000  # of conjugate gradients at most
FLOOR = 1e-3  # ε of the paper: what |L| is at least
FACTORISATION = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


@dataclass(frozen=True)
class Settings:
    """The filter's parameters; the defaults are what MEDFE's structure images were made with."""

    lam: float = 0.015  # λ: how much is smoothed away
    sigma: float = 3.0  # px, of the window of the first iteration; it halves until 0.5: the largest texture
    eps_s: float = 0.001  # ε_s: smaller gradients count as this; the smaller, the sharper what remains
    iterations: int = 3

    def __post_init__(self):
        def require(ok: bool, name: str, right: str) -> None:
            if not ok:
                raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")

        require(0 <= self.lam <= 1, "lam", "a number from 0 (nothing is smoothed) to 1; published are 0.01 and 0.015")
        require(0 < self.sigma <= 100, "sigma", "above 0 px and at most 100; published is 3")
        require(0 < self.eps_s <= 1, "eps_s", "above 0 and at most 1; published are 0.001 and 0.02")
        require(isinstance(self.iterations, int) and self.iterations >= 1, "iterations",
                "a whole number of at least 1; published are 3 and 4")  # fmt: skip


MEDFE = Settings()


@torch.no_grad()
def structure(photos: Tensor, settings: Settings = MEDFE, solver: str = "auto") -> Tensor:
    """Photos without their texture: float (B,3,H,W) in [0,1] -> the same shape, type and device, in [0,1].

    ``solver``: ``cg`` (in float64 for such photos, else in float32), ``direct``, or ``auto``: ``cg`` for photos on a
    GPU, ``direct`` for others. With either, what becomes of a photo does not depend on the others in the batch.

    Raises:
        BadInput: photos of another shape, type or range; an unknown solver; parameters so extreme that ``cg`` gives up.
    """
    check(photos)
    if solver not in ("auto", "cg", "direct"):
        raise BadInput(f"solver: {solver!r} will not do; it must be auto, cg or direct")
    if solver == "cg" or (solver == "auto" and photos.device.type == "cuda"):
        solve, image = solve_cg, photos if photos.dtype == torch.double else photos.float()
    else:
        solve, image = solve_direct, photos.cpu().double()
    x, sigma = image, settings.sigma
    for _ in range(settings.iterations):
        right, down = (settings.lam / 2 * w for w in weights(x, sigma, settings.eps_s))
        x, sigma = solve(image, right, down, start=x), max(sigma / 2, 0.5)
    return x.clamp(0, 1).to(photos)


def check(photos: Tensor) -> None:
    """Raises BadInput unless photos are float (B,3,H,W) in [0,1]."""
    if photos.ndim != 4 or photos.shape[1] != 3 or 0 in photos.shape:
        raise BadInput(f"photos: have shape {tuple(photos.shape)}, but must be (B, 3, H, W)")
    if not photos.is_floating_point():
        raise BadInput(f"photos: are {photos.dtype}, but must be float in [0, 1]; divide uint8 by 255")
    low, high = (value.item() for value in photos.aminmax())
    if not 0 <= low <= high <= 1:
        raise BadInput(f"photos: have values from {low:g} to {high:g}, but must lie in [0, 1]")


# The linear system: ``right`` (B,1,H,W) couples a pixel with its right neighbour, ``down`` with the one below; the last
# column of the one and the last row of the other are zero. All channels of a photo share them.


def weights(x: Tensor, sigma: float, eps_s: float) -> tuple[Tensor, Tensor]:
    """(right, down) of L_w: u w_x and u w_y of the images x (B,C,H,W), channels averaged.

    u = 1 / max(|∇x|, ε_s) with forward differences, the same for both directions; w = 1 / max(|∂ blurred x|, ε).
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
    """Gaussian of ``sigma`` px over 5 sigma, an odd number of px, as if all were zero outside the image.

    Written as shifted sums: a GPU's convolutions round to 10 bits, and weights are one over a small difference.
    """
    reach = (int(5 * sigma + 0.5) | 1) // 2
    kernel = [np.exp(-((i / sigma) ** 2) / 2) for i in range(-reach, reach + 1)]
    for dim in (-1, -2):
        size, padded = x.shape[dim], F.pad(x, (reach, reach) if dim == -1 else (0, 0, reach, reach))
        x = sum(float(k / sum(kernel)) * padded.narrow(dim, i, size) for i, k in enumerate(kernel))
    return x


def solve_direct(image: Tensor, right: Tensor, down: Tensor, start: Tensor | None = None) -> Tensor:
    """x with (1 + L_w) x = image (B,C,H,W): a sparse factorisation per photo, float64, on the CPU. No start is used."""
    solved, (high, wide) = np.empty(image.shape), image.shape[-2:]
    for b, values in enumerate(image.cpu().double().flatten(2).numpy()):
        r, d = (w[b, 0].cpu().double().numpy().ravel() for w in (right, down))
        parts = ((r[:-1], 1), (d[: (high - 1) * wide], wide))
        upper = sum(sparse.diags_array(w, offsets=offset, shape=(r.size, r.size)) for w, offset in parts)
        coupled = upper + upper.T
        matrix = sparse.diags_array(1 + coupled.sum(1)) - coupled
        solved[b] = splu(matrix.tocsc(), **FACTORISATION).solve(values.T).T.reshape(solved[b].shape)
    return torch.from_numpy(solved).to(image)


def apply(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """(1 + L_w) x. Of differences, not of diagonal times x: in float32 that would cancel where weights are large."""
    across, along = right[..., :-1] * x.diff(dim=-1), down[..., :-1, :] * x.diff(dim=-2)
    y = x.clone()
    y[..., 1:] += across
    y[..., :-1] -= across
    y[..., 1:, :] += along
    y[..., :-1, :] -= along
    return y


def solve_cg(image: Tensor, right: Tensor, down: Tensor, start: Tensor | None = None) -> Tensor:
    """The same x by conjugate gradients from ``start``, for all photos and channels at once; preconditioned by the
    system's diagonal.

    Each channel of each photo takes its own steps and stops at its own :data:`RESIDUAL`, so none depends on another.

    Raises BadInput where one has not stopped after :data:`ITERATIONS`.
    """
    diagonal, x = diagonal_of(right, down), image.clone() if start is None else start.clone()
    residual, limit = image - apply(x, right, down), RESIDUAL**2 * _dot(image, image)
    direction, rho = None, None
    for iteration in range(ITERATIONS):
        active = _dot(residual, residual) > limit
        if iteration % 8 == 0 and not active.any():  # reading one flag makes a GPU wait, so not each time
            return x
        z = residual / diagonal
        new = _dot(residual, z)
        direction = z if direction is None else z + torch.where(active, new / rho, 0) * direction
        product, rho = apply(direction, right, down), new
        alpha = torch.where(active, rho / _dot(direction, product), 0)
        x = x + alpha * direction
        residual = residual - alpha * product
    raise BadInput(f"photos: the system was not solved after {ITERATIONS} iterations; use a smaller lam or a larger "
                   "eps_s, or solver direct")  # fmt: skip


def diagonal_of(right: Tensor, down: Tensor) -> Tensor:
    """The diagonal of 1 + L_w: one, and each pixel's four weights."""
    diagonal = 1 + right + down
    diagonal[..., 1:] += right[..., :-1]
    diagonal[..., 1:, :] += down[..., :-1, :]
    return diagonal


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)
