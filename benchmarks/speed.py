"""How fast: ``python -m inpaintlib bench NAME`` times a method's training step beside a plain one, in the same run.

Each benchmark writes its rows into ``results/bench.csv``: bench, case, device, value, unit, baseline, ratio. Values are
medians; fast and plain steps take turns, so that a machine that slows down slows both. ``bench study`` times the whole
of ``make study``. The plain arms are also the second implementations that tests compare the fast steps with.
"""

import gc
import os
import queue
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inpaintlib
from inpaintlib import ROOT, BadInput, pretrained
from inpaintlib.data import masks
from inpaintlib.data.photos import load
from inpaintlib.files import write_atomically
from inpaintlib.harness.runs import environment
from inpaintlib.methods import rtv
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.autoencoder import Settings as CAESettings
from inpaintlib.methods.context_encoder import (
    ContextEncoder,
    Discriminator,
    Generator,
    Settings,
    Spread,
    Squeeze,
    overlap_weights,
)
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.dcgan import Settings as DCGANSettings
from inpaintlib.methods.latent_search import LatentSearch
from inpaintlib.methods.latent_search import Settings as SearchSettings
from inpaintlib.methods.medfe import MEDFE, FeatureEqualization, gaussian, resize
from inpaintlib.methods.medfe import Settings as MEDFESettings
from inpaintlib.methods.partial_conv import PartialConv2d, PartialConvNet
from inpaintlib.methods.partial_conv import Settings as PartialConvSettings
from inpaintlib.training import choose_device, initialise, initialise_dcgan

# Plain second implementations


class PlainContextEncoder:
    """The same networks stepped as a textbook would: fp32, eager, ordinary Adam, F run once for D and once for itself.

    Meneust & Pinto 2024's order of updates: D on the ground truth and on a detached prediction, then F through the
    updated D.
    """

    def __init__(self, settings: Settings, seed: int, device: torch.device):
        self.settings, edge = settings, (settings.size - settings.patch) // 2
        self.inside = slice(edge, edge + settings.patch)
        networks = {"generator": Generator(settings), "discriminator": Discriminator(settings.patch, settings.width)}
        for name, network in networks.items():
            setattr(self, name, initialise(network, seed, name, initialise_dcgan).to(device))
            for layer in network.modules():
                if isinstance(layer, Squeeze | Spread):  # as PyTorch computes them, not as matrix products
                    layer.__class__ = nn.Conv2d if isinstance(layer, Squeeze) else nn.ConvTranspose2d
        betas = (settings.beta1, settings.beta2)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), settings.lr * settings.generator_lr_factor, betas)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), settings.lr, betas)
        self.band = overlap_weights(settings.patch, settings.overlap, settings.overlap_weight).to(device)

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        x = photos.float() / 127.5 - 1
        truth, masked = x[..., self.inside, self.inside].clone(), x.clone()
        hole = (self.settings.size - self.settings.hole) // 2
        masked[..., hole : hole + self.settings.hole, hole : hole + self.settings.hole] = 0
        ones, zeros = torch.ones(len(x), device=x.device), torch.zeros(len(x), device=x.device)

        self.adam_d.zero_grad()
        predicted = self.generator(masked)
        d_real = F.binary_cross_entropy_with_logits(self.discriminator(truth), ones)
        d_fake = F.binary_cross_entropy_with_logits(self.discriminator(predicted.detach()), zeros)
        (d_real + d_fake).backward()
        self.adam_d.step()

        lambda_rec, lambda_adv = self.settings.weights
        self.adam_g.zero_grad()
        adv = F.binary_cross_entropy_with_logits(self.discriminator(predicted), ones)
        rec = ((predicted - truth) ** 2 * self.band).mean()
        (lambda_rec * rec + lambda_adv * adv).backward()
        self.adam_g.step()
        return {"d_real": d_real.detach(), "d_fake": d_fake.detach(), "rec": rec.detach(), "adv": adv.detach()}


class ReleasedMiddle(FeatureEqualization):
    """MEDFE's middle as the released code has it, on the same weights; the mask's defect alone may be there."""

    def forward(self, levels: list[Tensor], hole: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """As its parent's, one photo at a time."""
        photos = [self.one([each[i : i + 1] for each in levels], hole[i : i + 1]) for i in range(len(hole))]
        levels, structure, texture = zip(*photos, strict=True)
        return [torch.cat(each) for each in zip(*levels, strict=True)], torch.cat(structure), torch.cat(texture)

    def one(self, levels: list[Tensor], hole: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """One branch after the other; features are resized before each 1x1 convolution."""
        y, size = [F.leaky_relu(each, 0.2) for each in levels], levels[2].shape[-2:]
        norm = lambda x: F.leaky_relu(F.instance_norm(x), 0.2)  # noqa: E731
        texture = [layer(each) for layer, each in zip(self.texture, y[:3], strict=True)]
        structure = [norm(self.structure(resize(each, size))) for each in y[3:]]
        valid = (~self.feature_hole(hole)).float()
        structure, texture = (self.fill(self.squeeze(torch.cat(each, 1)), valid) for each in (structure, texture))
        equal = self.equal(self.fuse(torch.cat([structure, texture], 1)))
        fine = [norm(to(resize(equal, each.shape[-2:]))) for to, each in zip(self.to_fine, levels[:3], strict=True)]
        coarse = [chain(equal) for chain in self.to_coarse]
        return [a + b for a, b in zip(levels, fine + coarse, strict=True)], structure, texture

    def fill(self, features: Tensor, valid: Tensor) -> Tensor:
        """The mask has as many channels as the features and is convolved with as many kernels, all ones."""
        filled = []
        for stream in self.streams:
            x, known = features, valid.expand_as(features)
            for layer in stream:
                weight, padding = layer.conv.weight, layer.conv.padding
                with torch.no_grad():
                    total = F.conv2d(known, torch.ones_like(weight), None, 1, padding)
                    ratio = weight[0].numel() / total.clamp(min=1)
                x = F.conv2d(x * known, weight, None, 1, padding) * ratio
                x, known = F.leaky_relu(layer.norm(x), 0.2), (total > 0).float()
            filled.append(x)
        return (self.to_code or self.squeeze)(torch.cat(filled, 1))

    def equal(self, x: Tensor) -> Tensor:
        """A map of Gaussian weights for every pixel, all (pixels, C, H, W) products at once; every 3x3 patch copied."""
        x = x * self.equalise.excitation(x)
        _, channels, high, wide = x.shape
        pixels = high * wide
        maps = torch.kron(gaussian(high, device=x.device), gaussian(wide, device=x.device)).view(pixels, 1, high, wide)
        spatial = (maps * x.expand(pixels, -1, -1, -1)).sum((2, 3)).mT
        gate = x.sigmoid()
        patches, gates = (F.unfold(each, 3, padding=1).view(channels, 9, pixels) for each in (x, gate))
        likeness = (gates * gate.reshape(channels, 1, pixels)).mean(0).softmax(0)
        averages = [each.reshape(x.shape) for each in (spatial, (patches * likeness).sum(1))]
        return self.equalise.squeeze(torch.cat(averages, 1))


def released_medfe(settings: MEDFESettings, seed: int, device: torch.device, vgg: nn.Sequential) -> MEDFE:
    """MEDFE in fp32, eager, with the released arrangement of its middle. The rest of its step is ours."""
    method = MEDFE(settings, seed, device, "fp32", "eager", vgg)
    method.network.middle.__class__ = ReleasedMiddle
    return method


# Timing


def seconds_per_step(step: Callable, photos: Tensor, steps: int) -> float:
    """Mean seconds of ``steps`` consecutive steps on these photos, the device's queue drained before and after."""
    synchronise = torch.cuda.synchronize if photos.is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    for i in range(steps):
        step(photos, i)
    synchronise()
    return (time.perf_counter() - start) / steps


def _in_turns(steps: dict, photos: Tensor, gpu: bool) -> list[float]:
    """Median seconds of a step of each arm, warmed up, the arms taking turns."""
    times = {name: [] for name in steps}
    for step in steps.values():
        seconds_per_step(step, photos, 6 if gpu else 1)
    for _ in range(5 if gpu else 3):
        for name, step in steps.items():
            times[name].append(seconds_per_step(step, photos, 40 if gpu else 1))
    return [statistics.median(times[name]) for name in steps]


def _training_steps(bench: str, case: str, arms: dict[str, tuple[int, Callable]], photos: Tensor) -> list[dict]:
    """Photos a second of each arm's training step, and on a GPU its peak memory a photo, against those of the first.

    ``arms``: name -> (batch, a function that makes the method), of which the first is the plain one.
    """
    gpu, steps, memory = photos.is_cuda, {}, {}
    for name, (batch, make) in arms.items():
        gc.collect()
        before = torch.cuda.memory_allocated() if gpu else 0
        method = make()
        steps[name] = lambda photos, i, method=method, batch=batch: method.step(photos[:batch], i)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
            with torch._dynamo.config.patch(automatic_dynamic_shapes=False):  # compiled for this arm's shapes alone
                seconds_per_step(steps[name], photos, 6)
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**30 / batch
    seconds = _in_turns(steps, photos, gpu)
    speed = {name: batch / each for (name, (batch, _)), each in zip(arms.items(), seconds, strict=True)}
    plain, *fast = arms
    rows = []
    for name in fast:
        rows.append(_row(bench, f"step, {case}, {name}", speed[name], "photos/s", speed[plain]))
        if gpu:
            rows.append(_row(bench, f"peak memory, {case}, {name}", memory[name], "GiB/photo", memory[plain]))
    return rows


def _random_photos(batch: int, size: int, device: torch.device, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8, device=device)


# Benchmarks


def context_encoder() -> list[dict]:
    """One whole update at 128 px, batch 64 and 512 (a CPU: 16 and 64), against the plain one in fp32, eager."""
    device, settings, rows = choose_device(), Settings(size=128, ratio=1000.0), []
    gpu = device.type == "cuda"
    for batch in (64, 512) if gpu else (16, 64):
        arms = {"plain": (batch, lambda: PlainContextEncoder(settings, 0, device))}
        for mode in ("graph", "compile") if gpu else ("eager",):
            arms[mode] = batch, lambda mode=mode: ContextEncoder(settings, 0, device, acceleration=mode)
        rows += _training_steps("context_encoder", f"128 px, batch {batch}", arms, _random_photos(batch, 128, device))
    return rows


LAYERS = ((64, 128, 128, 5), (512, 512, 16, 3), (1024, 512, 32, 3))
"""Partial convolutions to time: channels in and out, side in px, kernel."""


def partial_conv() -> list[dict]:
    """The layer, forward and backward, against nn.Conv2d, and the whole training step.

    The layer: milliseconds at batch 16 (a CPU: 1), in fp32 and, on a GPU, bf16. The step: at 128 and 256 px, losses
    included, width 64 and batch 16 (a CPU: 16 and 2), against the same network with nn.Conv2d in fp32, eager.
    """
    device, rows = choose_device(), []
    gpu = device.type == "cuda"
    for shape in LAYERS:
        for bf16 in (False, True) if gpu else (False,):
            arms = {kind: _layer(kind, *shape, 16 if gpu else 1, bf16, device) for kind in (PartialConv2d, nn.Conv2d)}
            partial, plain = (1000 * seconds for seconds in _in_turns(arms, torch.empty(0, device=device), gpu))
            case = "layer {}->{}, {} px, k{}, ".format(*shape) + ("bf16" if bf16 else "fp32")
            rows.append(_row("partial_conv", case, partial, "ms", plain))
    modes = {"graph": "auto", "compile": "auto"} if gpu else {"eager": "fp32"}
    width, batch = (64, 16) if gpu else (16, 2)
    for size in (128, 256):
        chosen = {"size": size, "width": width, "bank": 60}
        arms = {"plain": (batch, lambda chosen=chosen: PartialConvNet(
            PartialConvSettings(**chosen, conv="plain"), 0, device, "fp32", "eager"))}  # fmt: skip
        for mode, precision in modes.items():
            arms[mode] = batch, lambda chosen=chosen, mode=mode, precision=precision: PartialConvNet(
                PartialConvSettings(**chosen), 0, device, precision, mode)  # fmt: skip
        rows += _training_steps("partial_conv", f"{size} px, batch {batch}", arms, _random_photos(batch, size, device))
    return rows


def _layer(kind: type, inputs: int, outputs: int, side: int, kernel: int, batch: int, bf16: bool,
           device: torch.device) -> Callable:  # fmt: skip
    """A step that runs a layer forward and backward on fixed features, a fifth to a third of them masked."""
    layer = kind(inputs, outputs, kernel, padding=kernel // 2).to(device, memory_format=torch.channels_last)
    valid = ~masks.irregular(batch, side, 0, (0.2, 0.3)).to(device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    x, gradient = (torch.randn(batch, side, side, channels, device=device, dtype=dtype).movedim(3, 1)  # channels_last
                   for channels in (inputs, outputs))  # fmt: skip
    x.requires_grad_()

    def forward_and_backward(*_) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            y = layer(x, valid)[0] if kind is PartialConv2d else layer(x)
        return torch.autograd.grad(y, [x, *layer.parameters()], gradient)

    return forward_and_backward


def latent_search() -> list[dict]:
    """Iterations of the search times photos, a second, at 64 px: all photos at once against one photo at a time.

    64 photos and width 64 on a GPU, 32 and 16 on a CPU, with 1, 4 and 16 restarts; one at a time in fp32, eager.
    """
    device = choose_device()
    width, n, iterations, alone = (64, 64, 400, 4) if device.type == "cuda" else (16, 32, 8, 4)
    gan = DCGAN(DCGANSettings(width=width), device=device)

    def search(photos: int, restarts: int, **how) -> Callable:
        method = LatentSearch(gan, SearchSettings(iterations=iterations, restarts=restarts), **how)
        random, mask = torch.rand(photos, 3, 64, 64, device=device), masks.centre(photos, 64).to(device)
        return lambda *_: method.search(random, mask, records=2)

    steps = {restarts: search(n, restarts) for restarts in (1, 4, 16)}
    steps["alone"] = search(alone, 1, rows=1, precision="fp32", acceleration="eager")
    *together, one = _in_turns(steps, torch.empty(0), gpu=False)  # few turns: each is long
    plain = alone * iterations / one
    return [_row("latent_search", f"search, 64 px, width {width}, {n} photos, {restarts} restarts",
                 n * iterations / seconds, "iterations x photos/s", plain)
            for restarts, seconds in zip((1, 4, 16), together, strict=True)]  # fmt: skip


MEDFE_CASES = {
    "cuda": {"width": 64, "batches": {256: (1, 16), 128: (1, 64)}, "structures": {256: 32}},
    "cpu": {"width": 8, "batches": {128: (1, 4), 64: (1, 4)}, "structures": {256: 4, 64: 4}},
}
"""What `medfe` times on each kind of device: batches by photo size in px, and how many structure images at once."""


def medfe() -> list[dict]:
    """MEDFE's training step, and milliseconds of a photo's structure.

    The step: all losses, structure images given, against the released arrangement at batch 1 (:func:`released_medfe`).
    Structure: the code of an auto-encoder against RTV by factorisation on the CPU.
    """
    device = choose_device()
    cases, vgg, rows = MEDFE_CASES[device.type], pretrained.vgg16(device), []
    for size, batches in cases["batches"].items():
        settings = MEDFESettings(size=size, width=cases["width"])
        arms = {"released": (1, lambda settings=settings: released_medfe(settings, 0, device, vgg))}
        for batch in batches:
            for mode in ("graph", "compile") if device.type == "cuda" else ("eager",):
                arms[f"batch {batch}, {mode}; released: batch 1"] = batch, lambda settings=settings, mode=mode: MEDFE(
                    settings, 0, device, acceleration=mode, vgg=vgg)  # fmt: skip
        photos = _random_photos(max(batches), size, device, channels=6)
        rows += _training_steps("medfe", f"{size} px, width {cases['width']}", arms, photos)
    for size, n in cases["structures"].items():
        rows.append(_structures(size, n, device))
    return rows


def _structures(size: int, n: int, device: torch.device) -> dict:
    """Milliseconds a photo, of demo photos."""
    photos = load("demo", size, "train", "squash").spread(n)[0].to(device).float() / 255
    few, cae = photos[:4].cpu(), CAE(CAESettings(kind="structure", width=32), device=device, acceleration="eager")
    arms = {"RTV": lambda *_: rtv.structure(few), "code": lambda photos, _: cae.encode(photos)}
    reference, seconds = _in_turns(arms, photos, gpu=False)  # few turns: each is long
    case = f"structure, {size} px, code of an auto-encoder, width 32, batch {n}; RTV by factorisation: CPU"
    return _row("medfe", case, 1000 * seconds / n, "ms/photo", 1000 * reference / len(few))


SHARERS = (1, 2, 4, 8)
"""Numbers of runs at a time that `share` tries; on a CPU the first two."""


def share() -> list[dict]:
    """Photos a second of several small trainings on one device together, against one alone: see harness/full.py.

    Each is a process of its own with a Context Encoder of 64 px, width 32, batch 64 (a CPU: 8 and 16).
    """
    gpu, context = choose_device().type == "cuda", torch.multiprocessing.get_context("spawn")
    seconds, speeds = 10.0 if gpu else 2.0, {}
    for n in SHARERS if gpu else SHARERS[:2]:
        start, results = context.Barrier(n), context.Queue()
        processes = [context.Process(target=_sharer, args=(start, results, seconds), daemon=True) for _ in range(n)]
        for process in processes:
            process.start()
        try:
            speeds[n] = sum(results.get(timeout=300) for _ in processes)
        except queue.Empty:
            raise BadInput(f"bench share: {n} trainings did not run beside each other; was memory short?") from None
        for process in processes:
            process.join()
    return [_row("share", f"{n} runs at a time, Context Encoder, 64 px", speed, "photos/s", speeds[1])
            for n, speed in speeds.items()]  # fmt: skip


def _sharer(start, results, seconds: float) -> None:
    """Train once all are warm, and for so long; put photos a second into the queue."""
    device = choose_device()
    width, batch = (32, 64) if device.type == "cuda" else (8, 16)
    torch.set_num_threads(1)
    method = ContextEncoder(Settings(size=64, width=width, bottleneck=100, overlap=4), 0, device)
    photos = _random_photos(batch, 64, device)
    each = seconds_per_step(method.step, photos, 6)
    start.wait()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        at_once = max(1, round(0.2 / each))
        each = seconds_per_step(method.step, photos, at_once)
        steps += at_once
    results.put(steps * batch / (time.perf_counter() - began))


def study() -> list[dict]:
    """Minutes of ``make study`` in a fresh clone of what is committed, installation included; the goal is 10.

    pip may take packages from its cache. Raises BadInput where ``make study`` fails, with the last line that it wrote.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("INPAINT_", "VIRTUAL_ENV"))}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True, env=env)
        start = time.perf_counter()
        made = subprocess.run(["make", "study"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
        minutes = (time.perf_counter() - start) / 60
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BadInput(f"bench study: make study ended with status {made.returncode}; its last line: {last}")
    return [_row("study", f"make study in a fresh clone, {os.cpu_count()} cores; goal", minutes, "min", 10.0)]


BENCHES = {"context_encoder": context_encoder, "partial_conv": partial_conv, "latent_search": latent_search,
           "medfe": medfe, "share": share, "study": study}  # fmt: skip


def _row(bench: str, case: str, value: float, unit: str, baseline: float) -> dict:
    return {"bench": bench, "case": case, "device": environment()["device"], "value": value, "unit": unit,
            "baseline": baseline, "ratio": value / baseline}  # fmt: skip


def run(name: str) -> pd.DataFrame:
    """Runs a benchmark and puts its rows into results/bench.csv in place of the same device's older ones."""
    if name not in BENCHES:
        raise BadInput(f"bench: there is no benchmark {name!r}; choose from {', '.join(BENCHES)}")
    rows, path = pd.DataFrame(BENCHES[name]()), inpaintlib.RESULTS / "bench.csv"
    table = rows
    if path.exists():
        there = pd.read_csv(path)
        keys = set(zip(rows["bench"], rows["case"], rows["device"], strict=True))
        kept = [key not in keys for key in zip(there["bench"], there["case"], there["device"], strict=True)]
        table = pd.concat([there[kept], rows])
    write_atomically(path, table.to_csv(index=False, float_format="%.4g"))
    return rows
