"""How fast: ``python -m inpaintlib bench NAME`` times a study's training step beside a plain one, in the same run.

Each benchmark writes its rows into ``results/bench.csv``: bench, case, device, value, unit, baseline, ratio. Values are
medians; fast and plain steps take turns, so that a machine that slows down slows both.
"""

import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_atomically
from inpaintlib.methods.context_encoder import ContextEncoder, Discriminator, Generator, Settings, overlap_weights
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


BENCHES = {"context_encoder": context_encoder}


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
