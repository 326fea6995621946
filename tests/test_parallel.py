"""One run in two processes: the same weights and losses as in one but for rounding, and the same checkpoints."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import SMALL, batch, trainer
from torch import nn

import inpaintlib
from inpaintlib import BadInput, parallel
from inpaintlib.files import read_json
from inpaintlib.harness import torchrun
from inpaintlib.methods.medfe_released import OverwrittenPartialConv2d
from inpaintlib.training import fit, load_checkpoint

STEPS, BATCH = 3, 4


class Noise:
    """Batches that a method trains on, a function of the step."""

    def __init__(self, method, n: int = BATCH):
        self.method, self.batch = method, n

    def at(self, step):
        return batch(self.method, step, self.batch)


def train(name: str, folder, steps: int = STEPS, n: int = BATCH):
    """An epsilon of .01 in place of 1e-8: Adam would turn the rounding of a gradient that is zero into whole steps.

    Counting kernels of one sign: sums of released MEDFE's that are nearly zero would turn rounding into large numbers.
    """
    method, kimg = trainer(name), steps * n / 1000
    for part in (getattr(method, each) for each in method.state):
        for group in part.param_groups if isinstance(part, torch.optim.Optimizer) else ():
            group["eps"] = 0.01
        for layer in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(layer, OverwrittenPartialConv2d):
                layer.counting.abs_()
    return fit(method, Noise(method, n), folder, kimg=kimg, eval_kimg=kimg, log_rows=steps, progress=False,
               tensorboard=False)  # fmt: skip


def main(folder: str, names: list[str]) -> None:
    """What each of the two processes does: every method from its start, and the first once more from a checkpoint."""
    from pathlib import Path

    torch.set_num_threads(1)
    parallel.start()
    for name in names:
        own = Path(folder) / (name if parallel.rank() == 0 else f"follower of {name}")
        for steps in (STEPS, STEPS + 1) if name == names[0] else (STEPS,):
            try:
                train(name, own, steps)
            except parallel.Followed:
                assert parallel.rank() == 1
    try:
        train(names[0], Path(folder) / f"odd {parallel.rank()}", n=3)
    except BadInput as error:
        (Path(folder) / f"said {parallel.rank()}").write_text(str(error))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have trained every small method."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
               "--nproc-per-node=2", __file__]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{inpaintlib.ROOT}:{inpaintlib.ROOT / 'tests'}"}
    made = subprocess.run([*command, str(folder), json.dumps(list(SMALL))], env=env, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


def flat(state) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state.double()]
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for child in children for tensor in flat(child)]


@pytest.mark.parametrize("name", SMALL)
def test_two_processes_reach_what_one_does(two, tmp_path, name):
    """Networks, batch norm's statistics, Adam's moments (hence gradients) and losses.

    Signs in an L1's gradient may flip; biases before MEDFE's instance norms have no gradient but rounding.
    """
    steps = STEPS + (name == next(iter(SMALL)))  # the first went on from its checkpoint
    history = train(name, tmp_path, steps)
    one, other = (load_checkpoint(folder / "checkpoint.pt") for folder in (tmp_path, two / name))
    assert one["step"] == other["step"] == steps
    for ours, theirs in zip(flat(one["method"]), flat(other["method"]), strict=True):
        assert (ours - theirs).norm() <= 5e-3 * ours.norm() + 2e-4
    losses = [column for column in history if column not in ("kimg", "step", "seconds")]
    for ours, theirs in zip(one["rows"][1:], other["rows"][1:], strict=True):
        assert {n: theirs[n] for n in losses} == pytest.approx({n: ours[n] for n in losses}, rel=1e-3, abs=1e-5)


def test_a_batch_that_does_not_divide_is_one_sentence(two):
    for rank in (0, 1):
        said = (two / f"said {rank}").read_text()
        assert said == "batch: 3 photos a step do not divide among 2 processes; choose a multiple"


def test_followers_leave_no_checkpoint(two):
    assert not list(two.glob("follower*/checkpoint.pt"))


def test_batch_norm_is_pytorchs_in_one_process():
    """Output, gradients and running statistics, for a scale and shift of its own."""
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    plain, ours = nn.BatchNorm2d(3), parallel.BatchNorm(3)
    with torch.no_grad():
        for layer in (plain, ours):
            layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            layer.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    outputs = [layer(x) for layer in (plain, ours)]
    torch.testing.assert_close(*outputs)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()])
                 for y, layer in zip(outputs, (plain, ours), strict=True)]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.state_dict(), ours.state_dict())


@pytest.mark.parametrize(
    ("words", "said"),
    [("context_encoder_ratios", "torchrun: name a study and a preset"),
     ("context_encoder_ratios smoke seed=77", "torchrun: 0 runs .* have seed=77; name one"),
     ("context_encoder_ratios smoke arm=ratio", "torchrun: 6 runs .* have arm=ratio; name one")],
)  # fmt: skip
def test_torchrun_wants_one_run(results, words, said):
    with pytest.raises(BadInput, match=said):
        torchrun.main(words.split())


def test_torchrun_says_why_its_run_failed(results, monkeypatch, capsys):
    monkeypatch.setattr(torchrun.parallel, "start", lambda: None)
    monkeypatch.setattr(torchrun.engine, "_execute", lambda job, run: run.fail("Traceback\nValueError: no photos"))
    assert torchrun.main(["context_encoder_ratios", "smoke", "arm=ratio", "ratio=1000", "seed=0"]) == 1
    assert re.fullmatch(r"failed    context_encoder_ratios arm=.*: ValueError: no photos\n", capsys.readouterr().err)


@pytest.mark.slow
def test_torchrun_finishes_a_run_of_a_sweep(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    run = ["-m", "inpaintlib.harness.torchrun", "context_encoder_ratios", "smoke", "arm=ratio", "ratio=1000", "seed=0"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "INPAINT_RESULTS": str(tmp_path)}
    made = subprocess.run([*command, "--nproc-per-node=2", *run], env=env, cwd=inpaintlib.ROOT, timeout=300)
    assert made.returncode == 0
    (folder,) = (tmp_path / "context_encoder_ratios" / "runs").iterdir()
    assert read_json(folder / "metrics.json")["status"] == "done"
    assert not (folder / "running.lock").exists()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
