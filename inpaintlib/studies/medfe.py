"""What notebooks 40 to 42 ask: what an auto-encoder's code keeps of a photo, and what MEDFE's two branches hold.

Of an auto-encoder (:func:`measure_code`), on whole photos:

=================== ===================================================================================================
lost_low, lost_high residual's power over the photo's at periods above and below 8 px (0 nothing lost, 1 all)
correlation_removed correlation of what the code took from a photo with what RTV took; ``blur_``: what a blur took that
                    is as far from the photo as the reconstruction
rtv_ms, code_ms     milliseconds a photo of RTV's direct solver and of the encoder, both on the CPU
=================== ===================================================================================================

Of MEDFE's filled features, at all positions that lie wholly in the hole (:func:`examine`), for the texture and the
structure branch; the *truth* there is the photo's 8x8 px patch, 192 numbers:

=================== ===================================================================================================
probe               R² of the best linear map from features to truth (ridge), fitted on training photos, on test photos
cka                 linear CKA of features and truth (Kornblith et al. 2019), in [0, 1]
rank                effective rank of the features: exp of the entropy of their singular values (Roy, Vetterli 2007)
probe_lost          what the texture probe loses without the three directions that the 1x1 convolution reads
swap_change         relative change of L_rte when photos exchange all that lies outside these directions
code_error          L1 distance to the two codes over that of zeros: 1 or above, nothing of a code is met
code_variation      the codes' standard deviation over photos and places, channel by channel, over their root mean
                    square: near 0, the target is the same whatever the photo
=================== ===================================================================================================
"""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from inpaintlib import BadInput, metrics, pretrained
from inpaintlib.data import masks
from inpaintlib.data.photos import Photos
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures, sweep
from inpaintlib.harness.runs import Run
from inpaintlib.harness.tables import Results
from inpaintlib.methods import autoencoder, medfe, rtv
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.medfe import MEDFE

PATCH = 8  # px a side: what one feature stands for
DAMPING = 1e-3  # of the ridge, in units of the features' mean variance


def filter_settings(size: int) -> rtv.Settings:
    """RTV for photos of ``size`` px: the published window is for 256 px and shrinks with them."""
    return rtv.Settings(sigma=rtv.MEDFE.sigma * size / 256)


def with_structures(photos: Photos) -> Photos:
    """The photos with their structure images behind them (n,6,S,S), made once and kept on disk."""
    array = rtv.cached(photos.array, filter_settings(photos.array.shape[-1]))
    return Photos(array, photos.ids, photos.name)


def structures(photos: Tensor) -> Tensor:
    """Structure images of photos (B,3,S,S) in [0,1]."""
    return rtv.structure(photos, filter_settings(photos.shape[-1]))


# Auto-encoders


def trained_codes(settings: medfe.Settings, study: str, preset: str, device: str = "auto",
                  **wanted) -> tuple[CAE, CAE] | None:  # fmt: skip
    """The auto-encoders of texture and structure that a network of these settings compares with, or None.

    They are the finished runs of notebook 40 with the arms ``texture`` and ``structure``, of this preset, size and half
    this width, and with what else is ``wanted`` (dataset, seed). Raises BadInput where one is missing, with the command
    that makes it.
    """
    if not settings.constraint.startswith("cae"):
        return None
    if settings.width % 2:
        raise BadInput(f"width: {settings.width} will not do with {settings.constraint}; auto-encoders are half as "
                       "wide, so it must be even")  # fmt: skip
    wanted |= {"size": settings.size, "width": settings.width // 2}
    found = {kind: sweep.finished(study, preset, arm=kind, **wanted).folder for kind in autoencoder.KINDS}
    return tuple(autoencoder.load(folder / "weights.pt", device, kind) for kind, folder in found.items())


@torch.no_grad()
def measure_code(cae: CAE, photos: Tensor, ids: list[str], with_lpips: bool = False) -> tuple[dict, pd.DataFrame]:
    """Metrics of a run, and a row a photo, of what comes back of photos uint8 (n,3,S,S); names at the top."""
    parts, rows = [], []
    for some in photos.to(cae.device).split(64):
        truth = some.float() / 255
        back, images = cae.reconstruct(truth).clamp(0, 1), structures(truth)
        columns = {name: getattr(metrics, name)(back, truth) for name in ("l1", "psnr", "ssim")}
        if with_lpips:
            columns["lpips"] = pretrained.lpips("alex", truth.device)(back, truth)
        columns |= autoencoder.resemblance(back, truth, images)
        control = autoencoder.resemblance(equally_blurred(truth, back), truth, images)
        columns["blur_correlation_removed"] = control["correlation_removed"]
        rows.append(pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}))
        parts.append(back.cpu())
    per_image = pd.concat(rows, ignore_index=True)
    spectrum = autoencoder.residual_spectrum(torch.cat(parts), photos.float() / 255)
    fine = spectrum["frequency"] > 1 / PATCH
    lost = {name: float(spectrum["residual"][rings].sum() / spectrum["photo"][rings].sum())
            for name, rings in (("lost_low", ~fine & (spectrum["frequency"] > 0)), ("lost_high", fine))}  # fmt: skip
    per_image.insert(0, "id", ids)
    return per_image.drop(columns="id").mean().to_dict() | lost | {"n_photos": len(photos)}, per_image


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


def milliseconds(function: Callable[[Tensor], object], photos: Tensor, turns: int = 5) -> float:
    """Milliseconds a photo of a function of photos (n,3,S,S): the median of some turns after a first."""
    seconds = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        function(photos)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[1:])) / len(photos)


def code_milliseconds(cae: CAE, photos: Tensor) -> float:
    """Milliseconds a photo that the encoder takes on the CPU, wherever it was trained."""
    on_cpu = CAE(cae.settings, device="cpu", precision="fp32", acceleration="eager")
    on_cpu.network.load_state_dict(cae.network.state_dict())
    return milliseconds(on_cpu.encode, photos)


def digest(photos: Tensor, ids: list[str]) -> str:
    """The hash of test photos uint8 (n,3,S,S) under the centre hole: of the TestSet that MEDFE is measured on."""
    return TestSet.make("", photos, masks.centre(len(photos), photos.shape[-1]), ids).hash


# Branches


def in_hole(features: Tensor, holes: Tensor) -> Tensor:
    """Features (B,C,h,w) at the positions of which the whole patch is hole, (N,C); holes bool (B,1,8h,8w)."""
    inside = F.avg_pool2d(holes.float(), PATCH)[:, 0] == 1
    return features.movedim(1, -1)[inside]


def probe(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> float:
    """R² on the test rows of a ridge regression of y (N,k) on x (N,C); 0 where a constant would do as well."""
    x, y, x_test, y_test = (part.double() for part in (x, y, x_test, y_test))
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = x - mean_x
    gram = a.T @ a
    damping = DAMPING * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=x.dtype)
    weights = torch.linalg.solve(gram + damping, a.T @ (y - mean_y))
    error = y_test - mean_y - (x_test - mean_x) @ weights
    return float(1 - error.square().sum() / (y_test - y_test.mean(0)).square().sum())


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of (N,C) and (N,k): 1 where they are equal up to rotation and scale."""
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-30))


def effective_rank(x: Tensor) -> float:
    """Of (N,C) rows about their mean: from 1 to C."""
    values = torch.linalg.svdvals(x.double() - x.double().mean(0))
    shares = values / values.sum().clamp(min=1e-30)
    return float(torch.special.entr(shares).sum().exp())


def without_read(features: Tensor, weight: Tensor) -> Tensor:
    """Features (N,C) without what lies in the row space of ``weight`` (3,C): what a 1x1 convolution cannot see."""
    basis = torch.linalg.qr(weight.double().T).Q
    return features.double() - features.double() @ basis @ basis.T


@torch.no_grad()
def _filled(method: MEDFE, photos: Tensor, holes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of structure and of texture, and the truth's patches, on the CPU: (B,C,h,w) each, of uint8 photos."""
    parts = []
    for some, hole in zip(photos.split(32), holes.split(32), strict=True):
        truth = some.to(method.device).float() / 255
        branches = method.branches(truth, hole.to(method.device))
        parts.append([each.float().cpu() for each in (*branches, F.pixel_unshuffle(truth, PATCH))])
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def examine(method: MEDFE, train: Tensor, test_set: TestSet) -> dict[str, float]:
    """What the filled features hold, by the names at the top, with ``_texture`` and ``_structure`` behind those of a
    branch; nothing where holes are so thin that no patch lies in one.

    ``train``: uint8 photos (n,3,S,S) to fit the probes on, under the method's training holes.
    """
    bank = method.bank.cpu()
    holes = bank[torch.arange(len(train)) % len(bank)], test_set.masks()
    maps = [_filled(method, *pair) for pair in zip((train, test_set.photos), holes, strict=True)]
    fitted, tested = ([in_hole(each, hole) for each in part] for part, hole in zip(maps, holes, strict=True))
    if min(len(fitted[0]), len(tested[0])) < 2:
        return {}
    found, constraint, (structure, texture, _) = {}, method.settings.constraint, maps[1]
    for i, name in enumerate(("structure", "texture")):
        found[f"probe_{name}"] = probe(fitted[i], fitted[2], tested[i], tested[2])
        found[f"cka_{name}"] = cka(tested[i], tested[2])
        found[f"rank_{name}"] = effective_rank(tested[i])
    if constraint == "conv1x1":
        weight = method.network.to_rgb.weight.detach().flatten(1).cpu()
        free = [without_read(part[1], weight) for part in (fitted, tested)]
        found["probe_lost"] = found["probe_texture"] - probe(free[0], fitted[2], free[1], tested[2])
        found["swap_change"] = swap_change(method, texture, test_set.photos01())
    if constraint.startswith("cae"):
        found |= against_codes(method, (structure, texture), test_set.photos01())
    return found


@torch.no_grad()
def swap_change(method: MEDFE, texture: Tensor, truth: Tensor) -> float:
    """How much L_rte moves, relative to itself, when each photo takes over the next one's features (n,C,h,w) but for
    the three directions that the 1x1 convolution reads."""
    weight = method.network.to_rgb.weight.detach().flatten(1).cpu()
    rows = texture.movedim(1, -1)
    swapped = rows + without_read((rows.roll(1, 0) - rows).flatten(0, 2), weight).float().view_as(rows)
    target = medfe.resize(truth * 2 - 1, texture.shape[-2:])
    losses = [(method.network.pictures(each.to(method.device)).cpu() - target).abs().double().mean()
              for each in (texture, swapped.movedim(-1, 1))]  # fmt: skip
    return float((losses[1] - losses[0]).abs() / losses[0])


@torch.no_grad()
def against_codes(method: MEDFE, branches: tuple[Tensor, Tensor], truth: Tensor) -> dict[str, float]:
    """code_error and code_variation, means of structure and texture, of their filled features (n,C,h,w)."""
    rows = []
    for encoder, features in zip(method.codes, reversed(branches), strict=True):
        code = torch.cat([encoder(part.to(method.device) * 2 - 1).cpu() for part in truth.split(32)]).double()
        varies = (code.var((0, 2, 3), correction=0).mean() / code.square().mean()).sqrt()
        rows.append([(features - code).abs().mean() / code.abs().mean(), varies])
    return dict(zip(("code_error", "code_variation"), np.mean(rows, 0).tolist(), strict=True))


# Runs and reports


def ending(history: pd.DataFrame, share: float = 0.1) -> pd.Series:
    """The losses' means over the last ``share`` of a training's history."""
    rows = history.dropna(subset=["total"])
    return rows.iloc[-max(1, round(share * len(rows))) :].mean()


def weighted_terms(history: pd.DataFrame, settings: medfe.Settings) -> dict[str, float]:
    """What each term adds to the objective at the end of a training, those that it has."""
    last = ending(history)
    return {name: weight * last[name] for name, weight in settings.weights.items() if name in last}


def weighted_constraint(history: pd.DataFrame, settings: medfe.Settings) -> float:
    """What L_rst and L_rte together add to the objective at the end of a training; 0 without them."""
    terms = weighted_terms(history, settings)
    return terms.get("structure", 0.0) + terms.get("texture", 0.0)


@torch.no_grad()
def pictures(method: MEDFE, photos: Tensor, mask: Tensor, codes: tuple[CAE, CAE] | None) -> Tensor:
    """For a frame of the film, (3n,3,S,S): n fills, what the structure branch shows, and what the texture branch shows.

    A branch is shown by the 1x1 convolution, or by the decoder of its auto-encoder; grey where it has neither.
    """
    settings, size = method.settings, photos.shape[-2:]
    if settings.constraint == "conv1x1":
        shown = [F.interpolate(each, size) for each in method.branch_pictures(photos, mask)]
    elif decodable(settings):
        branches = method.branches(photos, mask)
        shown = [cae.decode(each.clamp(-1, 1)) for cae, each in zip(reversed(codes), branches, strict=True)]
    else:
        shown = [torch.full_like(photos, 0.5)] * 2
    return torch.cat([method.inpaint(photos, mask), *shown]).clamp(0, 1)


def true_pictures(settings: medfe.Settings, photos: Tensor, codes: tuple[CAE, CAE] | None) -> Tensor:
    """What a frame of :func:`pictures` should become: the photos, and what their branches are compared with."""
    small, size = [photos.shape[-1] // PATCH] * 2, photos.shape[-2:]
    if settings.constraint == "conv1x1":
        targets = [F.interpolate(medfe.resize(each, small), size) for each in (structures(photos), photos)]
    elif decodable(settings):
        targets = [cae.reconstruct(photos).cpu() for cae in reversed(codes)]
    else:
        targets = [torch.full_like(photos, 0.5)] * 2
    return torch.cat([photos, *targets])


def decodable(settings: medfe.Settings) -> bool:
    """Whether the branches are compared with codes that the auto-encoders' decoders can show."""
    return settings.constraint in ("cae", "cae_no_norm") and settings.fix_init


def contributions(results: Results, arms: list[str]) -> pd.DataFrame:
    """:func:`weighted_terms` of each arm, mean of seeds."""
    rows = {}
    for arm in arms:
        settings = Run(results.study, results.where(arm=arm)["run_id"].iloc[0]).settings(medfe.Settings)
        terms = pd.DataFrame([weighted_terms(history, settings) for history in results.histories(arm=arm)])
        rows[arm] = terms.mean().to_dict()
    return pd.DataFrame(rows).T


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
