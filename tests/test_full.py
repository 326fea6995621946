"""An hour on one GPU: the plan's arithmetic, its pieces and its rehearsal; parts for a machine without network."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import fields, replace

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torchvision
from conftest import CLASSES, coders, noise
from PIL import Image

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.data.masks import centre, irregular
from inpaintlib.data.test_set import TestSet
from inpaintlib.harness import full, pack, runs, sweep
from inpaintlib.methods import autoencoder, context_encoder, dcgan, latent_search, medfe, partial_conv
from inpaintlib.metrics import evaluate

ROOT = inpaintlib.ROOT
PLAN = (ROOT / "notebooks" / "sweeps" / "full.md").read_text()
NOTEBOOK = """
import time
import pandas as pd
from inpaintlib.harness.runs import Run
run = Run.start("10_tiny.ipynb", globals())
time.sleep(wait)
run.finish({"shown": 1000 * kimg, "turns": iterations}, pd.DataFrame({"psnr": [1.0]}))
"""
PARAMETERS = """study: str = "x"  # folder
run_id: str = ""  # address
kimg: float = 1.0  # length (0, inf)
eval_kimg: float = 1.0  # length (0, inf)
iterations: int = 300  # number [0, inf)
wait: float = 0.0  # seconds [0, inf)
seed: int = 0  # [0, inf)
"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
ROW = "| {} | tiny | {} | what? | {} | assumed | 1 | 1 |\n"


def test_every_full_run_is_in_one_line_and_the_arithmetic_is_right():
    lines, total = full.lines(), 0.0
    made = [(item.study, item.run_id) for line in lines for item in line.items]
    wanted = [(item.study, item.run_id) for study in sweep.names() if study != "all_methods"
              for item in sweep.plan(study, "full")]  # fmt: skip
    assert sorted(made) == sorted(wanted)
    for line in lines:
        row = re.search(rf"^\| {line.number} \|.*\| *(\d+) \| *([\d.]+) \|$", PLAN, re.M)
        minutes = round(len(line.items) * (line.work + full.BESIDE) / 60, 1)
        assert (int(row[1]), float(row[2])) == (len(line.items), minutes)
        total += minutes
    assert total <= 60
    assert f"| {len(made)} | {total:.1f} |" in PLAN


def test_the_work_of_a_line_is_what_its_runs_are_told_to_do():
    for line in full.lines():
        row = re.search(rf"^\| {line.number} \|.*$", PLAN, re.M)[0]
        told = sum(float(work) for work in re.findall(r"([\d.]+)/[\d.]+", row))
        for p in (item.parameters for item in line.items):
            if "kimg" in p:
                assert told == p["kimg"]
            else:  # thousands of photos x restarts x iterations
                kinds = len(p["masks"].split("+"))
                assert told == pytest.approx(
                    kinds * p["test_photos"] * p["restarts"] * p["iterations"] / 1000, rel=1e-3
                )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A study of two runs and the plan of it, in a repository of their own; a function that writes the plan's rows."""
    folder = tmp_path / "notebooks" / "sweeps"
    folder.mkdir(parents=True)
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(NOTEBOOK)]  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), folder.parent / "10_tiny.ipynb")
    monkeypatch.setattr(inpaintlib, "ROOT", tmp_path)
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")

    def write(*rows: str, wait: float = 0.0) -> None:
        presets = f"full: {{parameters: {{kimg: 64, eval_kimg: 32, wait: {wait}}}, runs: [{{seed: [0, 1]}}]}}"
        (folder / "tiny.yaml").write_text(f"study: tiny\nnotebook: 10_tiny.ipynb\npresets: {{{presets}}}\n")
        (folder / "full.md").write_text("".join(ROW.format(i, *row) for i, row in enumerate(rows, 1)))

    write(("seed=1", "64/2"), ("", "64/4 + 6/3"))
    return write


def test_a_run_belongs_to_the_first_line_that_names_it(tiny):
    first, second = full.lines()
    assert [item.parameters["seed"] for item in first.items] == [1]
    assert [item.parameters["seed"] for item in second.items] == [0]
    assert (first.work, second.work) == (32, 18)
    assert full.forecast()["minutes"].tolist() == [0.6, 0.4]  # (32 + 5) / 60 and (18 + 5) / 60


@pytest.mark.parametrize(
    ("row", "said"),
    [(("seed=1", "fast"), "line 1 must have the columns line, study, .* work such as 12/4"),
     (("seed=7", "1/2"), "line 1 has no runs that are not in a line before it"),
     (("seed", "1/2"), "'seed' is not NAME=VALUE")],
)  # fmt: skip
def test_lines_that_cannot_be_read_are_one_sentence(tiny, row, said):
    tiny(row)
    with pytest.raises(BadInput, match=said):
        full.lines()


def test_a_rehearsal_trains_for_a_thousandth_and_leaves_results_alone(tiny, capsys):
    tiny(("", "64/2"))
    assert full.run(rehearse=True, workers=2) == 0
    assert "done" in capsys.readouterr().out
    assert not inpaintlib.RESULTS.exists()
    with full.rehearsal():
        found = runs.load_table(runs.find("tiny"))
        assert (found["shown"] == 64).all()
        assert (found["turns"] == 1).all()
        assert (found["kimg"] == 0.064).all()
        assert (found["eval_kimg"] == 0.032).all()
    assert sweep.plan("tiny", "full")[0].parameters["kimg"] == 64
    assert set(full.forecast()["beside a run, s"].str.split(", ").str[1]) == {"measured"}
    assert not inpaintlib.RESULTS.exists()


def test_lines_for_which_the_gpu_is_too_small_are_left_out_with_a_sentence(tiny, monkeypatch, capsys):
    with full.rehearsal():
        item = full.lines()[0].items[0]
        item.run.folder.mkdir(parents=True)
        pd.DataFrame({"kimg": [0, 1], "gpu_gb": [math.nan, 12.5]}).to_csv(item.run.folder / "history.csv")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=8 * 2**30))
    made = []
    monkeypatch.setattr(sweep, "run", lambda studies, *_, only, **__: made.append((studies, only)))
    assert full.run(workers=1) == 0
    assert made == [(["tiny"], None)]  # line 2
    assert "line 1 is left out: it needs 12.5 GiB of GPU memory and this GPU has 8.0." in capsys.readouterr().out


def test_lines_whose_photos_are_missing_are_named_first_and_left_out(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "missing", lambda items: "celeba is not here" if items[0].run_id in first else "")
    first, made = {full.lines()[0].items[0].run_id}, []
    monkeypatch.setattr(sweep, "run", lambda studies, *_, only, **__: made.append((studies, only)))
    assert full.run(workers=1) == 1
    assert made == [(["tiny"], None)]  # line 2
    assert capsys.readouterr().out.splitlines()[0] == "line 1 is left out: celeba is not here"
    first |= {item.run_id for line in full.lines() for item in line.items}
    with pytest.raises(BadInput, match="celeba is not here"):
        full.run(workers=1)


def test_the_number_of_runs_that_share_a_gpu_is_what_was_measured(tiny, monkeypatch):
    assert full._measured_workers() is None
    device = runs.environment()["device"]
    rows = [(f"{n} runs at a time", device, value) for n, value in ((1, 10), (2, 15), (4, 12))]
    rows.append(("8 runs at a time", "another", 99))
    inpaintlib.RESULTS.mkdir()
    pd.DataFrame(rows, columns=["case", "device", "value"]).assign(bench="share").to_csv(
        inpaintlib.RESULTS / "bench.csv"
    )
    assert full._measured_workers() == 2


# Parts ----------------------------------------------------------------------------------------------------------------

SWEEP = """study: carried
notebook: carried.ipynb
presets: {full: {runs: [{seed: 0}]}}
"""
READING = """
import pandas as pd
from inpaintlib.data import photos
from inpaintlib.harness.runs import Run
run = Run.start("carried.ipynb", globals())
run.finish({"n_photos": len(photos.load(dataset, 64, "train"))}, pd.DataFrame({"psnr": [1.0]}))
"""
NO_NETWORK = """
import socket
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "localhost", "::1")):
        raise OSError(101, "Network is unreachable")
    return connect(self, address)
socket.socket.connect = local
"""


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The parts of a sweep over 40 small photos, at most 200,000 bytes each; the sweep file lies beside them."""
    data, random = tmp_path / "data", np.random.default_rng(0)
    (data / "UTKFace").mkdir(parents=True)
    for i in range(40):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(data / "UTKFace" / f"{i}.png")
    monkeypatch.setattr(inpaintlib, "DATA", data)
    monkeypatch.setattr(pack, "PART", 200_000)
    cells = [nbformat.v4.new_code_cell(PARAMETERS + 'dataset: str = "utkface"\n', metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(READING)]  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "carried.ipynb")
    (tmp_path / "carried.yaml").write_text(SWEEP)
    said = pack.pack("full", tmp_path / "parts", [str(tmp_path / "carried.yaml")])
    assert re.fullmatch(r"5 files in 3 parts, 0\.\d MB, in .*parts\. Pretrained networks are not among them.*", said)
    assert max(path.stat().st_size for path in (tmp_path / "parts").glob("part-*")) == 200_000
    return tmp_path / "parts"


def test_parts_come_back_byte_for_byte(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "there")
    assert re.fullmatch(r"5 files are in .*there; start the runs with make full", pack.unpack(packed))
    before = {p.relative_to(tmp_path / "data"): p for p in (tmp_path / "data" / "prepared").rglob("*") if p.is_file()}
    before = {name: path for name, path in before.items() if not path.name.startswith(".")}
    assert len(before) == 5
    assert all((tmp_path / "there" / name).read_bytes() == path.read_bytes() for name, path in before.items())


def test_a_file_behind_a_link_is_packed_and_a_foreign_manifest_moves_nothing(packed, tmp_path, monkeypatch):
    place = next((tmp_path / "data" / "prepared").glob("*/meta.json"))
    place.rename(tmp_path / "elsewhere.json")
    place.symlink_to(tmp_path / "elsewhere.json")
    pack.pack("full", tmp_path / "again", [str(tmp_path / "carried.yaml")])
    manifest = tmp_path / "again" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": ["../elsewhere.json"]}))
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "there")
    assert "5 files are in" in pack.unpack(tmp_path / "again")
    found = tmp_path / "there" / place.relative_to(tmp_path / "data")
    assert found.read_bytes() == (tmp_path / "elsewhere.json").read_bytes()
    assert not found.is_symlink()


def test_missing_and_damaged_parts_are_one_sentence_and_put_nothing_in_place(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "there")
    part = packed / "part-001.tar.gz"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match=r"part-001.tar.gz is damaged \(another SHA-256 than manifest.json has\)"):
        pack.unpack(packed)
    part.unlink()
    with pytest.raises(BadInput, match=r"of 3 parts 1 are missing in .*parts \(part-001.tar.gz\); copy them again"):
        pack.unpack(packed)
    (packed / "manifest.json").write_text('{"preset": "full"}')
    with pytest.raises(BadInput, match=r"manifest\.json lists no parts"):
        pack.unpack(packed)
    assert not (tmp_path / "there").exists()
    with pytest.raises(BadInput, match="is not empty"):
        pack.pack("full", packed, [str(tmp_path / "carried.yaml")])
    with pytest.raises(BadInput, match="no study has a preset 'huge'"):
        pack.pack("huge", tmp_path / "new", [str(tmp_path / "carried.yaml")])


@pytest.mark.slow
def test_a_clone_and_the_parts_start_the_sweep_without_network(packed, tmp_path):
    """Half a minute: three processes import torch anew, and one of them starts a worker."""
    clone = tmp_path / "clone"
    for name in subprocess.run(["git", "ls-files", "inpaintlib", "notebooks", "data"], cwd=ROOT, capture_output=True,
                               text=True, check=True).stdout.splitlines():  # fmt: skip
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (clone / "sitecustomize.py").write_text(NO_NETWORK)
    env = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
    env |= {"PYTHONPATH": str(clone)}

    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "inpaintlib", *arguments], cwd=clone, env=env, text=True,
                              capture_output=True, timeout=300)  # fmt: skip

    sweeping = ("sweep", str(packed.parent / "carried.yaml"), "--preset", "full", "--workers", "1")
    assert "utkface is not here" in command(*sweeping).stderr
    assert "5 files are in" in command("unpack", str(packed)).stdout
    made = command(*sweeping)
    assert made.returncode == 0, made.stderr
    (metrics,) = (clone / "results" / "carried" / "runs").glob("*/metrics.json")
    assert json.loads(metrics.read_text()) == {"n_photos": 35, "status": "done"}


def test_a_time_limit_in_which_nothing_is_reached_is_said(tiny, capsys):
    tiny(("", "64/2"), wait=60.0)
    assert sweep.run("tiny", "full", 1, time_limit=4.0) == 0
    assert (
        "No run reached its end or a checkpoint within 4 s: the time limit must be longer." in capsys.readouterr().out
    )


# Every setting of the preset, at its real size ------------------------------------------------------------------------

KINDS = {"10": context_encoder, "20": partial_conv, "30": dcgan, "40": autoencoder, "41": medfe, "31": latent_search}


def distinct_settings() -> dict[str, object]:
    """The settings of the preset full, each once; the number of its notebook and the run's id as a name."""
    found = {}
    for study in sweep.names():
        for item in sweep.plan(study, "full"):
            if kind := KINDS.get(item.notebook.name[:2]):
                values = {field.name: item.parameters[field.name] for field in fields(kind.Settings)}
                settings = kind.Settings(**values)
                if settings not in found.values():
                    found[f"{item.notebook.name[:2]} {item.run_id.rsplit(',seed', 1)[0]}"] = settings
    return found


FULL = distinct_settings()


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_settings_take_a_step_and_are_measured_at_their_real_size(name):
    """On a CPU, in fp32, with 2 photos a step in place of 16 to 512, so that each stays below 8 GiB; VGG untrained."""
    settings, vgg = FULL[name], torchvision.models.vgg16(weights=None).features
    if isinstance(settings, latent_search.Settings):
        gan = dcgan.DCGAN(dcgan.Settings(width=64), 0, "cpu", "fp32")
        search = latent_search.LatentSearch(gan, replace(settings, iterations=2), 0, precision="fp32")
        found = search.search(noise(2).float() / 255, centre(2, 64), records=2)
        assert found.restart_losses.shape == (2, settings.restarts)
        assert found.filled.isfinite().all()
        return
    codes = {}
    if isinstance(settings, medfe.Settings) and settings.of_code:
        codes = {"codes": coders(settings.width // 2)}
    with_vgg = {"vgg": vgg} if isinstance(settings, partial_conv.Settings | medfe.Settings) else {}
    if isinstance(settings, partial_conv.Settings):
        with_vgg["bank"] = irregular(6, settings.size, 0, (0.2, 0.3))
    method = CLASSES[type(settings)](settings, 0, "cpu", "fp32", **with_vgg, **codes)
    size = getattr(settings, "size", 128)
    photos = noise(2, size, 0, 6 if isinstance(settings, medfe.Settings) else 3)
    first = math.ceil(getattr(settings, "pixel_kimg", 0) * 500)  # MEDFE's first step with all terms
    losses = method.step(photos, first)
    assert all(loss.isfinite() for loss in losses.values())
    if isinstance(settings, dcgan.Settings):
        assert method.samples(2).shape == (2, 3, size, size)
    elif isinstance(settings, autoencoder.Settings):
        assert method.reconstruct(photos.float() / 255).shape == (2, 3, size, size)
    else:
        region = getattr(settings, "region", "centre")
        holes = masks.make(region, 2, size, 1) if region == "random_pixels" else centre(2, size, hole=size // 2)
        test_set = TestSet.make("noise", photos[:, :3], holes, ["a", "b"], ["a", "b"])
        scores = evaluate(method.inpaint, test_set, networks=(), device="cpu")
        assert math.isfinite(scores["psnr_hole"])
    assert psutil.Process().memory_info().rss < 8 * 2**30
