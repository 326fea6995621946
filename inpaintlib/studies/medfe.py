"""What notebooks 41 and 42 ask: what do MEDFE's two branches hold, and what ties them to it?

Of the filled features of the texture and the structure branch, at all positions that lie wholly in the hole
(:func:`probe_branches`); the *truth* there is the photo's 8x8 px patch, 192 numbers:

==================== ==================================================================================================
probe                R² of the best linear map from features to truth (ridge), fitted on training photos, on test photos
structure_in, _detail the same with RTV's structure image, and with what it took from the photo, in place of the truth
cka                  linear CKA of features and truth (Kornblith et al. 2019), in [0, 1]
rank                 effective rank of the features: exp of the entropy of their singular values (Roy, Vetterli 2007)
probe_lost           what the texture probe loses without the three directions that the 1x1 convolution reads
swap_change          relative change of L_rte when photos exchange all that lies outside these directions
code_error           L1 distance to the two codes, ``code_distance``, over that of zeros, ``code_size``
code_variation       the codes' standard deviation over photos and places, channel by channel, over their root mean
                     square: near 0, the target is the same whatever the photo
pull_...             norm of the gradient, by the network's weights, of a term times the weight that the texts give it;
                     ``constraint`` is of L_rst + L_rte, ``others`` of all but the adversarial terms and these
==================== ==================================================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from inpaintlib import BadInput, metrics
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import figures, sweep
from inpaintlib.harness.runs import Run
from inpaintlib.harness.tables import Results
from inpaintlib.methods import medfe, medfe_released
from inpaintlib.methods.autoencoder import CAE, KINDS
from inpaintlib.methods.medfe import MEDFE
from inpaintlib.metrics import Evaluation
from inpaintlib.studies.autoencoder import PATCH, kept_structures, structures
from inpaintlib.training import load_checkpoint

DAMPING = 1e-3  # of the ridge, in units of the features' mean variance
CODES = {"described": medfe, "released": medfe_released}
FEW = 500  # photos of which Liu 2020 takes its FID


# Arms


def settings_of(run: Run) -> medfe.Settings:
    """The settings of a run of notebook 41. Raises BadInput where ``fixes`` are asked of code without defects."""
    code, fixes = (run.parameters[name] for name in ("code", "fixes"))
    if code == "described" and fixes:
        raise BadInput(f"fixes: {fixes!r} will not do with code described, which has nothing to fix; leave it empty")
    return run.settings(CODES[code].Settings)


def network_of(settings: medfe.Settings) -> type[MEDFE]:
    """The class that trains a network of these settings."""
    return medfe_released.MEDFE if isinstance(settings, medfe_released.Settings) else MEDFE


def load(path: Path, device: str = "auto") -> MEDFE:
    """The network of a finished run's weights.pt, described or released, as an Inpainter: its ``inpaint``."""
    released = "fixes" in load_checkpoint(path).get("settings", {})
    return (medfe_released.MEDFE if released else MEDFE).load(path, device)


def trained_codes(settings: medfe.Settings, study: str, preset: str, device: str = "auto",
                  **wanted) -> tuple[CAE, CAE] | None:  # fmt: skip
    """The auto-encoders of texture and structure that a network of these settings compares with, or None.

    They are the finished runs of notebook 40 with the arms ``texture`` and ``structure``, of this preset, size and half
    this width, and with what else is ``wanted`` (dataset, seed). Raises BadInput where one is missing, with the command
    that makes it.
    """
    if not settings.of_code:
        return None
    if settings.width % 2:
        raise BadInput(f"width: {settings.width} will not do with {settings.constraint}; auto-encoders are half as "
                       "wide, so it must be even")  # fmt: skip
    wanted |= {"size": settings.size, "width": settings.width // 2}
    found = [sweep.finished(study, preset, arm=kind, **wanted).folder for kind in KINDS]
    return tuple(CAE.load(folder / "weights.pt", device) for folder in found)


def part_of(test_set: TestSet, n: int) -> TestSet:
    """n photos (at most all) evenly spaced in a test set, with their holes."""
    rows = torch.linspace(0, len(test_set) - 1, min(n, len(test_set))).round().long().tolist()
    names = ([of[row] for row in rows] for of in (test_set.ids, test_set.pictures))
    return TestSet.make(test_set.name, test_set.photos[rows], test_set.masks(rows), *names)


# What a branch holds


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
    fractions = values / values.sum().clamp(min=1e-30)
    return float(torch.special.entr(fractions).sum().exp())


def without_read(features: Tensor, weight: Tensor) -> Tensor:
    """Features (N,C) without what lies in the row space of ``weight`` (3,C): what a 1x1 convolution cannot see."""
    basis = torch.linalg.qr(weight.double().T).Q
    return features.double() - features.double() @ basis @ basis.T


@torch.no_grad()
def _filled(method: MEDFE, photos: Tensor, holes: Tensor) -> tuple[Tensor, ...]:
    """Features of structure and of texture, and the patches of the truth and of its structure image, on the CPU:
    (B,C,h,w) each, of uint8 photos."""
    parts = []
    images = kept_structures(photos)
    for some, image, hole in zip(photos.split(32), images.split(32), holes.split(32), strict=True):
        truth = some.float() / 255
        found = method.branches(truth.to(method.device), hole.to(method.device))
        patches = [F.pixel_unshuffle(each, PATCH) for each in (truth, image)]
        parts.append([each.float().cpu() for each in (*found, *patches)])
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def probe_branches(method: MEDFE, train: Tensor, test_set: TestSet) -> dict[str, float]:
    """What the filled features hold, by the names at the top, with ``_texture`` and ``_structure`` behind those of a
    branch; nothing where holes are so thin that no patch lies in one.

    ``train``: uint8 photos (n,3,S,S) to fit the probes on, under the method's training holes; they are tested on at
    most as many photos of the test set.
    """
    test_set = part_of(test_set, len(train))
    bank = method.bank.cpu()
    holes = bank[torch.arange(len(train)) % len(bank)], test_set.masks()
    maps = [_filled(method, *pair) for pair in zip((train, test_set.photos), holes, strict=True)]
    fitted, tested = ([in_hole(each, hole) for each in part] for part, hole in zip(maps, holes, strict=True))
    if min(len(fitted[0]), len(tested[0])) < 2:
        return {}
    found, constraint, branches = {}, method.settings.constraint, maps[1][:2]
    for i, name in enumerate(("structure", "texture")):
        pictures = {"probe": lambda part: part[2], "structure_in": lambda part: part[3],
                    "detail_in": lambda part: part[2] - part[3]}  # fmt: skip
        found |= {f"{of}_{name}": probe(fitted[i], picture(fitted), tested[i], picture(tested))
                  for of, picture in pictures.items()}  # fmt: skip
        found |= {f"cka_{name}": cka(tested[i], tested[2]), f"rank_{name}": effective_rank(tested[i])}
    if constraint == "conv1x1":
        weight = method.network.to_rgb.weight.detach().flatten(1).cpu()
        free = [without_read(part[1], weight) for part in (fitted, tested)]
        found["probe_lost"] = found["probe_texture"] - probe(free[0], fitted[2], free[1], tested[2])
        found["swap_change"] = swap_change(method, branches[1], test_set.photos01())
    if method.settings.of_code:
        found |= against_codes(method, branches, test_set.photos01())
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
    """The four code_... metrics, means of structure and texture, of their filled features (n,C,h,w)."""
    rows = []
    for encoder, features in zip(method.codes, reversed(branches), strict=True):
        code = torch.cat([encoder(part.to(method.device) * 2 - 1).cpu() for part in truth.split(32)]).double()
        varies = (code.var((0, 2, 3), correction=0).mean() / code.square().mean()).sqrt()
        distance, size = (features - code).abs().mean(), code.abs().mean()
        rows.append([distance / size, distance, size, varies])
    names = ("code_error", "code_distance", "code_size", "code_variation")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


# What an objective asks for


def pulls(method: MEDFE, photos: Tensor, holes: Tensor) -> dict[str, float]:
    """The pull_... metrics of uint8 photos (n,3,S,S) under bool holes (n,1,S,S), and one of each term by its name.

    They are about the texts' objective, whatever the terms of the output weighed in this training.
    """
    photos, holes = photos.to(method.device), holes.to(method.device)
    truth, output, *branches = method._forward(photos, holes)
    images = structures(truth.cpu()).to(truth) if method.settings.constraint == "conv1x1" else None
    terms = method.objective(output, truth, *branches, images)
    texts = medfe.Settings()
    of_output = {f"{name}_weight": getattr(texts, f"{name}_weight") for name in ("l1", "perceptual", "style")}
    weights = replace(method.settings, **of_output).weights
    weighted = {name: weights[name] * term for name, term in terms.items()}
    tied = ("structure", "texture")
    groups = {name: [name] for name in weighted}
    groups |= {"constraint": [name for name in weighted if name in tied],
               "others": [name for name in weighted if name not in tied]}  # fmt: skip
    parameters = list(method.network.parameters())
    found = {}
    for name, group in groups.items():
        total = sum((weighted[each] for each in group), torch.zeros((), device=truth.device))
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True) if group else ()
        found[f"pull_{name}"] = float(sum(g.square().sum() for g in gradients if g is not None)) ** 0.5
    return found


def few(scores: Evaluation) -> dict[str, float]:
    """FID of the first 500 photos, as many as Liu 2020 takes, where there are more and Inception has seen them."""
    if "fid" not in scores or scores["n_photos"] <= FEW:
        return {}
    return {"fid_500": metrics.fid(*(features[:FEW] for features in scores.features[""]))}


def weighted_terms(history: pd.DataFrame, settings: medfe.Settings, fraction: float = 0.1) -> dict[str, float]:
    """What each term adds to the objective, those that it has: the mean over the last ``fraction`` of a training."""
    rows = history.dropna(subset=["total"])
    last = rows.iloc[-max(1, round(fraction * len(rows))) :].mean()
    return {name: weight * last[name] for name, weight in settings.weights.items() if name in last}


def weighted_constraint(history: pd.DataFrame, settings: medfe.Settings) -> float:
    """What L_rst and L_rte together add to the objective at the end of a training; 0 without them."""
    terms = weighted_terms(history, settings)
    return terms.get("structure", 0.0) + terms.get("texture", 0.0)


def contributions(results: Results, arms: list[str]) -> pd.DataFrame:
    """:func:`weighted_terms` of each arm, mean of seeds."""
    rows = {}
    for arm in arms:
        settings = settings_of(Run(results.study, results.where(arm=arm)["run_id"].iloc[0]))
        terms = pd.DataFrame([weighted_terms(history, settings) for history in results.histories(arm=arm)])
        rows[arm] = terms.mean().to_dict()
    return pd.DataFrame(rows).T


# Pictures


@torch.no_grad()
def pictures(method: MEDFE, photos: Tensor, mask: Tensor, codes: tuple[CAE, CAE] | None) -> Tensor:
    """For a frame of the film, (3n,3,S,S): n fills, what the structure branch shows, and what the texture branch shows.

    A branch is shown by the 1x1 convolution, or by the decoder of its auto-encoder; grey where it has neither.
    """
    shown = _shown(method.settings, photos, method.branches(photos, mask),
                   lambda each: F.interpolate((method.network.pictures(each) + 1) / 2, photos.shape[-2:]),
                   [lambda each, cae=cae: cae.decode(each.clamp(-1, 1)) for cae in reversed(codes or ())])  # fmt: skip
    return torch.cat([method.inpaint(photos, mask), *shown]).clamp(0, 1)


@torch.no_grad()
def true_pictures(settings: medfe.Settings, photos: Tensor, codes: tuple[CAE, CAE] | None) -> Tensor:
    """What a frame of :func:`pictures` should become: the photos, and what their branches are compared with."""
    small, size = [photos.shape[-1] // PATCH] * 2, photos.shape[-2:]
    shown = _shown(settings, photos, [structures(photos), photos],
                   lambda each: F.interpolate(medfe.resize(each, small), size),
                   [lambda each, cae=cae: cae.reconstruct(photos).cpu() for cae in reversed(codes or ())])  # fmt: skip
    return torch.cat([photos, *shown])


def _shown(settings: medfe.Settings, photos: Tensor, branches: list[Tensor], by_colour: Callable,
           by_decoder: list[Callable]) -> list[Tensor]:  # fmt: skip
    """Structure and texture, each as its constraint can show it."""
    if settings.constraint == "conv1x1":
        return [by_colour(each) for each in branches]
    if decodable(settings):
        return [decode(each) for decode, each in zip(by_decoder, branches, strict=True)]
    return [torch.full_like(photos, 0.5)] * 2


def decodable(settings: medfe.Settings) -> bool:
    """Whether the branches are compared with codes that the auto-encoders' decoders can show."""
    spared = not (isinstance(settings, medfe_released.Settings) and settings.has("init"))
    return settings.constraint in ("cae", "cae_no_norm") and spared


def every_seed(runs: pd.DataFrame, metric: str, arms: Sequence[str], gap: float = 0.0, of: str = "") -> plt.Figure:
    """One point a run of a table of runs, with the mean of each arm that has this metric; beside them a bar as long as
    a published difference ``gap``, with the label ``of``."""
    arms = [arm for arm in arms if runs.loc[runs["arm"] == arm, metric].notna().any()]
    figure, ax = figures.subplots(figsize=(0.8 * len(arms) + 2, 3.4))
    for i, arm in enumerate(arms):
        values = runs.loc[runs["arm"] == arm, metric].dropna()
        ax.plot(np.full(len(values), i), values, ".", color=figures.PALETTE[0], alpha=0.7)
        ax.hlines(values.mean(), i - 0.25, i + 0.25, color=figures.PALETTE[1])
    if gap:
        middle = runs[metric].mean()
        ax.vlines(len(arms), middle - gap / 2, middle + gap / 2, color=figures.PALETTE[3], lw=4)
        ax.text(len(arms) + 0.15, middle, of, va="center", fontsize=8)
    ax.set_xticks(range(len(arms)), arms, rotation=40, ha="right", rotation_mode="anchor")
    ax.set(ylabel=metric, xlim=(-0.5, len(arms) + (1.6 if gap else -0.5)))
    return figure
