"""What notebook 40 asks: what does an auto-encoder's code keep of a photo, and what does it cost?

Of an auto-encoder (:func:`measure_code`), on whole photos; *fine* are periods below 8 px, what one feature stands for:

======================= ===============================================================================================
lost_low, lost_high     the residual's power over the photo's, coarse and fine (0: nothing is lost, 1: all)
residual_low, _high     the residual's power, coarse and fine; ``high_less_low`` is their difference
correlation_removed     correlation of what the code took from a photo with what RTV took; ``blur_``: the same for a
                        blurred photo, as far from the photo as the reconstruction is
l1_structure, l1_photo  the reconstruction's distance to RTV's structure image, and to the photo
bilinear_l1             distance of a photo to itself reduced to an eighth and enlarged, both bilinear: what conv1x1
                        compares with; ``_structure``: of its structure image. ``bilinear_lost_low``, ``_high`` as above
rtv_ms, code_ms         milliseconds a photo of RTV's direct solver and of the encoder, both on the CPU
======================= ===============================================================================================
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

import inpaintlib
from inpaintlib import BadInput, metrics, pretrained
from inpaintlib.data import masks
from inpaintlib.data.photos import Photos
from inpaintlib.data.test_set import TestSet
from inpaintlib.files import lock, replacing
from inpaintlib.harness import figures
from inpaintlib.methods import rtv
from inpaintlib.methods.autoencoder import CAE

PATCH = 8  # px a side: what one feature stands for
FORMAT = 3  # raised when a change makes cached structure images stale


# Structure images


def filter_settings(size: int) -> rtv.Settings:
    """RTV for photos of ``size`` px: the published window is for 256 px and shrinks with them."""
    return rtv.Settings(sigma=rtv.MEDFE.sigma * size / 256)


def structures(photos: Tensor) -> Tensor:
    """Structure images of photos (B,3,S,S) in [0,1]."""
    return rtv.structure(photos, filter_settings(photos.shape[-1]))


def with_structures(photos: Photos) -> Photos:
    """The photos with their structure images behind them, uint8 (n,6,S,S); see :func:`kept_structures`."""
    return replace(photos, array=_kept(photos.array))


def kept_structures(photos: Tensor) -> Tensor:
    """Structure images of uint8 photos (n,3,S,S), in [0,1], rounded as bytes; read from disk, or made and kept there.

    The file, ``data/prepared/structure/<hash>.npy``, is named by the photos and the filter's settings, and appears when
    it is complete. Raises BadInput for a full disk and a damaged file.
    """
    return torch.from_numpy(_kept(photos.cpu().numpy())[:, 3:].astype(np.float32)) / 255


def _kept(array: np.ndarray, batch: int = 32) -> np.ndarray:
    settings = sorted(asdict(filter_settings(array.shape[-1])).items())
    digest = hashlib.sha256(repr((FORMAT, array.shape, settings)).encode())
    digest.update(np.ascontiguousarray(array))
    path = inpaintlib.DATA / "prepared" / "structure" / f"{digest.hexdigest()[:24]}.npy"
    with lock(path):
        if not path.exists():
            with replacing(path, "free some space and start again") as file:
                _write_structures(array, file.name, batch)
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"{path}: is damaged ({error}); delete it, and it is computed anew") from None


def _write_structures(array: np.ndarray, path: str, batch: int) -> None:
    both = np.lib.format.open_memmap(path, "w+", np.uint8, (len(array), 6, *array.shape[2:]))
    for start, stop in pairwise(tqdm([*range(0, len(array), batch), len(array)], desc="structure images")):
        photos = torch.from_numpy(np.array(array[start:stop]))
        images = (structures(photos.float() / 255) * 255).round().byte()
        both[start:stop] = torch.cat([photos, images], 1).numpy()
    both.flush()


# What comes back through a code


@torch.no_grad()
def measure_code(cae: CAE, photos: Tensor, ids: list[str], pictures: list[str] | None = None,
                 with_lpips: bool = False) -> tuple[dict, pd.DataFrame]:  # fmt: skip
    """Metrics of a run, and a row a photo, of what comes back of photos uint8 (n,3,S,S); names at the top."""
    parts, rows = [], []
    for some, images in zip(photos.split(64), kept_structures(photos).split(64), strict=True):
        truth, images = some.to(cae.device).float() / 255, images.to(cae.device)
        back = cae.reconstruct(truth).clamp(0, 1)
        columns = {name: getattr(metrics, name)(back, truth) for name in ("l1", "psnr", "ssim")}
        if with_lpips:
            columns["lpips"] = pretrained.lpips("alex", truth.device)(back, truth)
        columns |= resemblance(back, truth, images)
        control = resemblance(equally_blurred(truth, back), truth, images)
        columns["blur_correlation_removed"] = control["correlation_removed"]
        columns |= {f"bilinear_l1{name}": metrics.l1(reduced(each), each)
                    for name, each in (("", truth), ("_structure", images))}  # fmt: skip
        rows.append(pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}))
        parts.append(back.cpu())
    per_image, truth = pd.concat(rows, ignore_index=True), photos.cpu().float() / 255
    scores = per_image.mean().to_dict() | losses_by_period(torch.cat(parts), truth)
    bilinear = losses_by_period(reduced(truth), truth)
    scores |= {f"bilinear_{name}": bilinear[name] for name in ("lost_low", "lost_high")}
    per_image.insert(0, "id", ids)
    per_image.insert(1, "picture", pictures or ids)
    return scores | {"n_photos": len(photos), "n_pictures": per_image["picture"].nunique()}, per_image


def losses_by_period(back: Tensor, truth: Tensor) -> dict[str, float]:
    """lost_low, lost_high, residual_low, residual_high and high_less_low of reconstructions (n,3,S,S)."""
    spectrum = residual_spectrum(back, truth)
    fine = spectrum["frequency"] > 1 / PATCH
    found = {}
    for name, rings in (("low", ~fine & (spectrum["frequency"] > 0)), ("high", fine)):
        residual, photo = (float(spectrum[of][rings].sum()) for of in ("residual", "photo"))
        found |= {f"lost_{name}": residual / photo, f"residual_{name}": residual}
    return found | {"high_less_low": found["residual_high"] - found["residual_low"]}


def reduced(photos: Tensor) -> Tensor:
    """Photos (n,3,S,S) with what is left of them at an eighth of the size, as MEDFE's 1x1 constraint sees them."""
    small = F.interpolate(photos, scale_factor=1 / PATCH, mode="bilinear", align_corners=False)
    return F.interpolate(small, size=photos.shape[-2:], mode="bilinear", align_corners=False)


def equally_blurred(truth: Tensor, back: Tensor) -> Tensor:
    """Each photo (n,3,S,S) under the Gaussian blur whose L1 distance from it is nearest to that of ``back``."""
    goal, nearest = metrics.l1(back, truth), truth
    for sigma in np.geomspace(0.3, truth.shape[-1] / 4, 24):
        blurred = blur(truth, sigma)
        miss, least = ((metrics.l1(each, truth) - goal).abs() for each in (blurred, nearest))
        nearest = torch.where((miss < least)[:, None, None, None], blurred, nearest)
    return nearest


def blur(photos: Tensor, sigma: float) -> Tensor:
    """A Gaussian of ``sigma`` px, photos (n,3,S,S) mirrored at their edges."""
    return gaussian_blur(photos, 2 * min(int(3 * sigma) + 1, photos.shape[-1] - 1) + 1, float(sigma))


def radial_power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the spectrum images have their energy: square images (B,C,S,S) -> two (K,), K the rings.

    The first is each ring's frequency, k/S cycles/px for k = 0, 1, ... up to the corner; the second its power, the mean
    over images and channels, in squared units of the images. The powers add up to the images' mean square.
    """
    side = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != side:
        raise BadInput(f"images: have shape {tuple(images.shape)}, but must be square, (B, C, S, S)")
    power = (torch.fft.fft2(images.double()).abs() / side**2).square().mean((0, 1))
    frequency = torch.fft.fftfreq(side, dtype=torch.double, device=images.device)
    ring = (torch.hypot(frequency[:, None], frequency) * side).round().long()
    rings = torch.zeros(int(ring.max()) + 1, dtype=torch.double, device=images.device)
    rings.index_add_(0, ring.flatten(), power.flatten())
    return torch.arange(len(rings), device=images.device) / side, rings


def residual_spectrum(reconstructions: Tensor, photos: Tensor) -> dict[str, Tensor]:
    """What reconstructions have lost of photos, both (B,3,S,S), by frequency.

    ``frequency`` (cycles/px), ``photo`` and ``residual`` (`radial_power` of photos and of errors) and ``lost``, their
    ratio: 0 where all is kept, 1 where the reconstruction has nothing.
    """
    frequency, photo = radial_power(photos)
    residual = radial_power(reconstructions - photos)[1]
    return {"frequency": frequency, "photo": photo, "residual": residual, "lost": residual / photo.clamp(min=1e-12)}


def resemblance(reconstructions: Tensor, photos: Tensor, structures: Tensor) -> dict[str, Tensor]:
    """Is what a code keeps the structure that RTV keeps? Images (B,3,H,W) in [0,1] -> numbers a photo, each (B,).

    ``correlation`` of reconstruction and structure image (Pearson). It is near 1 for whatever resembles the photo, so
    the telling ones are ``correlation_removed``, of what each has taken from the photo, and ``l1_structure`` beside
    ``l1_photo``: the reconstruction's distance to either. A blurred photo instead of the reconstruction is the control.
    """
    return {
        "correlation": _pearson(reconstructions, structures),
        "correlation_removed": _pearson(photos - reconstructions, photos - structures),
        "l1_structure": metrics.l1(reconstructions, structures),
        "l1_photo": metrics.l1(reconstructions, photos),
    }


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each pair's values about their channels' means; 0 where one is constant."""
    a, b = ((x.double() - x.double().mean((-2, -1), keepdim=True)).flatten(1) for x in (a, b))
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1).float()


# Costs, test sets, figures


def milliseconds(function: Callable[[Tensor], object], photos: Tensor, turns: int = 5) -> float:
    """Milliseconds a photo of a function of photos (n,3,S,S): the median of some turns after a first."""
    seconds = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        function(photos)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[1:])) / len(photos)


def costs(cae: CAE, photos: Tensor) -> dict[str, float]:
    """rtv_ms and code_ms, of photos (n,3,S,S) in [0,1] on the CPU, wherever the code was trained."""
    on_cpu = CAE(cae.settings, device="cpu", precision="fp32", acceleration="eager")
    on_cpu.network.load_state_dict(cae.network.state_dict())
    return {"rtv_ms": milliseconds(structures, photos[:4]), "code_ms": milliseconds(on_cpu.encode, photos[:64])}


def digest(photos: Tensor, ids: list[str]) -> str:
    """The hash of test photos uint8 (n,3,S,S) under the centre hole: of the TestSet that MEDFE is measured on."""
    return TestSet.make("", photos, masks.centre(len(photos), photos.shape[-1]), ids).hash


def lost_by_frequency(spectra: dict[str, list[pd.DataFrame]]):
    """Power of the error over the photo's against frequency: one line an arm, the mean over its seeds with range.

    Up to half a cycle a pixel: the few diagonal waves beyond have next to no power to lose.
    """
    spectra = {arm: [run[run["frequency"] <= 0.5] for run in runs] for arm, runs in spectra.items()}
    ax = figures.curves(spectra, "lost", label="power of the error over the photo's", x="frequency")
    ax.axvline(1 / PATCH, color="0.8", lw=1, zorder=0)
    ax.text(1 / PATCH, 1, " period of 8 px", transform=ax.get_xaxis_transform(), fontsize=8, va="top")
    ax.set(xlabel="frequency, cycles a pixel", ylim=(0, None))
    return ax.figure
