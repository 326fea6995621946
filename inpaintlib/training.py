"""The training loop that all methods share: kimg budget, history, checkpoints, frames, divergence.

A method brings its networks and one update; :func:`fit` drives it. Everything random inside a step is drawn
from :func:`generator` ``(seed, step)``, and batches are a function of the step, so a checkpoint is weights,
optimisers and a step count, and resuming is bit-identical to never having stopped (on a CPU).
"""

import contextlib
import math
import pickle
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from inpaintlib import BadInput, parallel
from inpaintlib.files import replacing

torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 on a GPU, too
SAVE_SECONDS = 600  # after so long without a checkpoint the next row of losses gets one


class Method(Protocol):
    """What :func:`fit` needs of a method in training."""

    device: torch.device

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update of all networks on uint8 photos (B,3,S,S); returns scalar losses, left on the device."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Diverged(RuntimeError):
    """A loss or a weight is not finite. ``step``: updates done when it was; ``checkpoint``: the last good one."""

    def __init__(self, step: int, what: str, checkpoint: Path):
        self.step, self.checkpoint = step, checkpoint if checkpoint.exists() else None
        kept = f"the last good checkpoint is {checkpoint}" if self.checkpoint else "no checkpoint had been written yet"
        super().__init__(f"training diverged: {what} is not finite after {step} updates; {kept}")


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU; raises BadInput for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device: {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto or cpu"
        ) from None


def native_bf16() -> bool:
    """Whether this CPU multiplies bf16 by itself (AVX512-BF16 or AMX), and not by way of fp32, which is slower."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def generator(seed: int, step: int = 0) -> torch.Generator:
    """A CPU generator that depends on (seed, step) alone."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + step * 0x85EBCA6B + 1) % 2**63)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generator inside the block (networks are initialised there) and restores it after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for this network's weights inside the block; gradients still flow through it."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def adam(network: nn.Module, lr: float, betas: tuple[float, float], device: torch.device) -> torch.optim.Adam:
    """Fused Adam; capturable on a GPU, so that a whole step can be replayed as one CUDA graph."""
    made = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=True, capturable=device.type == "cuda")
    if parallel.size() > 1:
        made.register_step_pre_hook(parallel.average_gradients)
    return made


def initialise(network: nn.Module, seed: int, name: str, rule: Callable[[nn.Module], None] | None = None) -> nn.Module:
    """Draws every weight of the network anew; each module's depend on (seed, name, the module's own name) alone.

    So two networks of one seed agree in each module that they share, whatever else either of them has. A module with
    weights of its own first gets PyTorch's default (``reset_parameters``), then what ``rule(module)`` makes of it.
    Returns the network.
    """
    for path, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            with seeded(zlib.crc32(f"{seed}/{name}.{path}".encode())):
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                if rule:
                    rule(module)
    return network


def initialise_dcgan(module: nn.Module) -> None:
    """DCGAN's rule, for ``network.apply``: convolutions N(0, .02), batch-norm scales N(1, .02), biases and shifts 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Trainer:
    """What the methods share: where and how they compute, and the ``state`` of their networks and optimisers.

    Args of :meth:`set_device`:
        device: ``auto``, ``cpu``, ``cuda`` or a torch device.
        precision: ``auto`` (bf16 on a GPU, and on a CPU that computes it natively), ``bf16`` or ``fp32``; losses are
            fp32 always.
        acceleration: ``auto`` (``graph`` on a GPU), ``eager``, ``graph`` (the step as one CUDA graph) or
            ``compile`` (compiled networks inside that graph: faster steps after about a minute of compiling).
    """

    state: tuple[str, ...]  # the names of the networks and optimisers that a checkpoint holds
    exported: tuple[str, ...]  # those of them that :meth:`save` writes: what filling holes needs
    kind: str  # the method's name in such a file
    title: str  # what :meth:`read` calls a file of this method
    settings_type: type  # of the settings that such a file holds
    loaded_with: ClassVar[dict] = {}  # arguments of the constructor where a file is loaded, beside settings and device

    def set_device(self, device: str | torch.device, precision: str, acceleration: str) -> None:
        """Sets ``device``, ``bf16``, ``graphed`` and ``compiled``; BadInput for what cannot be had here."""
        self.device = choose_device(device) if isinstance(device, str) else device
        if gpu := self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # where streams and graphs are made
        if precision not in ("auto", "bf16", "fp32"):
            raise BadInput(f"precision: {precision!r} will not do; it must be auto, bf16 or fp32")
        if acceleration not in ("auto", "eager", "graph", "compile"):
            raise BadInput(f"acceleration: {acceleration!r} will not do; it must be auto, eager, graph or compile")
        if acceleration in ("graph", "compile") and not gpu:
            raise BadInput(f"acceleration: {acceleration!r} needs a GPU; on a CPU it must be auto or eager")
        self.bf16 = precision == "bf16" or (precision == "auto" and (gpu or native_bf16()))
        self.graphed, self.compiled = gpu and acceleration != "eager", acceleration == "compile"
        if parallel.size() > 1:  # an exchange between processes in a graph has never been tried
            self.graphed = False
        if self.graphed:
            torch.backends.cudnn.benchmark = True

    def autocast(self) -> torch.autocast:
        """bf16 where it is on; without autocast's cache, which a CUDA graph must not hold."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def as_cuda_graph(self, update: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        """The update as one CUDA graph where that is on, else itself; among several processes on its rows alone."""
        if parallel.size() > 1:
            networks = [part for name in self.state if isinstance(part := getattr(self, name), nn.Module)]
            return parallel.sharded(update, networks)
        return GraphedUpdate(update) if self.graphed else update

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in self.state}

    def load_state_dict(self, state: dict, name: str = "checkpoint") -> None:
        """Loads some or all parts, saved on any device; BadInput where they are of another architecture."""
        try:
            for part in (each for each in state if each not in ("kind", "settings")):  # a DCGAN's had these
                (own := getattr(self, part)).load_state_dict(state[part])
                for group in getattr(own, "param_groups", ()):
                    group["capturable"] = self.device.type == "cuda"
        except (RuntimeError, ValueError, AttributeError, TypeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{name}: does not fit these settings ({reason}); use the settings it was trained "
                           "with, or another run name") from error  # fmt: skip

    def save(self, path: Path) -> None:
        """Writes what filling holes needs: settings and weights."""
        networks = {name: getattr(self, name).state_dict() for name in self.exported}
        save_checkpoint(path, {"kind": self.kind, "settings": asdict(self.settings)} | networks)

    @classmethod
    def read(cls, path: Path) -> tuple[Any, dict]:
        """(settings, state) of what :meth:`save` wrote; BadInput for any other file."""
        state = load_checkpoint(path)
        try:
            if state.pop("kind", cls.kind) == cls.kind and set(state) == {"settings", *cls.exported}:
                return cls.settings_type(**state.pop("settings")), state
        except TypeError:  # the settings of another method
            pass
        raise BadInput(f"{path}: not a finished {cls.title}")

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "auto") -> Self:
        """A trained network from what :meth:`save` wrote, ready for use. BadInput for any other file."""
        settings, state = cls.read(path)
        method = cls(settings, device=device, acceleration="eager", **cls.loaded_with)
        method.load_state_dict(state, str(path))
        return method


class GraphedUpdate:
    """Replays ``update(**tensors) -> dict of scalar tensors`` as one CUDA graph.

    The first three calls run eagerly (they are ordinary training steps and warm the allocator up); the fourth
    is captured, and from then on each call copies its tensors into the captured inputs and replays. Input shapes
    must not change between calls.
    """

    def __init__(self, update: Callable[..., dict[str, Tensor]]):
        self.update, self.calls, self.graph = update, 0, None

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= 3:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                losses = self.update(**tensors)
            torch.cuda.current_stream().wait_stream(stream)
            return losses
        if self.graph is None:
            self.inputs = {name: tensor.clone() for name, tensor in tensors.items()}
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.losses = self.update(**self.inputs)
        for name, tensor in tensors.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.losses


def save_checkpoint(path: Path, state: dict) -> None:
    """Writes tensors and plain values atomically; on a full disk the old file stays and BadInput says so."""
    advice = "free some space and start the same command again, it resumes from the last checkpoint"
    with replacing(path, advice) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what is left of an OSError that passed through C++
            raise OSError(str(error).splitlines()[0]) from error


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", advice: str = "give a weights.pt of this study"
) -> dict:
    """Reads what :func:`save_checkpoint` wrote, tensors and plain values only; BadInput, with advice, on any other."""
    try:
        return dict(torch.load(path, map_location=device, weights_only=True))
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such checkpoint; train first, or name another run") from None
    except (RuntimeError, EOFError, ValueError, TypeError, OSError, pickle.UnpicklingError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a readable checkpoint ({reason}); {advice}") from None


def strip(photos: Tensor) -> Image.Image:
    """Photos (n,3,H,W) in [0,1] side by side as one picture."""
    rows = (photos.detach().float().cpu() * 255).round().clamp(0, 255).byte()
    return Image.fromarray(torch.cat(list(rows), dim=2).permute(1, 2, 0).contiguous().numpy())


class _Interrupt:
    """Holds Ctrl-C back until the step in progress is complete, so that what is saved is a whole step."""

    def __enter__(self):
        self.pressed, self.old = False, None
        with contextlib.suppress(ValueError):  # not the main thread: leave the handler alone
            self.old = signal.signal(signal.SIGINT, self._press)
        return self

    def _press(self, *_):
        if self.pressed:  # the second press does not wait
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *_):
        if self.old is not None:
            signal.signal(signal.SIGINT, self.old)


class _History:
    """Rows of ``history.csv``: losses are gathered on the device and read only when a row is due."""

    def __init__(self, folder: Path, batch: int, rows: list[dict], seconds: float, pending: list[Tensor], writer):
        self.folder, self.batch, self.rows, self.pending, self.writer = folder, batch, rows, pending, writer
        self.began = time.perf_counter() - seconds

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def record(self, losses: dict[str, Tensor]) -> None:
        self.names = list(losses)
        self.pending.append(torch.stack([loss.detach().float() for loss in losses.values()]))

    def read(self, step: int, checkpoint: Path) -> dict[str, float]:
        """Means of the losses since the last row, the only host sync of the loop; Diverged if one is not finite."""
        losses = torch.stack(self.pending).cpu()
        if len(bad := (~losses.isfinite()).nonzero()):
            done = step - len(losses) + int(bad[0, 0]) + 1
            raise Diverged(done, f"the {self.names[bad[0, 1]]} loss", checkpoint)
        return dict(zip(self.names, losses.mean(0).tolist(), strict=True))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Puts values into the row of this step and, where it is on, into TensorBoard."""
        if not self.rows or self.rows[-1]["step"] != step:
            kimg = step * self.batch / 1000
            self.rows.append({"kimg": kimg, "step": step, "seconds": round(self.seconds(), 3)})
            if torch.cuda.is_available():
                self.rows[-1]["gpu_gb"] = round(torch.cuda.memory_reserved() / 2**30, 3)  # GiB
        self.rows[-1].update(values)
        for name, value in values.items() if self.writer else ():
            self.writer.add_scalar(name.replace("test_", "test/"), value, step)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def write(self) -> None:
        self.frame().to_csv(self.folder / "history.csv", index=False)


def fit(
    method: Method,
    batches,
    folder: Path,
    *,
    kimg: float,
    eval_kimg: float,
    evaluate: Callable[[], dict[str, float]] | None = None,
    draw: Callable[[], Tensor] | None = None,
    on_evaluation: Callable[[pd.DataFrame], None] | None = None,
    tensorboard: bool = True,
    log_rows: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains ``method`` for ``kimg`` thousand photos and returns its history.

    Args:
        batches: has ``.batch`` (photos a step) and ``.at(step) -> uint8 (B,3,S,S)`` on the method's device.
        folder: receives ``history.csv`` (kimg, step, seconds, the losses' means since the row before, ``test_*``),
            ``checkpoint.pt``, ``frames/<kimg>.png`` and ``tensorboard/``.
            If it holds a checkpoint already, training goes on from there; one is written before each evaluation.
        kimg: the budget, thousands of photos shown. ``eval_kimg``: between two evaluations (also at 0 and the end;
            one that would fall less than half of that before the end is left out).
        evaluate: returns metrics of the network as it stands, recorded as ``test_<name>``.
        draw: returns photos (n,3,S,S) in [0,1], always of the same test photos or latents: a frame of the GIF.
        on_evaluation: called with the history after each evaluation (a live plot, say).
        log_rows: about how many rows of losses a history gets; losses are read only then.

    Raises:
        Diverged: a loss or weight is not finite; nothing bad is ever checkpointed.
        BadInput: out of GPU memory, a full disk, a damaged checkpoint.
        KeyboardInterrupt: after Ctrl-C, once the step in progress is whole and saved.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    if follows := parallel.rank() > 0:
        evaluate = draw = on_evaluation = None
        tensorboard = progress = False
    in_steps = 1000 / batches.batch
    steps = max(1, math.ceil(kimg * in_steps))
    log, evaluation = (max(1, round(n)) for n in (steps / log_rows, eval_kimg * in_steps))
    path, state = folder / "checkpoint.pt", {"rows": [], "step": 0, "seconds": 0.0}
    advice = "delete it to start this run anew"
    there = parallel.agreed(load_checkpoint(path, method.device, advice) if path.exists() else None)
    if there:
        state = there
        method.load_state_dict(state["method"])
    start, writer = state["step"], _tensorboard(folder, state["step"]) if tensorboard else None
    history = _History(folder, batches.batch, state["rows"], state["seconds"], state.get("pending", []), writer)

    def due(step: int) -> bool:
        return step in (0, steps) or (step % evaluation == 0 and steps - step >= evaluation / 2)

    def look(step: int) -> None:
        if evaluate:
            history.add(step, {f"test_{name}": float(value) for name, value in evaluate().items()})
        if draw:
            strip(draw()).save(folder / "frames" / f"{step * batches.batch / 1000:010.3f}.png")
        history.write()
        if on_evaluation:
            on_evaluation(history.frame())

    def save(step: int) -> float:
        if not follows:
            state = {"method": method.state_dict(), "rows": history.rows, "step": step, "seconds": history.seconds()}
            save_checkpoint(path, state | {"pending": history.pending})
        history.write()
        return time.perf_counter()

    if due(start) and not (start and any(name.startswith("test_") for name in history.rows[-1])):
        look(start)  # again, where a stop cut it off
    saved = time.perf_counter()
    bar = tqdm(total=steps, initial=start, unit="step", desc=folder.name[:40], disable=not progress, mininterval=1)
    try:
        with bar, _Interrupt() as interrupt:
            for done in range(start + 1, steps + 1):
                history.record(method.step(batches.at(done - 1), done - 1))
                bar.update()
                pressed, looking = parallel.anywhere(interrupt.pressed), due(done)
                row = done == steps or done % log == 0 or done % evaluation == 0
                if row or pressed:
                    losses = history.read(done, path)
                if row:
                    history.add(done, losses)
                    history.pending.clear()
                    bar.set_postfix({name: f"{value:.3g}" for name, value in losses.items()}, refresh=False)
                if looking or pressed or (row and time.perf_counter() - saved > SAVE_SECONDS):
                    if not all(t.isfinite().all() for t in _tensors(method.state_dict())):
                        raise Diverged(done, "a weight", path)
                    saved = save(done)
                if pressed:
                    raise KeyboardInterrupt(f"stopped after step {done} of {steps}; the checkpoint is {path}")
                if looking:
                    look(done)
            save(steps)
            if interrupt.pressed:
                raise KeyboardInterrupt(f"stopped after the last step; the checkpoint is {path}")
    except torch.cuda.OutOfMemoryError as error:
        raise BadInput(f"batch: the GPU ran out of memory at {batches.batch} photos a step; choose a smaller batch "
                       f"({str(error).splitlines()[0]})") from error  # fmt: skip
    finally:
        if writer:
            writer.close()
    if follows:
        raise parallel.Followed
    return history.frame()


def _tensorboard(folder: Path, step: int):
    from torch.utils.tensorboard import SummaryWriter  # a second to import: only when it is on

    return SummaryWriter(folder / "tensorboard", purge_step=step)


def _tensors(state) -> list[Tensor]:
    """All floating-point tensors in a nested state."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for child in children for tensor in _tensors(child)]
