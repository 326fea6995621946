"""Sweeps: strict files, plans, and processes that fail, are killed and are interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness import runs, sweep
from inpaintlib.harness.runs import Run

PARAMETERS = """
ratio: float = 1000.0  # lambda_rec / lambda_adv [0, inf]
seed: int = 0  # random seed [0, inf)
act: str = "finish"  # what the run does {finish, raise, sleep, wait, silent, die}
study: str = "my_runs"
run_id: str = ""
"""
# The least that counts as a run, without the seconds that importing torch takes: `finish` is Run.finish's last write.
BODY = """
import json, os, pathlib, signal, time
folder = pathlib.Path(os.environ["INPAINT_RESULTS"], study, "runs", run_id)
(folder / "pid").write_text(str(os.getpid()))
print(os.getcwd())
if act == "raise":
    raise ValueError(f"seed {seed} is cursed")
if act == "sleep" and not (folder / "checkpoint").exists():
    (folder / "checkpoint").write_text("half way")
    time.sleep(60)
if act == "die":
    os.kill(os.getpid() if seed else os.getppid(), signal.SIGKILL)
    time.sleep(60)
if act != "silent":
    found = {"ratio_is_inf": ratio == float("inf"), "type": type(ratio).__name__}
    threads = os.environ["OMP_NUM_THREADS"]
    (folder / "metrics.json").write_text(json.dumps({**found, "threads": threads, "status": "done"}))
"""
RUN_START = """
import pandas as pd
from inpaintlib.harness.runs import Run
run = Run.start("10_tiny.ipynb", globals())
run.finish({"psnr": 20.0 + seed}, pd.DataFrame({"psnr": [20.0 + seed]}))
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes the sweep file notebooks/sweeps/tiny.yaml, with its notebook, and returns its path."""
    monkeypatch.setattr(inpaintlib, "ROOT", tmp_path)
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")
    folder = tmp_path / "notebooks" / "sweeps"
    folder.mkdir(parents=True)

    def write(presets: str, fixed: str = "{}", body: str = BODY, more: str = "") -> Path:
        cells = [
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(body),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder.parent / "10_tiny.ipynb")
        path = folder / "tiny.yaml"
        path.write_text(f"study: tiny\nnotebook: 10_tiny.ipynb\nparameters: {fixed}\npresets: {presets}\n{more}")
        return path

    return write


def states(study="tiny"):
    table = sweep.status(study)
    return {row.run_id.split("-")[0]: row.status for row in table.itertuples()}


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return found


def survivors(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and runs.alive(psutil.Process(pid))]


def kernel_pids():
    """Process ids of the kernels whose runs have come as far as their first line."""
    return [int(text) for file in inpaintlib.RESULTS.glob("*/runs/*/pid") if (text := file.read_text())]


# Files and plans ------------------------------------------------------------------------------------------------------


def test_overlapping_grids_are_merged_in_order(study):
    path = study("{quick: {runs: [{ratio: [1, 100], seed: [0, 1]}, {ratio: [100, .inf], seed: 1}], workers: 2}}")
    planned = sweep.plan(path, "quick")
    assert [(item.parameters["ratio"], item.parameters["seed"]) for item in planned] == [
        (1.0, 0),
        (1.0, 1),
        (100.0, 0),
        (100.0, 1),
        (math.inf, 1),
    ]
    assert [item.run_id.split("-")[0] for item in planned][-2:] == ["ratio=100,seed=1", "ratio=inf,seed=1"]
    assert sweep.load(path).presets["quick"].workers == 2


def test_what_is_more_particular_goes_over_the_rest(study):
    path = study(
        "{quick: {parameters: {seed: 5, act: sleep}, runs: [{ratio: [1, 2]}, {act: raise}]}}",
        fixed="{ratio: 7, seed: 6}",
    )
    planned = [item.parameters for item in sweep.plan(path, "quick")]
    assert planned == [
        {"ratio": 1.0, "seed": 5, "act": "sleep"},
        {"ratio": 2.0, "seed": 5, "act": "sleep"},
        {"ratio": 7.0, "seed": 5, "act": "raise"},
    ]
    pinned = sweep.plan(path, "quick", overrides={"ratio": 3, "act": "finish"})
    assert [item.parameters for item in pinned] == [{"ratio": 3.0, "seed": 5, "act": "finish"}]


def test_a_presets_tables_hold_neither_overridden_runs_nor_those_of_an_older_file(study, monkeypatch):
    monkeypatch.setitem(globals(), "PARAMETERS", PARAMETERS + 'preset: str = ""  # a label (cosmetic)\n')
    path = study("{quick: {runs: [{ratio: [1, 2]}]}}")
    now, other = sweep.plan(path, "quick"), sweep.plan(path, "quick", overrides={"ratio": 3, "seed": 4})
    assert {item.parameters["preset"] for item in now} == {"quick"}
    assert {item.parameters["preset"] for item in other} == {"quick+ratio=3+seed=4"}
    older = sweep.plan(study("{quick: {runs: [{ratio: 9}]}}"), "quick")
    path = study("{quick: {runs: [{ratio: [1, 2]}]}}")
    for item in (*now, *other, *older):
        item.run.folder.mkdir(parents=True)
        (item.run.folder / "params.json").write_text(json.dumps(item.parameters))
    assert {run.id for run in sweep.of_preset("tiny", "quick")} == {item.run_id for item in now}
    assert {run.id for run in sweep.of_preset("tiny", "quick+ratio=3+seed=4")} == {item.run_id for item in other}
    assert [run.id for run in sweep.of_preset("tiny", "quick", ratio=2.0)] == [now[1].run_id]


def test_a_run_keeps_its_name_when_the_sweep_grows(study):
    path = study("{quick: {runs: [{ratio: [1, 2]}]}}")
    first = sweep.plan(path, "quick")[0]
    first.run.folder.mkdir(parents=True)
    path = study("{quick: {runs: [{ratio: [1, 2], seed: [0, 1]}]}}")
    names = [item.run_id for item in sweep.plan(path, "quick")]
    assert names[0] == first.run_id
    assert [name.split("-")[0] for name in names[1:]] == ["ratio=1,seed=1", "ratio=2,seed=0", "ratio=2,seed=1"]


@pytest.mark.parametrize(
    ("presets", "fixed", "more", "sentence"),
    [
        (
            "{quick: {runs: [{ration: 1}]}}",
            "{}",
            "",
            "presets.quick.runs[0]: 10_tiny.ipynb has no parameter 'ration'; did",
        ),
        (
            "{quick: {runs: [{}, {ratio: [1, -1]}]}}",
            "{}",
            "",
            "presets.quick.runs[1]: ratio must be in [0, inf], not -1.",
        ),
        ("{quick: {runs: [{seed: 0.5}]}}", "{}", "", "presets.quick.runs[0]: seed must be a whole number, not 0.5."),
        ("{quick: {runs: [{seed: []}]}}", "{}", "", "presets.quick.runs[0].seed is an empty list"),
        ("{quick: {runs: [{seed: 1}], parameters: {act: no}}}", "{}", "", "presets.quick.parameters: act must be text"),
        ("{quick: {runs: [{seed: 1}]}}", "{act: nap}", "", "parameters: act must be one of finish, raise"),
        ("{quick: {runs: [{run_id: a}]}}", "{}", "", "presets.quick.runs[0] gives run_id, which the sweep itself sets"),
        ("{quick: {runs: []}}", "{}", "", "presets.quick.runs must be a list of grids, not []"),
        (
            "{quick: {runs: [ratio]}}",
            "{}",
            "",
            "presets.quick.runs[0] must be a mapping of names to values, not 'ratio'",
        ),
        ("{quick: {run: [{seed: 1}]}}", "{}", "", "presets.quick has an unknown key 'run'; did you mean 'runs'?"),
        ("{quick: {parameters: {}}}", "{}", "", "presets.quick lacks the key 'runs'"),
        ("{quick: {runs: [{}], workers: 0}}", "{}", "", "presets.quick.workers must be a whole number of at least 1"),
        ("{full: {runs: [{}]}}", "{}", "", "there is no preset 'quick' (there are: full)"),
        ("{quick: {runs: [{}]}}", "{}", "report: 11_no.ipynb", "report must name a notebook in"),
        ("{quick: {runs: [{}]}}", "{}", "grid: 1", "the file has an unknown key 'grid'"),
        ("{quick: {runs: [{}]}}", "{}", "study: tiny", "the key 'study' is given twice"),
        ("{quick: {runs: [{}]", "{}", "", "is not valid YAML: while parsing"),
    ],
)
def test_every_mistake_is_named_with_file_and_key_before_anything_starts(study, presets, fixed, more, sentence):
    path = study(presets, fixed, more=more)
    with pytest.raises(BadInput) as refusal:
        sweep.run(path, "quick")
    assert str(refusal.value).startswith(f"{path}")
    assert sentence in str(refusal.value)
    assert not inpaintlib.RESULTS.exists()


def test_wrong_overrides_workers_studies_and_names(study):
    path = study("{quick: {runs: [{seed: 1}]}}")
    with pytest.raises(BadInput, match=r"the overrides: 10_tiny\.ipynb has no parameter 'sed'; did you mean 'seed'"):
        sweep.run(path, "quick", overrides={"sed": 1})
    with pytest.raises(BadInput, match="workers must be at least 1, not 0"):
        sweep.run(path, "quick", workers=0)
    with pytest.raises(BadInput, match="study must be the file's name, 'other', not 'tiny'"):
        sweep.load(path.rename(path.with_stem("other")))
    with pytest.raises(BadInput, match="there is no sweep file"):
        sweep.load(path)
    path.with_stem("other").rename(path)
    assert sweep.load("tiny").path == path
    with pytest.raises(BadInput, match="there is no sweep named 'tinny'; did you mean 'tiny'"):
        sweep.status("tinny")
    assert sweep.status("tiny").empty


# Execution ------------------------------------------------------------------------------------------------------------


def test_failures_are_kept_do_not_stop_the_others_and_are_tried_again(study, capsys):
    presets = "{quick: {runs: [{ratio: [.inf, 3]}, {act: [raise, silent, die], seed: 2}, {act: die}]}}"
    path = study(presets)
    assert sweep.run(path, "quick", workers=2) == 1
    infinite, finite, raised, silent, kernel, worker = [item.run for item in sweep.plan(path, "quick")]
    assert [run.status() for run in (infinite, finite)] == ["done", "done"]
    assert [run.status() for run in (raised, silent, kernel, worker)] == ["failed"] * 4
    assert infinite.metrics["ratio_is_inf"] is True
    assert (finite.metrics["ratio_is_inf"], finite.metrics["type"]) == (False, "float")
    assert int(finite.metrics["threads"]) == max(1, len(os.sched_getaffinity(0)) // 2)

    error = (raised.folder / "error.txt").read_text()
    assert "Traceback" in error
    assert error.endswith("ValueError: seed 2 is cursed\n")
    assert "\x1b" not in error
    kept = nbformat.read(raised.folder / "notebook.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    assert "without run.finish" in (silent.folder / "error.txt").read_text()
    assert "DeadKernelError" in (kernel.folder / "error.txt").read_text()
    assert "the process that executed this run ended with SIGKILL" in (worker.folder / "error.txt").read_text()
    assert survivors(kernel_pids()) == []
    printed = capsys.readouterr().out
    assert "ValueError: seed 2 is cursed (see" in printed
    assert len([line for line in printed.splitlines() if line.startswith("done ")]) == 2

    before = {run.id: (run.folder / "notebook.ipynb").stat().st_mtime_ns for run in (infinite, finite)}
    mended = study(presets, body="act = 'finish'\n" + BODY)
    assert sweep.run(mended, "quick", workers=1) == 0
    assert before == {run.id: (run.folder / "notebook.ipynb").stat().st_mtime_ns for run in (infinite, finite)}
    assert set(states().values()) == {"done"}


def test_the_notebook_runs_in_its_own_folder_and_starts_its_run(study, capsys):
    path = study("{quick: {runs: [{seed: 2}]}}", body=RUN_START + "import os\nprint(os.getcwd())")
    [item] = sweep.plan(path, "quick")
    address = {"study": "tiny", "run_id": item.run_id}
    here = Run.start(path.parent.parent / "10_tiny.ipynb", {**item.parameters, **address})
    assert sweep.run(path, "quick") == 1
    assert "another process is running it" in capsys.readouterr().out

    here.release()
    assert sweep.run(path, "quick") == 0
    assert item.run.metrics == {"psnr": 22.0, "status": "done"}
    assert item.run.parameters == item.parameters
    executed = nbformat.read(item.run.folder / "notebook.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == str(path.parent.parent)


COMMAND = "import sys; from inpaintlib.harness import sweep; sys.exit(sweep.run(sys.argv[1], 'quick', workers=2))"


def start(path):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(path)],
        env={
            **os.environ,
            "INPAINT_RESULTS": str(inpaintlib.RESULTS),
            "PYTHONPATH": str(Path(inpaintlib.__file__).parents[1]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def descendants(process):
    """All but multiprocessing's own helper, which ends a moment after its parent."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def test_an_interrupted_sweep_leaves_no_process_and_resumes(study):
    path = study("{quick: {runs: [{seed: 9}, {act: sleep, seed: [0, 1]}, {seed: 8}]}}")
    process = start(path)
    pids = wait_for(lambda: len(kernel_pids()) >= 3 and kernel_pids())
    family = descendants(process)
    assert len(family) >= 4  # two workers, two kernels
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted: 1 of 4 runs are done; start again to do the rest." in output
    assert "Traceback" not in output
    assert survivors([*pids, *family]) == []
    assert sorted(states().values()) == ["done", "unfinished", "unfinished"]

    finished = sweep.plan(path, "quick")[0].run
    before = (finished.folder / "notebook.ipynb").stat().st_mtime_ns
    assert sweep.run(path, "quick", workers=1) == 0
    assert list(states().values()) == ["done"] * 4
    assert (finished.folder / "notebook.ipynb").stat().st_mtime_ns == before


def test_a_sweep_that_is_killed_takes_its_processes_with_it(study):
    path = study("{quick: {runs: [{act: sleep, seed: 0}]}}")
    process = start(path)
    [pid] = wait_for(kernel_pids)
    family = descendants(process)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not survivors([pid, *family]))


def test_status_lists_every_state_with_its_progress(study):
    path = study("{quick: {runs: [{seed: [0, 1, 2, 3, 4, 5]}]}}")
    done, diverged, running, failed, stale, unfinished = [item.run for item in sweep.plan(path, "quick")]
    for run in (done, diverged, running, failed, stale, unfinished):
        run.folder.mkdir(parents=True)
        (run.folder / "params.json").write_text(json.dumps({"kimg": 10}))
    (done.folder / "metrics.json").write_text('{"status": "done"}')
    diverged.diverged(3, None, "loss is nan")
    me = psutil.Process()
    running._take_lock()
    failed.fail("Traceback\nValueError: no")
    stale._lock.write_text(json.dumps({**running._holder(), "created": me.create_time() - 50}))
    (unfinished.folder / "history.csv").write_text("step,kimg,rec\n1,0.5,3\n2,1.5,2\n3,2")
    table = sweep.status().set_index("run_id")
    expected = dict(
        zip(
            [run.id for run in (done, diverged, running, failed, stale, unfinished)],
            ["done", "diverged", "running", "failed", "stale", "unfinished"],
            strict=True,
        )
    )
    assert table["status"].to_dict() == expected
    assert table.loc[failed.id, "error"] == "ValueError: no"
    assert table.loc[unfinished.id, ["kimg", "kimg_total"]].tolist() == [1.5, 10]
    assert math.isnan(table.loc[done.id, "kimg"])
    assert set(sweep.status("tiny")["study"]) == {"tiny"}
