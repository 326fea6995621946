"""How good is a completed photo? ``evaluate`` puts one Inpainter on one TestSet and measures the hole and the whole.

Everything is measured on photos quantised to uint8, as they would be stored, and in two regions: the *composite* (the
whole photo) and the *hole*. An Inpainter leaves known pixels alone, so the composite's error is the hole's, diluted by
the fraction of hole pixels r: mse = r mse_hole, and psnr = psnr_hole - 10 log10(r).

============= ========= ============================================================================================
metric        better    definition
============= ========= ============================================================================================
psnr          higher    dB, 10 log10(1 / mse) of each photo, mean of photos (the papers'); ``_pooled``: of the mse of
                        all pixels of all photos together (torchmetrics' default), which hard photos pull down
ssim          higher    Wang et al. 2004, Gaussian window of sigma 1.5, data range 1; ``_hole``: the SSIM map over the
                        hole, whose windows reach 5 pixels beyond it
l1            lower     mean |difference|, a fraction of the range
lpips         lower     Zhang et al. 2018, version 0.1, AlexNet
fid, kid      lower     pytorch-fid's Inception features of composites against those of their ground truths;
                        ``_hole``: of the holes' bounding squares. Fewer than 10,000 photos bias FID upwards (it then
                        compares only methods of one TestSet): lead with KID, which has no bias. KID leaves out each
                        composite's pair with its own ground truth, so the ground truth scores 0
sharpness     near 1    |Laplacian| of the prediction over that of the ground truth, each summed over the inner hole
seam          near 0    mean |jump| across the hole's edge, less the ground truth's; a fraction of the range
============= ========= ============================================================================================
"""

import gzip
import io
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

import inpaintlib
from inpaintlib import BadInput, Inpainter, files, pretrained
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet
from inpaintlib.methods import classical

NETWORKS = ("lpips", "inception")
TRIVIAL = {"grey": "mid-grey", "mean_colour": "mean colour", "membrane": "membrane", "telea": "Telea"}
"""The fills that no network may lose to: their key in `classical.FILLS` and the name of their arm in tables."""
OF_MACHINE = ("images_per_second", "seconds", "peak_memory_gb")
GREY_LEVEL = 1 / 255
RANGE_TOLERANCE = 1e-3  # of [0, 1]: less than what quantisation erases

# One number for each photo: float64 (B,), of photos (B, 3, H, W) in [0, 1] and masks bool (B, 1, H, W)


def quantise(photos: Tensor) -> Tensor:
    """Photos in [0, 1] to the nearest of 256 grey levels, still float in [0, 1]."""
    return photos.mul(255).round().clamp(0, 255).div(255)


def mse(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error, within ``mask`` if given."""
    return _mean((prediction - truth).square(), mask)


def l1(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error, a fraction of the range, within ``mask`` if given."""
    return _mean((prediction - truth).abs(), mask)


def psnr(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, within ``mask`` if given.

    A perfect region, whose PSNR would be infinite, gets that of one channel of one pixel wrong by one grey level,
    48.1 + 10 log10(3 pixels) dB: finite, and above every other.
    """
    pixels = torch.full((len(truth),), truth[0, 0].numel()).to(truth) if mask is None else mask.sum((1, 2, 3))
    return _decibel(mse(prediction, truth, mask), pixels.double())


def _decibel(error: Tensor, pixels: Tensor) -> Tensor:
    """PSNR of a mean squared error over so many RGB pixels."""
    return -10 * torch.maximum(error, GREY_LEVEL**2 / (3 * pixels)).log10()


def ssim(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity in [-1, 1], torchmetrics' map averaged over the photo, or within ``mask``.

    The map's border, which sees mirrored padding, is averaged in: at 128 px that gives about .03 more than the usual
    average over the map cropped by the window's 5 px, because the known border of a composite scores 1.
    """
    return _mean(_ssim_map(prediction, truth), mask)


def _ssim_map(prediction: Tensor, truth: Tensor) -> Tensor:
    how = {"sigma": 1.5, "data_range": 1.0, "reduction": "none", "return_full_image": True}
    return structural_similarity_index_measure(prediction, truth, **how)[1]


def laplacian(photos: Tensor, mask: Tensor) -> Tensor:
    """Sum of |4 pixel - its 4 neighbours| over the *inner* hole and the channels.

    The inner hole are the hole pixels whose 4 neighbours exist and are hole: no seam enters. Scattered single pixels
    have none, and their sum is 0.
    """
    inner = torch.stack(_cross(mask)).all(0)
    centre, above, below, left, right = _cross(photos)
    value = 4 * centre - above - below - left - right
    return (value.abs() * inner).sum((1, 2, 3), dtype=torch.float64)


def _cross(x: Tensor) -> tuple[Tensor, ...]:
    """Each pixel inside the frame, then its neighbours above, below, left and right: 5 views (B, C, H - 2, W - 2)."""
    middle = slice(1, -1)
    return (x[..., middle, middle], x[..., :-2, middle], x[..., 2:, middle], x[..., middle, :-2], x[..., middle, 2:])


def sharpness(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """|Laplacian| of the prediction over the ground truth's: 1 as sharp, 0 flat; nan where the ground truth's inner
    hole is flat or empty."""
    of_truth = laplacian(truth, mask)
    return torch.where(of_truth > 0, laplacian(prediction, mask) / of_truth, torch.nan)


def seam(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Visibility of the hole's edge: the mean |difference| of neighbours of which one is hole and one is known
    (horizontal and vertical pairs, all channels), in the composite less in the ground truth. Below 0: smoother than
    the ground truth."""
    across, pairs = 0.0, 0
    for axis in (2, 3):
        edge = mask.diff(dim=axis)  # bool: exclusive or
        jump = prediction.diff(dim=axis).abs() - truth.diff(dim=axis).abs()
        across = across + (jump * edge).sum((1, 2, 3), dtype=torch.float64)
        pairs = pairs + edge.sum((1, 2, 3))
    return across / (prediction.shape[1] * pairs)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean((1, 2, 3), dtype=torch.float64)
    return (values * mask).sum((1, 2, 3), dtype=torch.float64) / (values.shape[1] * mask.sum((1, 2, 3)))


# One number for two sets of photos, from features


def inception_score(logits: Tensor) -> float:
    """exp of the mean Kullback-Leibler divergence of photos' class probabilities from their mean, of logits (n, k).

    Salimans et al. 2016: from 1 (all photos alike, or none recognised) to k; higher is better; no ground truth enters.
    Of its variants: the logits are the whole last layer's with its bias (1008 outputs), and all photos are one set, not
    a mean over ten splits. The "IScore" of Liu 2018 is lower for better and something else.
    """
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - np.log(len(logits))
    return float((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())


def fid(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (n, d) and (m, d) (Heusel et al. 2017, Eq. 6):
    |mean1 - mean2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    With C = X^T X of the centred features X, scaled by 1 / sqrt(n - 1), the trace of (C1 C2)^(1/2) is the sum of the
    singular values of X1 X2^T. That is exact also where n < d makes C singular, and needs no matrix square root.
    Raises BadInput for fewer than 2 photos.
    """
    _check_features(first, second)
    distance, factors = (first.double().mean(0) - second.double().mean(0)).square().sum(), []
    for features in (first.double(), second.double()):
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        distance = distance + centred.square().sum()
        factors.append(torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred)
    return float(distance - 2 * torch.linalg.svdvals(factors[0] @ factors[1].T).sum())


def kid(first: Tensor, second: Tensor, paired: bool = False) -> float:
    """Kernel distance of features (n, d) and (m, d): the unbiased squared MMD with the kernel (x.y / d + 1)^3
    (Bińkowski et al. 2018, Eq. 4), which may fall below 0.

    All pairs of photos enter; the usual mean over random subsets of 1000 estimates this number. ``paired``: photo i of
    both sets is one photo, as a composite and its own ground truth are; then the pairs i = j are left out between the
    sets as they are within them, and a set's distance to itself is exactly 0 (Gretton et al. 2012, Eq. 4). Raises
    BadInput for fewer than 2 photos, and for paired sets of different sizes.
    """
    _check_features(first, second)
    if paired and len(first) != len(second):
        raise BadInput(f"paired sets have as many photos each, not {len(first)} and {len(second)}.")
    x, y = first.double(), second.double()
    between = _mean_of_pairs(x, y) if paired else _kernel_sum(x, y) / (len(x) * len(y))
    return float(_mean_of_pairs(x, x) + _mean_of_pairs(y, y) - 2 * between)


def kernel(first: Tensor, second: Tensor) -> Tensor:
    """KID's kernel of each feature of (n, d) with each of (m, d): (n, m)."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return sum(kernel(rows, y).sum() for rows in x.split(1024))


def _mean_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """The kernel's mean over all pairs of different photos, of two sets of n."""
    n, alike = len(x), ((x * y).sum(1) / x.shape[1] + 1) ** 3
    return (_kernel_sum(x, y) - alike.sum()) / (n * (n - 1))


def _check_features(first: Tensor, second: Tensor) -> None:
    if min(len(first), len(second)) < 2:
        raise BadInput(f"FID and KID need at least 2 photos on each side, not {len(first)} and {len(second)}.")


def hole_crops(photos: Tensor, mask: Tensor, size: int = 299) -> Tensor:
    """The hole's bounding square in each photo, resized bilinearly as FID's network resizes: (B, 3, size, size).

    The square has the longer side of the hole's bounding box, at most the photo's shorter side, and lies around the
    box's centre, moved inside the photo where it would leave it.
    """
    height, width = mask.shape[-2:]
    (top, bottom), (left, right) = _extent(mask.any(3)[:, 0]), _extent(mask.any(2)[:, 0])
    side = torch.maximum(bottom - top, right - left).clamp(max=min(height, width))
    top = torch.minimum(((top + bottom - side) // 2).clamp(min=0), height - side)
    left = torch.minimum(((left + right - side) // 2).clamp(min=0), width - side)
    crops = [
        F.interpolate(photo[None, :, y : y + s, x : x + s], size=(size, size), mode="bilinear", align_corners=False)
        for photo, y, x, s in zip(photos, top.tolist(), left.tolist(), side.tolist(), strict=True)
    ]
    return torch.cat(crops)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First True and one past the last, of each row of a bool (B, n)."""
    return occupied.int().argmax(1), occupied.shape[1] - occupied.flip(1).int().argmax(1)


# A method on a set of photos


class Evaluation(dict):
    """Metric name -> number, as in metrics.json, with the measurements behind them.

    ``per_image``: a row for each photo: id, picture, hole_ratio, pixels, and its mse, psnr, ssim, l1 (each also
    ``_hole``), laplacian and laplacian_truth (sums over the inner hole), sharpness, seam, lpips. ``composites``: the
    completed photos, uint8 (n, 3, H, W), on the CPU; None where they were not kept. ``features``: with "inception",
    those of the composites and of the true photos, (n, 2048) both, by the ending of their metrics ("" and "_hole").
    """

    def __init__(self, metrics: dict, per_image: pd.DataFrame, composites: Tensor | None = None, features=None):
        super().__init__(metrics)
        self.per_image, self.composites = per_image, composites
        self.features: dict[str, tuple[Tensor, Tensor]] = features or {}


def evaluate(inpainter: Inpainter, test_set: TestSet, *, networks: Sequence[str] = NETWORKS, batch: int = 64,
             device: str | torch.device | None = None) -> Evaluation:  # fmt: skip
    """Complete every photo of the test set and measure (see the table at the top of this file).

    ``inpainter`` gets ``batch`` photos at a time on ``device`` (the GPU if there is one, else the CPU), without
    gradients, which it may enable. To :func:`score`'s metrics come ``images_per_second`` of the inpainter alone (the
    median batch, so that warming up does not count), ``seconds`` of the whole evaluation and ``peak_memory_gb`` (GiB;
    of the GPU while inpainting, or of this process so far).

    Raises BadInput as `score`, and when the inpainter returns another shape, numbers that are not finite or outside
    [0, 1], or known pixels that differ from the photo's.
    """
    _check_networks(networks)
    start, device = time.perf_counter(), _device(device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    composites, speeds, peaks, done = [], [], [], 0
    with torch.no_grad():
        for photos, mask in test_set.batches(batch, device):
            before = time.perf_counter()
            filled = inpainter(photos.clone(), mask.clone())
            if gpu:
                torch.cuda.synchronize(device)
            speeds.append(len(photos) / (time.perf_counter() - before))
            peaks.append(_peak_memory(device))
            _check_contract(filled, photos, mask, test_set.ids[done : done + len(photos)])
            composites.append(quantise(filled.float()).mul(255).round().byte().cpu())
            done += len(photos)
    found = score(torch.cat(composites), test_set, networks=networks, batch=batch, device=device)
    speed = {"images_per_second": float(np.median(speeds)), "seconds": time.perf_counter() - start}
    found |= speed | {"peak_memory_gb": max(peaks), "test_set": found.pop("test_set")}
    return found


@torch.no_grad()
def score(composites: Tensor, test_set: TestSet, *, networks: Sequence[str] = NETWORKS, batch: int = 64,
          device: str | torch.device | None = None) -> Evaluation:  # fmt: skip
    """The metrics of completed photos, uint8 (n, 3, H, W), with ``test_set`` (hash), ``n_photos`` and ``n_pictures``.

    ``networks``: "lpips" adds lpips; "inception" adds fid, fid_hole, kid and kid_hole, and inception_score where
    `pretrained.classifier` is there. The true photos' features are kept in ``data/prepared/features``. Raises BadInput
    for an unknown network.
    """
    _check_networks(networks)
    device = _device(device)

    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for some, (photos, mask) in zip(composites.split(batch), test_set.batches(batch, device), strict=True):
            yield some.to(device).float() / 255, photos, mask

    rows = [_measure(*part, "lpips" in networks) for part in parts()]
    per_image = pd.concat(rows, ignore_index=True)
    per_image.insert(0, "id", test_set.ids)
    per_image.insert(1, "picture", test_set.pictures)
    metrics, pairs = summarise(per_image), {}
    if "inception" in networks:
        network = pretrained.inception(device)
        ours = _features(network, ((composite, mask) for composite, _, mask in parts()))
        for where, truth in _truth_features(network, test_set, batch, device).items():
            pairs[where] = ours[where], truth
            metrics[f"fid{where}"], metrics[f"kid{where}"] = fid(*pairs[where]), kid(*pairs[where], paired=True)
        if layer := pretrained.classifier():
            metrics["inception_score"] = inception_score(layer(pairs[""][0].float()))
    return Evaluation(metrics | {"test_set": test_set.hash}, per_image, composites, pairs)


def summarise(per_image: pd.DataFrame) -> dict[str, float]:
    """The metrics of a set of photos from the rows of its photos.

    Means of photos, but for the pooled PSNRs (of all their pixels), sharpness (ratio of sums), ``n_photos`` and
    ``n_pictures``, from which these were cut.
    """
    pixels, hole = per_image["pixels"], per_image["pixels"] * per_image["hole_ratio"]
    means = ["hole_ratio", "psnr", "psnr_hole", "ssim", "ssim_hole", "l1", "l1_hole", "lpips", "seam"]
    metrics = {name: float(per_image[name].mean()) for name in means if name in per_image}
    for name, error, weight in (("psnr_pooled", "mse", pixels), ("psnr_hole_pooled", "mse_hole", hole)):
        mean = (per_image[error] * weight).sum() / weight.sum()
        metrics[name] = float(_decibel(torch.tensor(mean), torch.tensor(weight.sum(), dtype=torch.float64)))
    of_truth = per_image["laplacian_truth"].sum()
    metrics["sharpness"] = float(per_image["laplacian"].sum() / of_truth) if of_truth else float("nan")
    return metrics | {"n_photos": len(per_image), "n_pictures": per_image["picture"].nunique()}


def measure_trivial_fills(test_set: TestSet, networks: Sequence[str] = (),
                          device: str | torch.device | None = None) -> dict[str, Evaluation]:  # fmt: skip
    """The `Evaluation` of each fill of ``TRIVIAL`` by its arm's name, without composites, features, times and memory.

    What was measured is kept in ``results/trivial_fills/<first 16 digits of the test set's hash>/``: metrics.json,
    {arm: {metric: value}} to 6 digits, and per_image.csv.gz, of which the first column is ``arm``. It is read again
    when it has these ``networks`` and pictures; otherwise all fills are measured again. Several processes may call this
    at once. Raises BadInput as `evaluate` does.
    """
    folder = inpaintlib.RESULTS / "trivial_fills" / test_set.hash[:16]
    kept, there = _read_trivial_fills(folder, test_set)
    if kept and set(networks) <= there:  # without the lock, which who measures with Inception holds for minutes
        return kept
    with files.lock(folder):
        kept, there = _read_trivial_fills(folder, test_set)
        if not (kept and set(networks) <= there):
            wanted, metrics, rows = [name for name in NETWORKS if name in {*there, *networks}], {}, []
            for fill, arm in TRIVIAL.items():
                found = evaluate(classical.FILLS[fill], test_set, networks=wanted, device=device)
                metrics[arm] = {name: float(f"{value:.6g}") if isinstance(value, float) else value
                                for name, value in found.items() if name not in OF_MACHINE}  # fmt: skip
                found.per_image.insert(0, "arm", arm)
                rows.append(found.per_image)
            text = pd.concat(rows).to_csv(index=False, float_format="%.5g", lineterminator="\n")
            files.write_atomically(folder / "per_image.csv.gz", gzip.compress(text.encode(), mtime=0))
            files.write_json(folder / "metrics.json", metrics)  # last: its presence says that all is there
            kept, _ = _read_trivial_fills(folder, test_set)
    return kept


def _read_trivial_fills(folder: Path, test_set: TestSet) -> tuple[dict[str, Evaluation], set[str]]:
    """The fills kept of a test set with these pictures, by arm, and the networks that measured them all.

    Both are empty where the files are absent or damaged, or lack a fill.
    """
    try:
        metrics = files.read_json(folder / "metrics.json")
        table = pd.read_csv(folder / "per_image.csv.gz", dtype={"id": str, "picture": str})
        rows = {arm: of.drop(columns="arm").reset_index(drop=True) for arm, of in table.groupby("arm")}
        kept = {arm: Evaluation(metrics[arm], rows[arm]) for arm in TRIVIAL.values()}
    except (BadInput, OSError, LookupError, ValueError, TypeError, AttributeError):
        return {}, set()
    if not all(list(one.per_image["picture"]) == list(test_set.pictures) for one in kept.values()):
        return {}, set()
    signs = {"lpips": "lpips", "inception": "kid"}
    return kept, {name for name, sign in signs.items() if all(sign in one for one in kept.values())}


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_networks(networks: Sequence[str]) -> None:
    if unknown := set(networks) - set(NETWORKS):
        raise BadInput(f"networks={sorted(unknown)} cannot measure: choose from {', '.join(NETWORKS)}.")


def _measure(prediction: Tensor, truth: Tensor, mask: Tensor, with_lpips: bool) -> pd.DataFrame:
    similarity = _ssim_map(prediction, truth)
    columns = {
        "hole_ratio": masks.hole_ratio(mask),
        "pixels": torch.full((len(truth),), truth[0, 0].numel()),
        "mse": mse(prediction, truth),
        "mse_hole": mse(prediction, truth, mask),
        "psnr": psnr(prediction, truth),
        "psnr_hole": psnr(prediction, truth, mask),
        "ssim": _mean(similarity, None),
        "ssim_hole": _mean(similarity, mask),
        "l1": l1(prediction, truth),
        "l1_hole": l1(prediction, truth, mask),
        "laplacian": laplacian(prediction, mask),
        "laplacian_truth": laplacian(truth, mask),
        "sharpness": sharpness(prediction, truth, mask),
        "seam": seam(prediction, truth, mask),
    }
    if with_lpips:
        columns["lpips"] = pretrained.lpips("alex", truth.device)(prediction, truth)
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _features(network: torch.nn.Module, parts: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Features (n, 2048) of the photos ("") and of their hole squares ("_hole"), of parts (photos, masks)."""
    found = [(network(photos).cpu(), network(hole_crops(photos, mask)).cpu()) for photos, mask in parts]
    return dict(zip(("", "_hole"), map(torch.cat, zip(*found, strict=True)), strict=True))


def _truth_features(network, test_set: TestSet, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Features of the true photos, from the disk if they are there."""
    path = inpaintlib.DATA / "prepared" / "features" / f"{test_set.hash}.pt"
    try:
        features = torch.load(path, weights_only=True)
        if all(len(features[where]) == len(test_set) for where in ("", "_hole")):
            return features
    except Exception:  # absent or damaged: it is computed again
        pass
    features = _features(network, test_set.batches(batch, device))
    torch.save(features, buffer := io.BytesIO())
    files.write_atomically(path, buffer.getvalue())
    return features


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _check_contract(filled: Tensor, photos: Tensor, mask: Tensor, ids: Sequence[str]) -> None:
    if not isinstance(filled, Tensor) or filled.shape != photos.shape:
        what = f"shape {tuple(filled.shape)}" if isinstance(filled, Tensor) else type(filled).__name__
        wrong = f"returned {what}: return photos of the shape it was given, {tuple(photos.shape)}"
    elif not (finite := filled.isfinite().flatten(1).all(1)).all():
        wrong = f"returned numbers that are not finite for photo {ids[int(finite.int().argmin())]}"
    elif filled.min() < -RANGE_TOLERANCE or filled.max() > 1 + RANGE_TOLERANCE:
        low, high = filled.min().item(), filled.max().item()
        wrong = f"returned values from {low:.3g} to {high:.3g}: photos are in [0, 1], clamp them"
    elif (change := ((filled - photos).abs() * ~mask).flatten(1).amax(1)).max() > RANGE_TOLERANCE:
        wrong = (
            f"changed known pixels of photo {ids[int(change.argmax())]} by up to {change.max():.3g}: "
            "return torch.where(mask, prediction, photos)"
        )
    else:
        return
    raise BadInput(f"the inpainter {wrong}.")
