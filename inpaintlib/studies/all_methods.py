"""The catalogue of all methods that fill holes: what each is called, where its network lies, which holes it fills."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import inpaintlib
from inpaintlib import BadInput, Inpainter
from inpaintlib.harness import sweep
from inpaintlib.harness.parameters import did_you_mean, show
from inpaintlib.harness.runs import Run
from inpaintlib.methods import classical, dcgan, latent_search
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.methods.partial_conv import PartialConvNet
from inpaintlib.studies import medfe
from inpaintlib.training import load_checkpoint

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
    method's; ``holes``: "any", or "centre" where it fills the central square alone.
    """

    name: str
    title: str
    make: Callable[[Path | None, str], Loaded]
    study: str = ""
    run: dict = field(default_factory=dict)
    fits: Callable[[dict], bool] = lambda settings: False
    holes: str = "any"

    def load(self, checkpoint: str | Path | None = None, device: str = "auto") -> Loaded:
        """From a run's folder or a file of weights, of half precision too; None: the one of :func:`newest`.

        Raises BadInput for a file that cannot be read or is of another method.
        """
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


def _context_encoder(path: Path, device: str) -> Loaded:
    network = ContextEncoder.load(path, device)
    hole = network.blank.cpu() if network.settings.region == "centre" else None
    return Loaded(network.inpaint, network.settings.size, hole, (network.generator,), network.device)


def _convolutions(path: Path, device: str) -> Loaded:
    network = PartialConvNet.load(path, device)
    return Loaded(network.inpaint, network.settings.size, None, (network.network,), network.device)


def _medfe(path: Path, device: str) -> Loaded:
    network = medfe.load(path, device)
    return Loaded(network.inpaint, network.settings.size, None, (network.network,), network.device)


def _search(path: Path, device: str, blend: bool) -> Loaded:
    gan = dcgan.load(path, device)
    search = latent_search.LatentSearch(gan, replace(SEARCH, blend=blend))
    return Loaded(search.inpaint, gan.settings.size, None, (gan.generator, gan.discriminator), gan.device)


# The methods


def _encoder(name: str, title: str, region: str, **run) -> Method:
    joint = math.isinf if math.isinf(run.get("ratio", 1)) else math.isfinite
    return Method(name, f"Context Encoder, {title}", _context_encoder, "context_encoder_ratios", run,
                  lambda s: s.get("region") == region and joint(s.get("ratio", math.nan)),
                  "centre" if region == "centre" else "any")  # fmt: skip


def _convolution(name: str, title: str, conv: str, arm: str) -> Method:
    return Method(name, title, _convolutions, "partial_conv_losses", {"arm": arm}, lambda s: s.get("conv") == conv)


def _dual(name: str, title: str, arm: str) -> Method:
    code, constraint = arm.split()
    fits = lambda s: s.get("constraint") == constraint and ("fixes" in s) == (code == "released")  # noqa: E731
    return Method(name, title, _medfe, "medfe_vs_cae", {"arm": arm}, fits)


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
        Method("membrane", "blended flat source", _classical(classical.membrane)),
        Method("mean_colour", "mean colour", _classical(classical.mean_colour)),
    )
}
"""All of them. Poisson blending of a source of one colour, whatever colour, gives the membrane."""


def method(name: str) -> Method:
    """The method of this name; BadInput where there is none."""
    if name not in METHODS:
        raise BadInput(f"method: there is no {name!r}{did_you_mean(name, METHODS)}")
    return METHODS[name]


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
    kept = inpaintlib.RESULTS / "networks" / f"{name.removesuffix('_unblended')}.pt"
    if preset == "auto" and kept.exists():
        return kept
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
