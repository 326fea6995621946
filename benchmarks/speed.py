"""How fast: ``python -m inpaintlib bench NAME`` times a study's training step beside a plain one, in the same run.

Each benchmark writes its rows into ``results/bench.csv``: bench, case, device, value, unit, baseline, ratio. Values are
medians; fast and plain steps take turns, so that a machine that slows down slows both.
"""

import copy
import gc
import itertools
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inpaintlib
from inpaintlib import BadInput, pretrained
from inpaintlib.data import masks
from inpaintlib.data.photos import load
from inpaintlib.files import write_atomically
from inpaintlib.harness.runs import environment
from inpaintlib.methods import rtv
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.autoencoder import Settings as CAESettings
from inpaintlib.methods.context_encoder import ContextEncoder, Discriminator, Generator, Settings, overlap_weights
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.dcgan import Settings as DCGANSettings
from inpaintlib.methods.latent_search import LatentSearch
from inpaintlib.methods.latent_search import Settings as SearchSettings
from inpaintlib.methods.medfe import MEDFE, Middle, Network, feature_hole, gaussian, resize
from inpaintlib.methods.medfe import Settings as MEDFESettings
from inpaintlib.methods.partial_conv import PartialConv2d, PartialConvNet
from inpaintlib.methods.partial_conv import Settings as PartialConvSettings
from inpaintlib.training import choose_device, seeded


class PlainContextEncoder:
    """The same networks stepped as a textbook would: fp32, eager, ordinary Adam, F run once for D and once for itself.

    The report's order of updates: D on truth and on a detached prediction, then F through the updated D. It is the
    baseline of the benchmark, and the second implementation that tests compare the fast step with.
    """

    def __init__(self, settings: Settings, seed: int, device: torch.device):
        self.settings, edge = settings, (settings.size - settings.patch) // 2
        self.inside = slice(edge, edge + settings.patch)
        with seeded(seed):
            self.generator = Generator(settings).to(device)
            self.discriminator = Discriminator(settings.patch, settings.width).to(device)
        betas = (settings.beta1, settings.beta2)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), settings.lr * settings.lr_factor, betas)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), settings.lr, betas)
        self.band = overlap_weights(settings.patch, settings.overlap, settings.overlap_weight).to(device)

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        x = photos.float() / 127.5 - 1
        truth, holed = x[..., self.inside, self.inside].clone(), x.clone()
        hole = (self.settings.size - self.settings.hole) // 2
        holed[..., hole : hole + self.settings.hole, hole : hole + self.settings.hole] = 0
        ones, zeros = torch.ones(len(x), device=x.device), torch.zeros(len(x), device=x.device)

        self.adam_d.zero_grad()
        predicted = self.generator(holed)
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


def seconds_per_step(step: Callable, photos: Tensor, steps: int) -> float:
    """Mean seconds of ``steps`` consecutive steps on these photos, the device's queue drained before and after."""
    device = photos.device
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    for i in range(steps):
        step(photos, i)
    synchronise()
    return (time.perf_counter() - start) / steps


def context_encoder() -> list[dict]:
    """Photos a second and peak memory of one whole update at 128 px, batch 64 and 512 (a CPU: 16 and 64)."""
    device, settings, rows = choose_device(), Settings(size=128, ratio=1000.0), []
    gpu = device.type == "cuda"
    modes = ("graph", "compile") if gpu else ("eager",)
    for batch in (64, 512) if gpu else (16, 64):
        photos = torch.randint(0, 256, (batch, 3, 128, 128), dtype=torch.uint8, device=device)
        arms: dict[str, object] = {"plain": PlainContextEncoder(settings, 0, device)}
        arms |= {mode: ContextEncoder(settings, 0, device, acceleration=mode) for mode in modes}
        times, memory = {name: [] for name in arms}, {}
        for name, arm in arms.items():  # warm up, capture, compile
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds_per_step(arm.step, photos, 6 if gpu else 1)
            memory[name] = torch.cuda.max_memory_allocated() / 2**30 if gpu else float("nan")
        for _ in range(5 if gpu else 4):
            for name, arm in arms.items():
                times[name].append(seconds_per_step(arm.step, photos, 40 if gpu else 1))
        plain = batch / statistics.median(times["plain"])
        for name in modes:
            speed = batch / statistics.median(times[name])
            rows.append(_row("context_encoder", f"step, 128 px, batch {batch}, {name}", speed, "photos/s", plain))
            if gpu:
                rows.append(_row("context_encoder", f"peak memory, 128 px, batch {batch}, {name}", memory[name], "GiB",
                                 memory["plain"]))  # fmt: skip
    return rows


LAYERS = ((64, 128, 128, 5), (512, 512, 16, 3), (1024, 512, 32, 3))
"""Partial convolutions to time: channels in and out, side in px, kernel."""


def partial_conv() -> list[dict]:
    """The layer, forward and backward, against nn.Conv2d, and photos a second of the whole training step.

    The layer: milliseconds at batch 16 (a CPU: 1), in fp32 and, on a GPU, bf16; replayed as CUDA graphs, so launches do
    not count. The step: at 128 and 256 px, losses included, width 64 and batch 16 and 64 (a CPU: 16 and 2), against the
    same network with nn.Conv2d in fp32, eager.
    """
    device = choose_device()
    gpu, rows = device.type == "cuda", []
    for shape in LAYERS:
        for bf16 in (False, True) if gpu else (False,):
            arms = {kind: _layer(kind, *shape, 16 if gpu else 1, bf16, device) for kind in (PartialConv2d, nn.Conv2d)}
            partial, plain = (1000 * seconds for seconds in _in_turns(arms, torch.empty(0, device=device), gpu))
            case = "layer {}->{}, {} px, k{}, ".format(*shape) + ("bf16" if bf16 else "fp32")
            rows.append(_row("partial_conv", case, partial, "ms", plain))
    modes = {"graph": "auto", "compile": "auto"} if gpu else {"eager": "fp32"}
    for size, batch in itertools.product((128, 256), (16, 64) if gpu else (2,)):
        photos = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
        chosen = {"size": size, "width": 64 if gpu else 16, "bank": 60}
        arms = {mode: PartialConvNet(PartialConvSettings(**chosen), 0, device, precision, mode).step
                for mode, precision in modes.items()}  # fmt: skip
        arms["plain"] = PartialConvNet(PartialConvSettings(**chosen, conv="plain"), 0, device, "fp32", "eager").step
        *fast, plain = (batch / seconds for seconds in _in_turns(arms, photos, gpu))
        for mode, speed in zip(modes, fast, strict=True):
            rows.append(_row("partial_conv", f"step, {size} px, batch {batch}, {mode}", speed, "photos/s", plain))
    return rows


def _layer(kind: type, inputs: int, outputs: int, side: int, kernel: int, batch: int, bf16: bool,
           device: torch.device) -> Callable:  # fmt: skip
    """A step that runs a layer forward and backward on fixed features, a fifth to a third of them holes."""
    layer = kind(inputs, outputs, kernel, padding=kernel // 2).to(device, memory_format=torch.channels_last)
    dtype = torch.bfloat16 if bf16 else torch.float32
    valid = ~masks.irregular(batch, side, 0, (0.2, 0.3)).to(device)
    x, gradient = (
        torch.randn(batch, side, side, channels, device=device, dtype=dtype).movedim(3, 1)  # channels_last
        for channels in (inputs, outputs)
    )
    x.requires_grad_()

    def forward_and_backward() -> tuple[Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            y = layer(x, valid)[0] if kind is PartialConv2d else layer(x)
        return torch.autograd.grad(y, [x, *layer.parameters()], gradient)

    if device.type != "cuda":
        return lambda *_: forward_and_backward()
    torch.backends.cudnn.benchmark = True
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a graph may be captured after a few calls on a stream of their own
        for _ in range(3):
            forward_and_backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = forward_and_backward()
    return lambda *_: (graph.replay(), results)  # the graph writes into its results, which must not be freed


def _in_turns(steps: dict, photos: Tensor, gpu: bool) -> list[float]:
    """Median seconds of a step of each arm, warmed up, the arms taking turns."""
    times = {name: [] for name in steps}
    for step in steps.values():
        seconds_per_step(step, photos, 6 if gpu else 1)
    for _ in range(5 if gpu else 3):
        for name, step in steps.items():
            times[name].append(seconds_per_step(step, photos, 40 if gpu else 1))
    return [statistics.median(times[name]) for name in steps]


def latent_search() -> list[dict]:
    """Iterations of the search times photos, a second, at 64 px: all photos at once against one photo at a time.

    64 photos and width 64 on a GPU, 32 and 16 on a CPU, with 1, 4 and 16 starts; one at a time in fp32, eager. Also
    what a further start costs in units of the first, and on a GPU the seconds of 1,000 photos x 16 starts x 1,000
    iterations, against the goal of 300.
    """
    device = choose_device()
    gpu = device.type == "cuda"
    width, n, iterations, alone = (64, 64, 400, 4) if gpu else (16, 32, 8, 4)
    gan = DCGAN(DCGANSettings(width=width), device=device)

    def seconds(photos: int, starts: int = 1, iterations: int = iterations, **how) -> float:
        method = LatentSearch(gan, SearchSettings(iterations=iterations, starts=starts), **how)
        random, mask = torch.rand(photos, 3, 64, 64, device=device), masks.centre(photos, 64).to(device)
        return seconds_per_step(lambda *_: method.search(random, mask, records=2), random, 1)

    arms = {starts: (n, starts, {}) for starts in (1, 4, 16)}
    arms["alone"] = (alone, 1, {"rows": 1, "precision": "fp32", "acceleration": "eager"})
    times = {name: [] for name in arms}
    for turn in range(4):  # the first warms up
        for name, (photos, starts, how) in arms.items():
            spent = seconds(photos, starts, **how)
            times[name] += [spent / (photos * iterations)] if turn else []
    each = {name: statistics.median(values) for name, values in times.items()}
    case = f"search, 64 px, width {width}, {n} photos"
    rows = [_row("latent_search", f"{case}, {k} starts", 1 / each[k], "iterations x photos/s", 1 / each["alone"])
            for k in (1, 4, 16)]  # fmt: skip
    further = (each[16] - each[1]) / 15
    rows.append(_row("latent_search", f"{case}, a further start", further / each[1], "of the first", 1.0))
    if gpu:
        whole = seconds(1000, 16, 1000, rows=16_000)
        rows.append(_row("latent_search", "1,000 photos x 16 starts x 1,000 iterations", whole, "s", 300.0))
    return rows


class ReleasedMiddle(Middle):
    """MEDFE's middle as the released code arranges it, on the same weights; of its switches only fix_mask may be off.

    The baseline of the benchmark, and the second implementation that tests compare the fast middle with.
    """

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
        valid = (~feature_hole(hole, self.fix_mask)).float()
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


MEDFE_CASES = {
    "cuda": {"width": 64, "middle": 64, "batches": {256: (1, 16), 128: (1, 64)}, "structures": {256: 32}},
    "cpu": {"width": 8, "middle": 16, "batches": {128: (1, 4), 64: (1, 4)}, "structures": {256: 4, 64: 4}},
}
"""What `medfe` times on each kind of device: batches by photo size in px, and how many structure images at once."""

MEDFE_GOALS = {256: 200.0, 128: 800.0}
"""Photos a second of the full width, by photo size in px, in less than 1 GB a photo."""


def medfe() -> list[dict]:
    """Photos a second, and on a GPU peak memory, of MEDFE's training step; milliseconds of a photo's structure.

    The step: all losses, structure images given, against the released arrangement at batch 1 (:func:`released_medfe`),
    with width 64 (a CPU: 8), and on a GPU the fastest arm against :data:`MEDFE_GOALS`. The middle alone, one photo of
    256 px, fp32 and eager in both arrangements. Structure: RTV by batched conjugate gradients, and the code of an
    auto-encoder in its place, against RTV by factorisation on the CPU.
    """
    device = choose_device()
    cases = MEDFE_CASES[device.type]
    rows = [_middle(256, cases["middle"], device)]
    for size, batches in cases["batches"].items():
        rows += _medfe_steps(size, batches, cases["width"], device)
    for size, n in cases["structures"].items():
        rows += _structures(size, n, device)
    return rows


def _medfe_steps(size: int, batches: tuple[int, ...], width: int, device: torch.device) -> list[dict]:
    gpu, rows = device.type == "cuda", []
    settings, vgg = MEDFESettings.described("conv1x1", size=size, width=width), pretrained.vgg16(device)
    photos = torch.randint(0, 256, (max(batches), 6, size, size), dtype=torch.uint8, device=device)
    arms = [(1, "released"), *itertools.product(batches, ("graph", "compile") if gpu else ("eager",))]
    steps, memory = {}, {}
    for batch, mode in arms:
        gc.collect()
        before = torch.cuda.memory_allocated() if gpu else 0
        method = (released_medfe(settings, 0, device, vgg) if mode == "released"
                  else MEDFE(settings, 0, device, acceleration=mode, vgg=vgg))  # fmt: skip
        steps[batch, mode] = lambda photos, i, method=method, batch=batch: method.step(photos[:batch], i)
        if gpu:
            with torch._dynamo.config.patch(automatic_dynamic_shapes=False):  # compiled for this arm's shapes alone
                seconds_per_step(steps[batch, mode], photos, 3)
                torch.cuda.reset_peak_memory_stats()
                seconds_per_step(steps[batch, mode], photos, 1)  # the one that a graph is captured of
            memory[batch, mode] = (torch.cuda.max_memory_allocated() - before) / batch
    seconds = dict(zip(arms, _in_turns(steps, photos, gpu), strict=True))
    speed = {arm: arm[0] / seconds[arm] for arm in arms}
    for batch, mode in arms[1:]:
        case = f"{size} px, width {width}, batch {batch}, {mode}; released: batch 1"
        rows.append(_row("medfe", f"step, {case}", speed[batch, mode], "photos/s", speed[arms[0]]))
        if gpu:
            rows.append(_row("medfe", f"peak memory, {case}", memory[batch, mode] / 2**30, "GiB/photo",
                             memory[arms[0]] / 2**30))  # fmt: skip
    if gpu:
        fastest, case = max(arms[1:], key=speed.get), f"{size} px, width {width}, fastest arm; goal"
        rows.append(_row("medfe", f"step, {case}", speed[fastest], "photos/s", MEDFE_GOALS[size]))
        rows.append(_row("medfe", f"peak memory, {case}", memory[fastest] / 1e9, "GB/photo", 1.0))
    return rows


def _middle(size: int, width: int, device: torch.device) -> dict:
    """Milliseconds of the middle, forward and backward."""
    network = Network(MEDFESettings(size=size, width=width)).to(device)
    released = copy.deepcopy(network.middle)
    released.__class__ = ReleasedMiddle
    photo, hole = torch.rand(1, 6, size, size, device=device), masks.centre(1, size).to(device)
    levels = [level.detach() for level in network.encoder(photo)]

    def step(middle: Middle) -> None:
        sum(level.square().mean() for level in middle(levels, hole)[0]).backward()

    arms = {"ours": lambda *_: step(network.middle), "released": lambda *_: step(released)}
    ours, theirs = (1000 * seconds for seconds in _in_turns(arms, photo, device.type == "cuda"))
    return _row("medfe", f"middle alone, {size} px, width {width}, batch 1; released", ours, "ms", theirs)


def _structures(size: int, n: int, device: torch.device) -> list[dict]:
    """Milliseconds a photo, of demo photos: how far conjugate gradients have to go depends on what is in them."""
    photos = load("demo", size, "train", "squash").spread(n)[0].to(device).float() / 255
    few, cae = photos[:4].cpu(), CAE(CAESettings(kind="structure", width=32), device=device, acceleration="eager")
    arms = {
        "RTV by factorisation": lambda *_: rtv.structure(few, solver="direct"),
        "RTV by conjugate gradients": lambda photos, _: rtv.structure(photos, solver="cg"),
        "code of an auto-encoder, width 32": lambda photos, _: cae.encode(photos),
    }
    reference, *seconds = _in_turns(arms, photos, gpu=False)  # few turns: each is long
    return [_row("medfe", f"structure, {size} px, {name}, batch {n}; RTV by factorisation: CPU", 1000 * each / n,
                 "ms/photo", 1000 * reference / len(few))
            for name, each in zip(list(arms)[1:], seconds, strict=True)]  # fmt: skip


BENCHES = {"context_encoder": context_encoder, "partial_conv": partial_conv, "latent_search": latent_search,
           "medfe": medfe}  # fmt: skip


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
