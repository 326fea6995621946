"""Every notebook, executed by papermill at the preset ``smoke``, and what the chain leaves behind."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

import inpaintlib
from inpaintlib import ROOT, settings
from inpaintlib.files import read_json
from inpaintlib.harness import report, sweep
from inpaintlib.harness.notebook import Failed
from inpaintlib.methods import context_encoder

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SWEEPS = sorted(path.stem for path in (ROOT / "notebooks" / "sweeps").glob("*.yaml"))
pytestmark = pytest.mark.notebooks


def run(arguments, results):
    environment = os.environ | {"INPAINT_RESULTS": str(results), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT / "notebooks", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All sweeps and reports at smoke."""
    folder = tmp_path_factory.mktemp("results")
    run(["-m", "inpaintlib", "sweep", "all", "--preset", "smoke", "--workers", "2"], folder)
    run(["-m", "inpaintlib", "report", "all", "--preset", "smoke"], folder)
    return folder


def test_reports_keep_what_jupyter_would_show_and_of_an_error_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")
    sources = ['preset: str = "quick"', "print(preset)\nprint(2)", "None",
               "import pandas as pd\npd.Series([3]).to_frame()",
               "import matplotlib.pyplot as plt\nplt.plot([1]);", "1 / 0"]  # fmt: skip
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata.tags = ["parameters"]
    paths = [tmp_path / "good.ipynb", tmp_path / "bad.ipynb"]
    for path, count in zip(paths, (5, 6), strict=True):
        nbformat.write(nbformat.v4.new_notebook(cells=cells[:count]), path)
    [done] = report._executed([(paths[0], "toy", "night")])
    assert done == tmp_path / "results" / "toy" / "good.ipynb"
    printed, nothing, table, figure = (cell.outputs for cell in nbformat.read(done, 4).cells[-4:])
    assert [(output.name, output.text) for output in printed] == [("stdout", "night\n2\n")]
    assert (nothing, set(table[0].data)) == ([], {"text/plain", "text/html"})
    assert [set(output.data) for output in figure] == [{"text/plain", "image/png"}]
    with pytest.raises(Failed, match="1 / 0") as failure:
        report._executed([(paths[1], "toy", "night")])
    assert failure.value.name == "ZeroDivisionError"


def test_the_overview_runs(tmp_path):
    parameters = {"test_photos": "8", "networks": "none", "size": "64"}
    pairs = [word for name, value in parameters.items() for word in ("-p", name, value)]
    run(
        ["-m", "papermill", "00_photos_masks_metrics.ipynb", str(tmp_path / "00.ipynb"), "-k", "python3", *pairs],
        tmp_path,
    )
    text = (tmp_path / "00.ipynb").read_text()
    assert "6.0206" in text  # the hole's quarter, photo by photo


@pytest.mark.parametrize("study", SWEEPS)
def test_every_planned_run_is_done_and_the_report_has_its_files(results, study):
    folder = results / study
    for item in sweep.plan(study, "smoke"):
        left = {path.name for path in (folder / "runs" / item.run_id).iterdir()}
        assert left >= {"params.json", "env.json", "metrics.json", "per_image.csv.gz", "history.csv", "notebook.ipynb"}
        assert "checkpoint.pt" not in left
    if not sweep.load(study).report:
        return
    table = pd.read_csv(folder / "table.csv")
    assert {"dataset", "metric", "value", "ci_low", "ci_high", "n_seeds", "n_photos", "test_set", "preset"} <= set(
        table
    )
    assert {path.suffix for path in (folder / "figures" / "smoke").iterdir()} <= {".png", ".jpg", ".gif"}


def test_context_encoder_metrics(results):
    planned = sweep.plan("context_encoder_ratios", "smoke")
    metrics = [read_json(results / "context_encoder_ratios" / "runs" / p.run_id / "metrics.json") for p in planned]
    names = {"psnr", "psnr_hole", "psnr_pooled", "psnr_hole_pooled", "ssim", "ssim_hole", "l1", "l1_hole", "sharpness",
             "seam", "images_per_second", "seconds", "peak_memory_gb", "test_set", "n_photos", "status"}  # fmt: skip
    assert all(names <= set(m) for m in metrics)
    regions = [item.parameters["region"] for item in planned]
    one_each = {(region, m["test_set"]) for region, m in zip(regions, metrics, strict=True)}
    assert len(one_each) == len(set(regions)) == len({test_set for _, test_set in one_each})
    assert len({m["psnr_hole"] for m in metrics}) == len(metrics)  # no two runs are the same run


def test_a_second_sweep_does_nothing(results):
    folder = results / "context_encoder_ratios" / "runs"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    done = run(["-m", "inpaintlib", "sweep", "context_encoder_ratios", "--preset", "smoke"], results)
    planned = len(sweep.plan("context_encoder_ratios", "smoke"))
    assert f"{planned} of {planned} runs were done before" in done.stdout + done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}


@pytest.mark.parametrize("stem", settings.OF_NOTEBOOKS)
def test_parameters_cells_say_what_the_settings_say(stem):
    stands, due = settings.parameters_cell(ROOT / "notebooks" / f"{stem}.ipynb")
    assert stands == due, "run python -m inpaintlib.settings"


def test_a_parameters_line_is_written_from_its_field():
    stale = "size: int = 64  # old\nown: int = 3  # stays\nratio: float = 999.0\nlr: float = 1e-3  # old (0, 1)"
    assert settings.declared(context_encoder.Settings, stale).splitlines() == [
        "size: int = 64  # px, a power of two; Pathak 2016 has 128 [32, inf)", "own: int = 3  # stays",
        "ratio: float = 999.0  # lambda_rec / lambda_adv; inf: reconstruction only [0, inf]",
        "lr: float = 1e-3  # Adam's learning rate for the discriminator D; the method's: 0.0002 (0, inf)"]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_notebooks_are_committed_whole(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in code)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert all(len("".join(cell["source"]).splitlines()) <= 25 for cell in code if "tags" not in cell["metadata"])
    assert outputs, "notebooks are committed with their outputs"
    assert not re.search(r"/(home|root|work|Users)/", json.dumps(outputs)), "an output names a folder of one machine"


def test_notebooks_are_small_enough_to_read_on_github():
    sizes = [path.stat().st_size for path in NOTEBOOKS]
    assert max(sizes) < 1.5e6
    assert sum(sizes) < 12e6


@pytest.mark.parametrize("study", SWEEPS)
def test_every_preset_of_every_sweep_is_valid(study):
    for preset in sweep.load(study).presets:
        planned = sweep.plan(study, preset)
        assert len({p.run_id for p in planned}) == len(planned)
        assert {p.parameters["preset"] for p in planned} == {preset}
    assert set(sweep.load(study).presets) <= {"smoke", "quick", "night", "full", "exact"}
