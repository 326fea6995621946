"""The catalogue of all methods that fill holes: what each is called, where its network lies, which holes it fills."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm.auto import tqdm

import inpaintlib
from inpaintlib import BadInput, Inpainter
from inpaintlib.data import masks
from inpaintlib.data.photos import examples
from inpaintlib.data.photos import load as load_photos
from inpaintlib.data.test_set import TestSet
from inpaintlib.files import read_json, write_json
from inpaintlib.harness import figures, sweep, tables
from inpaintlib.harness.parameters import did_you_mean, show
from inpaintlib.harness.runs import Run
from inpaintlib.methods import classical, latent_search
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.partial_conv import PartialConvNet, UNet
from inpaintlib.metrics import evaluate
from inpaintlib.studies import latent_search as latent_study
from inpaintlib.studies import medfe
from inpaintlib.studies import partial_conv as partial_study
from inpaintlib.training import Trainer, load_checkpoint, save_checkpoint, strip

SEARCH = latent_search.Settings(iterations=80, lr=0.1)  # as long as in the study's preset night


@dataclass(frozen=True)
class Loaded:
    """An Inpainter that is ready. ``side``: of the photos that it was trained on, in px; None: it fills any size.

    ``hole``: bool (1,1,side,side), the most that it can fill; None: any hole. ``parts``: the networks that fill.
    """

    fill: Inpainter
    side: int | None = None
    hole: Tensor | None = None
    parts: tuple[nn.Module, ...] = ()
    device: torch.device | str = "cpu"

    def __call__(self, photos: Tensor, mask: Tensor) -> Tensor:
        """As any Inpainter; photos and mask may lie on another device."""
        return self.fill(photos.to(self.device), mask.to(self.device)).to(photos.device)

    @property
    def parameters(self) -> int:
        """How many weights a fill needs."""
        return sum(weights.numel() for part in self.parts for weights in part.parameters())


@dataclass(frozen=True)
class Method:
    """A way to fill holes. ``study``: whose runs with the parameters ``run`` trained its networks; "": it has none.

    ``make(file, device)`` loads one; ``fits(settings)``: whether settings that a file of weights holds are this
    method's. ``anywhere``: whether its holes may lie anywhere.
    """

    name: str
    title: str
    make: Callable[[Path | None, str], Loaded]
    study: str = ""
    run: dict = field(default_factory=dict)
    fits: Callable[[dict], bool] = lambda settings: False
    anywhere: bool = True

    def load(self, checkpoint: str | Path | None = None, device: str = "auto") -> Loaded:
        """From a run's folder or a file of weights, of half precision too; None: the one of :func:`newest`.

        Raises BadInput for a file that cannot be read or is of another method.
        """
        if not self.study and checkpoint is not None:
            raise BadInput(f"{self.name}: has no network, so it takes no checkpoint; leave that out.")
        if not self.study:
            return self.make(None, device)
        path = newest(self.name) if checkpoint is None else Path(checkpoint)
        path = path / "weights.pt" if path.is_dir() else path
        settings = load_checkpoint(path).get("settings", {})
        if not self.fits(settings):
            there = " or ".join(name for name, method in METHODS.items() if method.fits(settings)) or "no method here"
            raise BadInput(f"{path}: a checkpoint of {there}, not of {self.name}; give one of {self.name}.")
        return self.make(path, device)


# How each kind is loaded


def _classical(fill: Inpainter) -> Callable[[Path | None, str], Loaded]:
    return lambda path, device: Loaded(fill)


def _network(load: Callable[[Path, str], Trainer], path: Path, device: str) -> Loaded:
    found = load(path, device)
    centred = isinstance(found, ContextEncoder) and found.settings.region == "centre"
    parts = tuple(getattr(found, name) for name in found.exported)
    return Loaded(found.inpaint, found.settings.size, found.blank.cpu() if centred else None, parts, found.device)


def _search(path: Path, device: str, blend: bool) -> Loaded:
    gan = DCGAN.load(path, device)
    # a search repeats what its steps round 80 times: in 16 bits, on some processors alone, it ends elsewhere
    search = latent_search.LatentSearch(gan, replace(SEARCH, blend=blend), precision="fp32")
    return Loaded(search.inpaint, gan.settings.size, None, (gan.generator, gan.discriminator), gan.device)


# The methods


def _encoder(name: str, title: str, region: str, **run) -> Method:
    joint = math.isinf if math.isinf(run.get("ratio", 1)) else math.isfinite
    fits = lambda s: s.get("region") == region and joint(s.get("ratio", math.nan))  # noqa: E731
    return Method(name, f"Context Encoder, {title}", partial(_network, ContextEncoder.load), "context_encoder_ratios",
                  run, fits, anywhere=region != "centre")  # fmt: skip


def _convolution(name: str, title: str, conv: str, arm: str) -> Method:
    return Method(name, title, partial(_network, PartialConvNet.load), "partial_conv_losses", {"arm": arm},
                  lambda s: s.get("conv") == conv)  # fmt: skip


def _dual(name: str, title: str, arm: str) -> Method:
    code, constraint = arm.split()
    fits = lambda s: s.get("constraint") == constraint and ("fixes" in s) == (code == "released")  # noqa: E731
    return Method(name, title, partial(_network, medfe.load), "medfe_vs_cae", {"arm": arm}, fits)


def _latent(name: str, title: str, blend: bool) -> Method:
    return Method(name, title, partial(_search, blend=blend), "dcgan", {"arm": "two G steps"}, lambda s: "g_steps" in s)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _encoder("context_encoder", "joint", "centre", arm="ratio", ratio=1000.0),
        _encoder("context_encoder_l2", "L2", "centre", arm="ratio", ratio=math.inf),
        _encoder("context_encoder_random_region", "random regions", "random_region", arm="random region"),
        _encoder("context_encoder_random_pixels", "random pixels", "random_pixels", arm="random pixels"),
        _convolution("plain_conv", "plain convolutions", "plain", "plain mean"),
        _convolution("partial_conv", "partial convolutions", "partial", "full"),
        _latent("latent_search", "latent search, blended", True),
        _latent("latent_search_unblended", "latent search, pasted", False),
        _dual("medfe_none", "MEDFE, no constraint", "described none"),
        _dual("medfe_conv1x1", "MEDFE", "described conv1x1"),
        _dual("medfe_cae", "MEDFE+CAE", "described cae"),
        _dual("medfe_released", "MEDFE as released", "released conv1x1"),
        _dual("medfe_released_cae", "MEDFE+CAE as released", "released cae"),
        Method("telea", "Telea", _classical(classical.telea)),
        Method("navier_stokes", "Navier-Stokes", _classical(classical.navier_stokes)),
        Method("biharmonic", "biharmonic", _classical(classical.biharmonic)),
        Method("membrane", "membrane", _classical(classical.membrane)),
        Method("mean_colour", "mean colour", _classical(classical.mean_colour)),
    )
}
"""All of them. Poisson blending of a source of one colour, whatever colour, gives the membrane."""


def method(name: str) -> Method:
    """The method of this name; BadInput where there is none."""
    if name not in METHODS:
        raise BadInput(f"method: there is no {name!r}{did_you_mean(name, METHODS)}")
    return METHODS[name]


def kept_file(name: str) -> Path:
    """Where the repository has this method's network, if it has one."""
    return inpaintlib.RESULTS / "networks" / f"{name.removesuffix('_unblended')}.pt"


@dataclass(frozen=True)
class Kept:
    """A network of the repository in place of the run that trained it, which may be on another machine."""

    folder: Path  # its file, which Method.load takes as it takes a run's folder
    card: dict

    @property
    def parameters(self) -> dict[str, Any]:
        return {"dataset": self.card["dataset"], "seed": self.card["seed"]}


def kept(name: str) -> list[Kept]:
    """The repository's network of this method, if it has one."""
    card = kept_file(name).with_suffix(".json")
    return [Kept(kept_file(name), read_json(card))] if card.exists() else []


def trained(name: str, preset: str = "auto") -> list[Run]:
    """The finished runs whose weights are here and that trained this method's networks, a run a seed, in order.

    ``preset``: of the sweep; ``auto``: the largest that has one. Empty where there is none.
    """
    one = method(name)
    presets = sorted(sweep.load(one.study).presets, key=sweep.preset_rank, reverse=True) if one.study else []
    for each in presets if preset == "auto" else [preset]:
        there = [run for run in sweep.of_preset(one.study, each, **one.run) if run.status() == "done"]
        if there := [run for run in there if (run.folder / "weights.pt").exists()]:
            return sorted(there, key=lambda run: run.parameters["seed"])
    return []


def newest(name: str, preset: str = "auto") -> Path:
    """The weights of a method: for ``auto`` results/networks/<name>.pt where it is, else those of a finished run.

    Raises BadInput where there are none, with the command that makes them, and for a method that needs none.
    """
    if not (one := method(name)).study:
        raise BadInput(f"{name}: has no network; it is not trained.")
    if preset == "auto" and kept_file(name).exists():
        return kept_file(name)
    if runs := trained(name, preset):
        return runs[0].folder / "weights.pt"
    wanted = preset if preset != "auto" else _smallest(one)
    pairs = " ".join(f"{name}={show(value)!r}" for name, value in one.run.items())
    raise BadInput(f"{name}: no trained network is here; make one with "
                   f"python -m inpaintlib sweep {one.study} --preset {wanted} --only {pairs}")  # fmt: skip


def _smallest(one: Method) -> str:
    """The first preset from quick upwards whose plan trains this method's networks."""
    for preset in ("quick", "night", "full"):
        planned = sweep.plan(one.study, preset)
        if any(one.run.items() <= item.parameters.items() for item in planned):
            return preset
    return "quick"


# The small networks of the repository


def keep(name: str, run: Run | None = None) -> Path:
    """Keeps a finished run's network as results/networks/<name>.pt, in half precision, with its card <name>.json: what
    trained it, and its scores on the demo test photos. None: that of the preset night.

    BadInput for a run of another method, one that is not done, and where none is.
    """
    name = kept_file(name).stem  # of two methods with one network
    run = run or Run(method(name).study, newest(name, "night").parent.name)
    if not run.done:
        raise BadInput(f"{run.folder}: is not a finished run, so its network is not kept.")
    method(name).load(run.folder)
    state = load_checkpoint(run.folder / "weights.pt")
    halves = {part: {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
              for part, tensors in state.items() if part not in ("settings", "kind")}  # fmt: skip
    file = kept_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, state | halves)
    told = ("preset", "arm", "dataset", "size", "kimg", "seed")
    card = {"method": name, "run": f"{run.study}/{run.id}", **{key: run.parameters[key] for key in told},
            "cost": training(run),
            "scores": {key: run.metrics[key] for key in ("psnr_hole", "lpips", "test_set") if key in run.metrics},
            "demo": demo_scores(name)}  # fmt: skip
    write_json(file.with_suffix(".json"), card)
    return file


def demo_scores(name: str) -> dict[str, float | str]:
    """What the kept network scores on 32 demo test photos: with a central hole where it was trained for that or
    without holes, else with irregular ones."""
    loaded = method(name).load(kept_file(name), "cpu")
    photos, ids, pictures = load_photos("demo", loaded.side, "test").spread(32)
    kind = "irregular" if isinstance(loaded.parts[0], UNet) else "centre"
    test_set = TestSet.make(f"demo, {kind}", photos, masks.make(kind, len(photos), loaded.side, 1), ids, pictures)
    found = evaluate(loaded, test_set, networks=("lpips",))
    return {"masks": kind} | {
        key: found[key] for key in ("psnr_hole", "ssim_hole", "l1_hole", "lpips", "n_photos", "test_set")
    }


# All on one test

MASKS = {"centre": "a central square", "irregular": "irregular holes", "random_pixels": "80 % of the pixels",
         "half": "half of the photo"}  # fmt: skip
PARTS = ("arm", "mask", "seed")


def test_sets(photos: Tensor, ids: Sequence[str], pictures: Sequence[str], name: str) -> dict[str, TestSet]:
    """uint8 photos (n,3,S,S) under each of MASKS; those of ``irregular`` in each of the twelve cells of Liu 2018."""
    plain = "+".join(kind for kind in MASKS if kind != "irregular")
    sets = latent_study.masked_sets(plain, name, photos, list(ids), list(pictures))
    sets["irregular"] = partial_study.twelve_cell_test_set(name, photos, ids, pictures, "generated")
    return {kind: sets[kind] for kind in MASKS}


def shown_sets(size: int, n: int = 6) -> dict[str, TestSet]:
    """The n demo test photos that figures show under each of MASKS, one hole each: irregular ones of growing area."""
    photos, names = examples(size, n)
    sets = test_sets((photos * 255).round().byte(), names, names, "examples")
    cells = [len(partial_study.CELLS) * row + 2 * (row % 6) for row in range(len(names))]
    some = sets["irregular"]
    sets["irregular"] = TestSet.make("examples", some.photos[cells], some.masks(cells), names)
    return sets


def networks(preset: str, dataset: str, seeds: int) -> tuple[dict[str, list[Run | Kept | None]], list[str]]:
    """The runs that trained each method's networks, of at most so many seeds ([None]: it needs no network), and the
    names of the methods without a network of this preset. Of several data sets ``dataset`` is taken, else the first.
    The preset ``kept`` is the networks of the repository."""
    found, missing = {}, []
    for name, one in METHODS.items():
        runs = [None] if not one.study else kept(name) if preset == "kept" else trained(name, preset)
        if runs and one.study:
            there = [run.parameters["dataset"] for run in runs]
            chosen = dataset if dataset in there else there[0]
            runs = [run for run in runs if run.parameters["dataset"] == chosen]
        if runs:
            found[name] = runs[:seeds]
        else:
            missing.append(name)
    return found, missing


def fits(loaded: Loaded, test_set: TestSet) -> bool:
    """Whether the method can fill the holes of this set at all."""
    if loaded.hole is None:
        return True
    hole = F.interpolate(loaded.hole.float(), size=test_set.photos.shape[-2:]) > 0
    return not (test_set.masks() & ~hole).any()


def at(loaded: Loaded, size: int) -> Inpainter:
    """The method on photos of ``size`` px. One that takes no other side than its own fills photos scaled to that."""
    if loaded.parts and isinstance(loaded.parts[0], UNet):
        return partial(_convolve, loaded.parts[0].eval())
    return loaded if loaded.side in (None, size) else partial(_scaled, loaded)


def _convolve(network: UNet, photos: Tensor, mask: Tensor) -> Tensor:
    """By a network of any size, without its door, which takes a photo of which 80 % is missing for an inverted mask."""
    return torch.where(mask, network(photos, mask, None).clamp(0, 1), photos)


def _scaled(loaded: Loaded, photos: Tensor, mask: Tensor) -> Tensor:
    holes = F.adaptive_max_pool2d(mask.float(), loaded.side) > 0
    small = F.interpolate(photos, [loaded.side] * 2, mode="bilinear", antialias=True)
    back = F.interpolate(loaded(small, holes), photos.shape[-2:], mode="bilinear", antialias=True)
    return torch.where(mask, back.clamp(0, 1), photos)


def training(run: Run | Kept | None) -> dict[str, Any]:
    """What a network cost: ``kimg`` and ``training_seconds``, those of the network it began with included; and what
    it was trained on: ``trained_on``, ``trained_size`` and ``trained_holes`` ("": without holes)."""
    if run is None:
        return {"kimg": 0.0, "training_seconds": 0.0, "trained_on": "", "trained_size": 0, "trained_holes": ""}
    if isinstance(run, Kept):
        return run.card["cost"]
    given, seconds = run.parameters, run.metrics["training_seconds"]
    holes = given.get("region") or given.get("train_masks", "")
    holes = "irregular" if holes in ("generated", "nvidia") else holes
    found = {"kimg": given["kimg"], "training_seconds": seconds, "trained_on": given["dataset"],
             "trained_size": given["size"], "trained_holes": holes}  # fmt: skip
    if given.get("start_preset"):
        names = ("dataset", "size", "width", "conv", "placeholder", "scaling", "seed")
        for start in sweep.of_preset("partial_conv_start", given["start_preset"], **{n: given[n] for n in names}):
            found["kimg"] += start.parameters["kimg"]
            found["training_seconds"] += start.metrics["training_seconds"]
    return found


def measure(found: dict[str, list[Run | Kept | None]], sets: dict[str, TestSet], measured_with: Sequence[str] = (),
            device: str = "auto", progress: bool = False) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:  # fmt: skip
    """Every method's networks on every set that it can fill.

    Returns per_image, whose PARTS tell them apart, with the seconds that a photo took in a batch of 32; a row for each
    network, its ``weights`` and what :func:`training` says; and why a method gave up on a set, a sentence each.
    """
    rows, costs, failed, due = [], [], [], [(name, run) for name, runs in found.items() for run in runs]
    for name, run in tqdm(due, unit="network", disable=not progress):
        loaded, seed = METHODS[name].load(run and run.folder, device), run.parameters["seed"] if run else 0
        costs.append({"arm": name, "seed": seed, "weights": loaded.parameters, **training(run)})
        for kind in [kind for kind, test_set in sets.items() if fits(loaded, test_set)]:
            inpainter = at(loaded, sets[kind].photos.shape[-1])
            try:
                scores = evaluate(inpainter, sets[kind], networks=measured_with, batch=32, device=loaded.device)
            except BadInput as reason:
                failed.append(f"{METHODS[name].title}, seed {seed}, {MASKS[kind]}: {reason}")
                continue
            speed = {"seconds_per_photo": 1 / scores["images_per_second"], "test_set": sets[kind].hash}
            rows.append(scores.per_image.assign(arm=name, mask=kind, seed=seed, **speed))
    return pd.concat(rows, ignore_index=True), pd.DataFrame(costs), failed


def keep_pictures(found: dict[str, list[Run | Kept | None]], folder: Path, size: int, device: str = "auto") -> None:
    """Leaves the fills of :func:`shown_sets` by each method's first network as strips, <mask>/<number>_<title>.png;
    of no method that gives up on them."""
    sets = shown_sets(size)
    for number, (name, runs) in enumerate(found.items(), 1):
        loaded = METHODS[name].load(runs[0] and runs[0].folder, device)
        for kind, test_set in sets.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(BadInput):
                if fits(loaded, test_set):
                    filled = latent_study.fill_all(at(loaded, size), test_set, loaded.device)
                    strip(filled).save(folder / kind / f"{number:02d}_{METHODS[name].title}.png")
    for kind, test_set in sets.items():
        photos, mask = test_set.photos01(), test_set.masks()
        strip(torch.where(mask, 0.5, photos)).save(folder / kind / "00_input.png")
        strip(photos).save(folder / kind / "99_ground truth.png")


def strips(folder: Path) -> dict[str, list[np.ndarray]]:
    """The rows of one mask that `keep_pictures` left, for `figures.grid`."""
    return {path.stem[3:]: figures.split_strip(path) for path in sorted(folder.glob("*.png"))}


# What the records say: neither weights nor photos are needed

FAMILIES = {"context_encoder": 0, "plain_conv": 1, "partial_conv": 1, "latent": 2, "medfe": 3}


def outside(costs: pd.DataFrame, kind: str) -> set[str]:
    """The methods that learned to fill other holes than these; a method that never saw holes is in none."""
    seen = costs[costs["trained_holes"].fillna("") != ""]
    return set(seen.loc[seen["trained_holes"] != kind, "arm"])


def ranks(per_image: pd.DataFrame, metric: str = "psnr_hole", higher: bool = True, n: int = 2000) -> pd.DataFrame:
    """A row for each mask and arm: its ``rank`` by the mean of its seeds (1 is best), the 95 % interval of that over n
    resamples of the pictures (``low``, ``high``), and the share of them in which it is ``first``. Networks are taken as
    they are: how much they would differ trained anew is not in the interval."""
    rng, rows = np.random.default_rng(0), []
    for kind, some in per_image.groupby("mask", sort=False):
        values = some.groupby(["arm", "picture"])[metric].mean().unstack("picture").loc[some["arm"].unique()]
        signed = values.to_numpy() * (-1 if higher else 1)
        drawn = rankdata(signed[:, rng.integers(signed.shape[1], size=(n, signed.shape[1]))].mean(2), axis=0)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
        rows.append(pd.DataFrame({"mask": kind, "arm": values.index, "rank": rankdata(signed.mean(1)), "low": low,
                                  "high": high, "first": (drawn == drawn.min(0)).mean(1)}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def front(cost: Sequence[float], quality: Sequence[float]) -> np.ndarray:
    """Which points are Pareto-optimal, bool (n,): nothing that costs as little or less is as good or better."""
    cost, quality = np.asarray(cost, float), np.asarray(quality, float)
    no_worse = (cost[:, None] <= cost) & (quality[:, None] >= quality)
    better = (cost[:, None] < cost) | (quality[:, None] > quality)
    return ~(no_worse & better).any(0)


def by_mask(table: pd.DataFrame, metric: str, costs: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A row for each method, a column for each mask: "mean [interval]", † where it learned on other holes, and — where
    it cannot fill these. ``table``: tidy rows with ``arm`` and ``mask``."""
    some = table[table["metric"] == metric].set_index(["arm", "mask"])
    rows = {}
    for arm in some.index.unique("arm"):
        row = rows[METHODS[arm].title] = {}
        for kind, name in MASKS.items():
            there = (arm, kind) in some.index
            sign = " †" if arm in outside(costs, kind) else ""
            found = tables.cell(*some.loc[(arm, kind), ["value", "ci_low", "ci_high"]], digits) if there else "—"
            row[name] = found + sign * there
    return pd.DataFrame(rows).T


def of_costs(costs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each method: what its networks were trained on and for how long, and the time that a photo takes."""
    times, rows = runs.groupby("arm")["seconds_per_photo"].mean(), {}
    for arm, some in costs.groupby("arm", sort=False):
        first = some.iloc[0]
        holes = first["trained_holes"] or "no holes"
        rows[METHODS[arm].title] = {
            "trained on": f"{first['trained_on']}, {first['trained_size']} px, {holes}" if first["trained_on"] else "—",
            "networks": len(some) if first["trained_on"] else 0, "weights": f"{first['weights']:,}",
            "kimg": _digits(first["kimg"]), "training, s": _digits(some["training_seconds"].mean()),
            "a photo, ms": _digits(1000 * times.get(arm, np.nan))}  # fmt: skip
    return pd.DataFrame(rows).T


def _digits(value: float) -> str:
    """Three of them: .348, 22.3, 3,860."""
    return f"{float(f'{value:.3g}'):,g}"


def _colour(arm: str) -> str:
    return next((figures.PALETTE[i] for name, i in FAMILIES.items() if arm.startswith(name)), "0.45")


def scatter(means: pd.DataFrame, costs: dict[str, str], metric: str = "psnr_hole", label: str = "") -> plt.Figure:
    """Quality against each cost (column -> label), a panel a mask: numbered methods, full where nothing beats them, on
    the line of the Pareto front. ``means``: a row for each arm and mask."""
    numbers = {arm: i for i, arm in enumerate(dict.fromkeys(means["arm"]), 1)}
    shape = len(costs), len(MASKS)
    figure, axes = figures.subplots(*shape, figsize=(3 * shape[1] + 2, 3 * shape[0]), sharey="col", squeeze=False)
    for (cost, unit), line in zip(costs.items(), axes, strict=True):
        for (kind, name), ax in zip(MASKS.items(), line, strict=True):
            some = means[means["mask"] == kind].sort_values([cost, metric])
            best = front(some[cost], some[metric])
            ax.step(some[cost][best], some[metric][best], where="post", color="0.7", lw=1.2, zorder=0)
            for row, optimal in zip(some.to_dict("records"), best, strict=True):
                colour, at = _colour(row["arm"]), (row[cost], row[metric])
                ax.plot(*at, "o", color=colour, ms=11, mfc=colour if optimal else "white")
                ax.annotate(str(numbers[row["arm"]]), at, ha="center", va="center", fontsize=7,
                            color="white" if optimal else "black")  # fmt: skip
            ax.set_xscale("symlog" if (some[cost] == 0).any() else "log")
            ax.set(title=name if ax in axes[0] else "", xlabel=unit)
        line[0].set_ylabel(label or metric)
    handles = [plt.Line2D([], [], marker="o", ls="", color=_colour(arm), label=f"{number}  {METHODS[arm].title}")
               for arm, number in numbers.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    return figure


def draw_ranks(found: pd.DataFrame) -> plt.Figure:
    """The rows of :func:`ranks`, a panel a mask, the best on top."""
    figure, axes = figures.subplots(1, len(MASKS), figsize=(4 * len(MASKS), 4.2))
    for (kind, name), ax in zip(MASKS.items(), axes, strict=True):
        some = found[found["mask"] == kind].sort_values("rank", kind="stable")
        for y, row in enumerate(some.itertuples()):
            ax.plot([row.low, row.high], [y, y], color=_colour(row.arm), lw=3, alpha=0.5)
            ax.plot(row.rank, y, "o", color=_colour(row.arm))
        ax.set_yticks(range(len(some)), [METHODS[arm].title for arm in some["arm"]], fontsize=8)
        ax.set(title=name, xlabel="rank", ylim=(len(some) - 0.4, -0.6), xlim=(0.5, len(some) + 0.5))
    return figure
