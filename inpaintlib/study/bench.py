"""How fast: ``python -m inpaintlib bench NAME`` times a study's training step beside a plain one, in the same run.

Each benchmark writes its rows into ``results/bench.csv``: bench, case, device, value, unit, baseline, ratio. Values are
medians; fast and plain steps take turns, so that a machine that slows down slows both.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.files import write_atomically
from inpaintlib.methods.context_encoder import ContextEncoder, Discriminator, Generator, Settings, overlap_weights
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.dcgan import Settings as DCGANSettings
from inpaintlib.methods.latent_search import LatentSearch
from inpaintlib.methods.latent_search import Settings as SearchSettings
from inpaintlib.methods.partial_conv import PartialConv2d, PartialConvNet
from inpaintlib.methods.partial_conv import Settings as PartialConvSettings
from inpaintlib.study.runs import environment
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


BENCHES = {"context_encoder": context_encoder, "partial_conv": partial_conv, "latent_search": latent_search}


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
