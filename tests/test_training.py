"""The training loop: budget, bit-exact resume, divergence, Ctrl-C, and a disk that is full."""

import os
import signal
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from inpaintlib import BadInput
from inpaintlib.methods.context_encoder import ContextEncoder, Settings
from inpaintlib.training import (
    Diverged,
    Trainer,
    choose_device,
    fit,
    frozen,
    generator,
    initialise,
    load_checkpoint,
    native_bf16,
    save_checkpoint,
    strip,
)

SMALL = Settings(size=64, width=4, bottleneck=8, overlap=4, noise=3)


@dataclass
class Noise:
    """Batches of noise that are a function of the step."""

    batch: int = 4

    def at(self, step):
        return torch.randint(0, 256, (self.batch, 3, 64, 64), dtype=torch.uint8, generator=generator(9, step))


class Line:
    """A method of one weight whose loss is the step's number, or what ``losses`` says instead."""

    device = torch.device("cpu")

    def __init__(self, losses=None):
        self.weight, self.losses, self.after = torch.zeros(1), losses or {}, {}

    def step(self, photos, step):
        self.weight += 1
        self.after.get(step, lambda: None)()
        return {"loss": torch.tensor(float(self.losses.get(step, step)))}

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["weight"]


def train(method, folder, kimg=0.04, **options):
    return fit(
        method, Noise(), folder, **{"kimg": kimg, "eval_kimg": 0.016, "progress": False, "tensorboard": False} | options
    )


def test_budget_is_photos_and_losses_are_means_since_the_last_row(tmp_path):
    method = Line()
    history = train(method, tmp_path, log_rows=5, evaluate=lambda: {"score": method.weight.item()})
    assert method.weight.item() == 10  # 40 photos in batches of 4
    assert history["step"].tolist() == [0, 2, 4, 6, 8, 10]
    assert history["kimg"].tolist() == [0, 0.008, 0.016, 0.024, 0.032, 0.04]
    assert history["loss"].tolist()[1:] == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert history["test_score"].dropna().tolist() == [0, 4, 8, 10]
    assert pd.read_csv(tmp_path / "history.csv")["loss"].equals(history["loss"])


@pytest.mark.parametrize(("every", "looked"), [(0.012, [0, 3, 6, 10]), (0.028, [0, 10]), (0.02, [0, 5, 10])])
def test_an_evaluation_shortly_before_the_last_is_left_out(tmp_path, every, looked):
    history = train(Line(), tmp_path, eval_kimg=every, evaluate=lambda: {"score": 1.0})
    assert history.dropna(subset="test_score")["step"].tolist() == looked
    assert len(list((tmp_path / "frames").iterdir())) == 0


def test_resumed_training_is_bit_identical(tmp_path):
    whole = ContextEncoder(SMALL, 5, "cpu")
    rows = train(whole, tmp_path / "whole")
    train(ContextEncoder(SMALL, 5, "cpu"), tmp_path / "parts", kimg=0.024)
    parts = ContextEncoder(SMALL, 77, "cpu")  # even from other initial weights: all is in the checkpoint ...
    parts.seed = 5  # ... but the seed of what steps draw
    continued = train(parts, tmp_path / "parts")
    for name, part in whole.state_dict().items():
        pairs = zip(_flat(part), _flat(parts.state_dict()[name]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    columns = ["step", "rec", "d_fake"]
    assert rows[columns].iloc[-1].tolist() == continued[columns].iloc[-1].tolist()
    assert continued["step"].is_unique


def _flat(state):
    if isinstance(state, torch.Tensor):
        return [state]
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for child in children for tensor in _flat(child)]


@pytest.mark.parametrize(("bad", "kept"), [(2, None), (7, 4)])
def test_a_loss_that_is_not_finite_names_its_update_and_the_last_good_checkpoint(tmp_path, bad, kept):
    with pytest.raises(Diverged, match=f"the loss loss is not finite after {bad + 1} updates") as caught:
        train(Line({bad: float("nan")}), tmp_path)
    assert caught.value.step == bad + 1
    if kept is None:
        assert caught.value.checkpoint is None
    else:
        assert load_checkpoint(caught.value.checkpoint)["step"] == kept


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    method = Line()
    method.after[6] = lambda: method.weight.fill_(float("inf"))
    looked = []
    with pytest.raises(Diverged, match="a weight is not finite after 8 updates"):
        train(method, tmp_path, evaluate=lambda: looked.append(method.weight.item()) or {})
    assert looked == [0, 4]  # nor looked at
    assert load_checkpoint(tmp_path / "checkpoint.pt")["method"]["weight"].isfinite()


def test_a_stop_while_the_network_is_looked_at_loses_no_training(tmp_path):
    def look():
        if method.weight.item() == 4:
            raise KeyboardInterrupt
        return {"score": np.float64(1.5)}  # which a checkpoint could not hold

    method = Line()
    with pytest.raises(KeyboardInterrupt):
        train(method, tmp_path, evaluate=look)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4
    looked, method = [], Line()
    history = train(method, tmp_path, evaluate=lambda: looked.append(method.weight.item()) or {"score": 1.5})
    assert looked == [4, 8, 10]  # the look that was cut off is made again
    whole = train(Line(), tmp_path / "whole", evaluate=lambda: {"score": 1.5})
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))
    train(Line(), tmp_path, evaluate=lambda: looked.append(0) or {})
    assert looked == [4, 8, 10]


def test_a_stop_in_the_last_look_is_heeded_and_costs_no_look(tmp_path):
    def press():
        if method.weight.item() == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return {"score": 1.0}

    method, looked = Line(), []
    with pytest.raises(KeyboardInterrupt, match="after the last step"):
        train(method, tmp_path, evaluate=press)
    train(Line(), tmp_path, evaluate=lambda: looked.append(1) or {})
    assert not looked


def test_a_row_long_after_the_last_checkpoint_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("inpaintlib.training.SAVE_SECONDS", 0)
    method = Line()
    method.after[7] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(method, tmp_path, log_rows=5, eval_kimg=1)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 6


def test_ctrl_c_completes_the_step_and_saves_it(tmp_path):
    method, before = Line(), signal.getsignal(signal.SIGINT)
    method.after[4] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5 of 10"):
        train(method, tmp_path, log_rows=2)
    assert signal.getsignal(signal.SIGINT) is before
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["step"] == state["method"]["weight"].item() == 5
    rest, never = Line(), Line()
    rows, whole = train(rest, tmp_path, log_rows=2), train(never, tmp_path / "whole", log_rows=2)
    assert rest.weight.item() == 10
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), whole.drop(columns="seconds"))  # of step 5, too


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, kind):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def full(state, file):
        file.write(b"half a file")
        raise kind(*[28] * (kind is OSError), "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BadInput, match=r"cannot write .*checkpoint.pt: No space left on device; free some space"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_out_of_gpu_memory_names_the_batch(tmp_path):
    method = Line()

    def full():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    method.after[3] = full
    with pytest.raises(BadInput, match="batch: the GPU ran out of memory at 4 photos a step; choose a smaller batch"):
        train(method, tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not a checkpoint", lambda b: b""])
def test_damaged_checkpoints_are_one_sentence(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.zeros(1000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match="not a readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(BadInput, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "other.pt")


def test_checkpoints_hold_no_code(tmp_path):
    torch.save({"step": os.system}, tmp_path / "evil.pt")
    with pytest.raises(BadInput, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")


def test_frames_are_what_was_drawn_at_each_evaluation(tmp_path):
    photos = torch.rand(3, 3, 64, 64)
    train(Line(), tmp_path, draw=lambda: photos)
    frames = sorted((tmp_path / "frames").iterdir())
    assert [float(frame.stem) for frame in frames] == [0, 0.016, 0.032, 0.04]
    assert Image.open(frames[0]).size == (3 * 64, 64)
    assert Image.open(frames[0]).tobytes() == strip(photos).tobytes()


def test_tensorboard_gets_losses_and_scores(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Line(), tmp_path, tensorboard=True, log_rows=5, evaluate=lambda: {"score": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 0.5), (4, 2.5), (6, 4.5), (8, 6.5), (10, 8.5)]
    assert [e.step for e in events.Scalars("test/score")] == [0, 4, 8, 10]


def test_frozen_networks_pass_gradients_and_take_none():
    network, x = torch.nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    network.bias.requires_grad_(False)
    with frozen(network):
        network(x).sum().backward()
    assert torch.equal(x.grad, network.weight.detach())
    assert network.weight.grad is None
    assert network.weight.requires_grad
    assert not network.bias.requires_grad


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert ContextEncoder(SMALL, 0, "cpu").bf16 == native_bf16()
    assert not ContextEncoder(SMALL, 0, "cpu", "fp32").bf16
    with pytest.raises(BadInput, match="device: 'abacus' cannot be used here"):
        choose_device("abacus")


def test_fp32_is_not_tf32():
    assert not torch.backends.cudnn.allow_tf32


def test_a_second_gpu_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    Trainer().set_device(torch.device("cuda:1"), "auto", "eager")
    assert chosen == [torch.device("cuda:1")]


def test_a_checkpoint_goes_on_on_another_device():
    there, here = (ContextEncoder(SMALL, 0, "cpu") for _ in range(2))
    state = there.state_dict()
    for optimiser in ("adam_g", "adam_d"):
        state[optimiser]["param_groups"][0]["capturable"] = True  # as a GPU's are
    here.load_state_dict(state)
    assert not any(group["capturable"] for optimiser in (here.adam_g, here.adam_d) for group in optimiser.param_groups)
    here.step(Noise().at(0), 0)


def test_generators_differ_by_seed_and_step_alone():
    draws = {(s, i): torch.rand(1, generator=generator(s, i)).item() for s in range(5) for i in range(20)}
    assert len(set(draws.values())) == 100
    assert torch.rand(1, generator=generator(3, 7)).item() == draws[3, 7]


def test_modules_are_initialised_from_the_seed_and_their_own_name():
    def network(extra: bool) -> nn.Sequential:
        layers = {"a": nn.Conv2d(3, 4, 3), **({"extra": nn.Conv2d(4, 4, 1)} if extra else {}), "b": nn.Linear(4, 2)}
        return nn.Sequential(OrderedDict(layers))

    one, two, other = (initialise(network(e), seed, "F") for e, seed in ((False, 0), (True, 0), (False, 1)))
    shared, again = one.state_dict(), two.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in shared.items())
    assert not any(torch.equal(value, other.state_dict()[name]) for name, value in shared.items())
    assert not torch.equal(shared["a.weight"], initialise(network(False), 0, "D").state_dict()["a.weight"])
