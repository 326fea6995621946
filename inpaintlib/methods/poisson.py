"""Poisson image editing (Pérez, Gangnet, Blake 2003), as Yeh et al. 2017 end their latent search.

Inside the hole the photo takes the gradients of a source, at its edge the values of the known pixels:
``min_x ||∇x - ∇g||²`` subject to ``x = y`` where y is known. With 4-neighbours N_i inside the image,

    |N_i| x_i - Σ_{j in N_i, hole} x_j  =  Σ_{j in N_i, known} y_j + Σ_{j in N_i} (g_i - g_j)        for i in the hole.

Put x = g + u, and the source drops out: u solves the same system with right-hand side Σ_{known} (y_j - g_j). It is the
membrane that carries the mismatch at the hole's edge inwards. The matrix is a function of the mask alone, so it is
factorised once for all photos and channels that share one. Neighbours outside the image do not exist (a free edge),
and each hole pixel is connected to a known one, so the matrix is never singular.
"""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from inpaintlib import BadInput
from inpaintlib.data import masks

FACTORISATION = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


@torch.no_grad()
def blend(photo: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The photo with its hole filled from ``source``, seamlessly: exact up to float64, clipped to [0, 1] once.

    Args:
        photo: (B,C,H,W) or (C,H,W) in [0,1]; what lies in its hole has no influence.
        source: of the same shape; its gradients count, not its level, so it may leave [0,1]: the ground truth plus a
            constant gives the ground truth back. It is also read at the known pixels beside the hole.
        mask: bool (B,1,H,W), or (1,1,H,W), (1,H,W) or (H,W) for all photos; True = hole.

    Returns the blended photos with the photo's shape, dtype and device; known pixels are bit-identical.

    Raises BadInput for shapes that do not fit, whole numbers, a mask without hole or without known pixel, values that
    are not finite.
    """
    photos, sources = (t if t.ndim == 4 else t[None] for t in (photo, source))
    if photos.ndim != 4 or photos.shape != sources.shape:
        raise BadInput(f"source has shape {tuple(source.shape)}, the photo {tuple(photo.shape)}: give both (B, C, H, W)"
                       " or both (C, H, W).")  # fmt: skip
    if not (photos.is_floating_point() and sources.is_floating_point()):
        raise BadInput(f"source is {source.dtype}, the photo {photo.dtype}: give floats, the photo's in [0, 1].")
    hole = mask[(None,) * max(0, 4 - mask.ndim)]
    if hole.ndim == 4 and len(hole) == 1:
        hole = hole.expand(len(photos), -1, -1, -1)
    masks.check(hole, photos)
    y, g = (t.detach().double().cpu().numpy() for t in (photos, sources))
    kinds, which = np.unique(hole.flatten(1).cpu().numpy(), axis=0, return_inverse=True)
    mismatch, membrane = np.where(hole.cpu().numpy(), 0.0, y - g), np.zeros_like(y)
    if not np.isfinite(mismatch).all() or not np.isfinite(g).all():
        raise BadInput("source or photo has values that are not finite: blend finite photos only.")
    for kind, flat in enumerate(kinds):
        rows = np.flatnonzero(which == kind)
        edge = mismatch[rows].reshape(-1, flat.size)  # photos x channels share one factorisation
        solved = np.zeros_like(edge)
        factors, neighbours = factorise(flat.reshape(hole.shape[-2:]))
        solved[:, flat] = factors.solve(neighbours @ edge.T).T
        membrane[rows] = solved.reshape(membrane[rows].shape)
    filled = torch.from_numpy((g + membrane).clip(0, 1)).to(photos)
    return torch.where(hole.to(photos.device), filled, photos).view_as(photo)


def factorise(hole: np.ndarray) -> tuple[SuperLU, sparse.csr_array]:
    """The system of one mask: bool (H,W), n holes -> (factors of its n x n matrix, hole-to-neighbour matrix n x HW).

    ``factors.solve(neighbours @ values)`` with ``values`` (HW, k), zero in the hole, is the right-hand side solved.
    """
    adjacent = adjacency(*hole.shape)[hole.ravel()]
    inside = adjacent[:, hole.ravel()]
    matrix = sparse.diags_array(adjacent.sum(1)) - inside
    return splu(matrix.tocsc(), **FACTORISATION), adjacent


def adjacency(height: int, width: int) -> sparse.csr_array:
    """(HW, HW), one where two pixels of an image are 4-neighbours; nothing wraps around."""
    down, right = (sparse.diags_array(np.ones(max(n - 1, 0)), offsets=1, shape=(n, n)) for n in (height, width))
    ahead = sparse.kron(down, sparse.eye_array(width)) + sparse.kron(sparse.eye_array(height), right)
    return (ahead + ahead.T).tocsr()
