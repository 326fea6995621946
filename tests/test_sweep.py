"""Sweeps: strict files, plans, and processes that fail, hang, are killed and are interrupted."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

import inpaintlib
from inpaintlib import BadInput, pretrained
from inpaintlib.data import datasets
from inpaintlib.harness import engine, runs, sweep
from inpaintlib.harness.runs import Run
from inpaintlib.training import load_checkpoint

ROOT = inpaintlib.ROOT
PARAMETERS = """
ratio: float = 1000.0  # lambda_rec / lambda_adv [0, inf]
seed: int = 0  # random seed [0, inf)
kimg: float = 1.0  # training length (0, inf)
act: str = "finish"  # what the run does {finish, raise, sleep, hang, silent, die, kill_server, kill_worker}
study: str = "my_runs"
run_id: str = ""
"""
BODY = """
import os, pathlib, signal, sys, time
import inpaintlib
from inpaintlib.harness.runs import git_commit
warm = {getattr(module, "__file__", "") for module in sys.modules.values()}
asked = git_commit.cache_info().currsize
import pandas as pd
import psutil
from inpaintlib.harness.runs import Run
run = Run.start("10_tiny.ipynb", globals())
count = len((run.folder / "starts").read_text()) if (run.folder / "starts").exists() else 0
(run.folder / "starts").write_text("x" * (count + 1))
(run.folder / "pid").write_text(str(os.getpid()))
print(os.getcwd())
if act == "raise":
    raise ValueError(f"seed {seed} is cursed")
if act == "sleep" and not count or act == "hang":
    time.sleep(100)
parents = psutil.Process().parents()
victim = {"die": psutil.Process(), "kill_server": parents[0], "kill_worker": parents[1]}.get(act)
if victim and (act != "kill_worker" or not count):
    victim.kill()
    time.sleep(100)
if act != "silent":
    found = {"ratio_is_inf": ratio == float("inf"), "type": type(ratio).__name__, "psnr": 20.0 + seed}
    found["threads"] = os.environ["OMP_NUM_THREADS"]
    package = pathlib.Path(inpaintlib.__file__).parent
    found["cold"] = [str(path) for path in package.rglob("*.py") if str(path) not in warm]
    found["commits"] = asked
    run.finish(found, pd.DataFrame({"psnr": [20.0 + seed]}))
"""


@pytest.fixture(scope="module")
def cluster():
    """Two Dask workers, which stay warm from test to test."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def scheduler(cluster, monkeypatch):
    """The address of a scheduler; a file saved while the tests run makes its workers no other version."""
    monkeypatch.setattr(engine, "_slots", lambda *_: {})
    return cluster.scheduler_address


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
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [process.pid for process in there if process.status() != psutil.STATUS_ZOMBIE]


def run_pids():
    """Process ids of the runs that have come as far as their first line."""
    return [int(text) for file in inpaintlib.RESULTS.glob("*/runs/*/pid") if (text := file.read_text())]


# Files and plans ------------------------------------------------------------------------------------------------------


def test_overlapping_grids_are_merged_in_order(study):
    path = study("{quick: {runs: [{ratio: [1, 100], seed: [0, 1]}, {ratio: [100, .inf], seed: 1}], workers: 2}}")
    planned = sweep.plan(path, "quick")
    points = [(item.parameters["ratio"], item.parameters["seed"]) for item in planned]
    assert points == [(1.0, 0), (1.0, 1), (100.0, 0), (100.0, 1), (math.inf, 1)]
    assert [item.run_id.split("-")[0] for item in planned][-2:] == ["ratio=100,seed=1", "ratio=inf,seed=1"]
    assert sweep.load(path).presets["quick"].workers == 2


def test_what_is_more_particular_goes_over_the_rest(study):
    path = study(
        "{quick: {parameters: {seed: 5, act: sleep}, runs: [{ratio: [1, 2]}, {act: raise}]}}",
        fixed="{ratio: 7, seed: 6}",
    )
    planned = [item.parameters for item in sweep.plan(path, "quick")]
    assert planned == [
        {"ratio": 1.0, "seed": 5, "kimg": 1.0, "act": "sleep"},
        {"ratio": 2.0, "seed": 5, "kimg": 1.0, "act": "sleep"},
        {"ratio": 7.0, "seed": 5, "kimg": 1.0, "act": "raise"},
    ]
    pinned = sweep.plan(path, "quick", overrides={"ratio": 3, "act": "finish"})
    assert [item.parameters for item in pinned] == [{"ratio": 3.0, "seed": 5, "kimg": 1.0, "act": "finish"}]


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


QUICK = "{quick: {runs: [{seed: 1}]}}"


@pytest.mark.parametrize(
    ("presets", "given", "sentence"),
    [
        ("{quick: {runs: [{ration: 1}]}}", {}, "presets.quick.runs[0]: 10_tiny.ipynb has no parameter 'ration'; did"),
        ("{quick: {runs: [{}, {ratio: [1, -1]}]}}", {}, "presets.quick.runs[1]: ratio must be at least 0, not -1."),
        ("{quick: {runs: [{seed: 0.5}]}}", {}, "presets.quick.runs[0]: seed must be a whole number, not 0.5."),
        ("{quick: {runs: [{seed: []}]}}", {}, "presets.quick.runs[0].seed is an empty list"),
        ("{quick: {runs: [{}], parameters: {act: no}}}", {}, "presets.quick.parameters: act must be one of"),
        (QUICK, {"fixed": "{act: nap}"}, "parameters: act must be one of finish, raise"),
        ("{quick: {runs: [{run_id: a}]}}", {}, "presets.quick.runs[0] gives run_id, which the sweep itself sets"),
        ("{quick: {runs: []}}", {}, "presets.quick.runs must be a list of grids, not []"),
        ("{quick: {runs: [ratio]}}", {}, "presets.quick.runs[0] must be a mapping of names to values, not 'ratio'"),
        ("{quick: {run: [{seed: 1}]}}", {}, "presets.quick has an unknown key 'run'; did you mean 'runs'?"),
        ("{quick: {parameters: {}}}", {}, "presets.quick lacks the key 'runs'"),
        ("{quick: {runs: [{}], workers: 0}}", {}, "presets.quick.workers must be a whole number of at least 1"),
        ("{full: {runs: [{}]}}", {}, "there is no preset 'quick' (there are: full)"),
        (QUICK, {"more": "report: 11_no.ipynb"}, "report must name a notebook in"),
        ("{quick: {runs: [{seed: 010}]}}", {}, "presets.quick.runs[0]: seed must be a whole number, not '010'"),
        ("{quick: {runs: [{}], hours: long}}", {}, "presets.quick.hours must be a number of hours, not 'long'"),
        (QUICK, {"more": "needs: dcgan"}, "needs must be a list of studies, not 'dcgan'"),
        (QUICK, {"more": "grid: 1"}, "the file has an unknown key 'grid'"),
        (QUICK, {"more": "study: tiny"}, "the key 'study' is given twice"),
        ("{quick: {runs: [{}]", {}, "is not valid YAML: while parsing"),
    ],
)
def test_every_mistake_is_named_with_file_and_key_before_anything_starts(study, presets, given, sentence):
    path = study(presets, **given)
    with pytest.raises(BadInput) as refusal:
        sweep.run(path, "quick")
    assert str(refusal.value).startswith(f"{path}")
    assert sentence in str(refusal.value)
    assert not inpaintlib.RESULTS.exists()


def test_wrong_overrides_workers_studies_and_names(study):
    path = study(QUICK)
    with pytest.raises(BadInput, match=r"^--set sed=1: 10_tiny\.ipynb has no parameter 'sed'; did you mean 'seed'"):
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


def test_studies_come_after_what_they_need_and_a_circle_is_one_sentence(study):
    path = study(QUICK, more="needs: [other]")
    other = path.with_stem("other")
    other.write_text(path.read_text().replace("study: tiny", "study: other").replace("needs: [other]", ""))
    assert [one.study for one in sweep.in_order(["tiny"])] == ["other", "tiny"]
    other.write_text(other.read_text() + "needs: [tiny]\n")
    with pytest.raises(BadInput, match=r"in a circle: (tiny needs other needs tiny|other needs tiny needs other)"):
        sweep.run("tiny")
    path.write_text(path.read_text().replace("[other]", "[moon]"))
    with pytest.raises(BadInput, match="there is no sweep named 'moon'"):
        sweep.run("tiny")


def test_a_study_is_made_again_without_those_that_it_needs(study, monkeypatch, capsys):
    path = study(QUICK, more="needs: [other]")
    path.with_stem("other").write_text(path.read_text().replace("study: tiny", "study: other").replace("[other]", "[]"))
    monkeypatch.setattr(Run, "status", lambda run: "done")
    assert sweep.run("tiny", rerun="done", dry=True) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done ")]
    assert len(listed) == len(sweep.plan("tiny", "quick"))
    assert all(line.split()[1] == "tiny" for line in listed)


def test_of_what_a_study_needs_only_the_seeds_that_are_asked_for_are_made(study, capsys):
    path = study("{quick: {runs: [{ratio: [1, 2], seed: [0, 1]}]}}", more="needs: [other]")
    path.with_stem("other").write_text(path.read_text().replace("study: tiny", "study: other").replace("[other]", "[]"))
    for only, wanted in (
        ({"ratio": [2], "seed": [1]}, {"other": 2, "tiny": 1}),
        ({"ratio": [2]}, {"other": 4, "tiny": 2}),
    ):
        assert sweep.run("tiny", only=only, dry=True) == 0
        listed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("unfinished ")]
        assert {name: listed.count(name) for name in listed} == wanted


def test_numbers_are_read_as_a_scientist_writes_them():
    found = sweep.parse_pairs("--set", ["kimg=1e3", "a=1.0e+3", "b=[10, 50,5000]", "c=10,.inf,inf", "d=010", "e='x, y'",
                                        "f=true", "g=yes", "h=-.5", "i=lpips+inception", "j=1:30"])  # fmt: skip
    assert found == {"kimg": [1000.0], "a": [1000.0], "b": [10, 50, 5000], "c": [10, math.inf, math.inf], "d": ["010"],
                     "e": ["x, y"], "f": [True], "g": ["yes"], "h": [-0.5], "i": ["lpips+inception"],
                     "j": ["1:30"]}  # fmt: skip
    for pairs, sentence in (
        (["ratio"], "is not NAME=VALUE"),
        (["ratio=1", "ratio=2"], "ratio is given twice; several values of one parameter are ratio=1,2,3"),
        (["ratio=[1"], "is not valid YAML"),
        (["ratio=[]"], "an empty list"),
    ):
        with pytest.raises(BadInput, match=sentence):
            sweep.parse_pairs("--set", pairs)


def test_own_values_of_a_swept_parameter_are_a_sweep_of_their_own(study, monkeypatch):
    monkeypatch.setitem(globals(), "PARAMETERS", PARAMETERS + 'preset: str = ""  # a label (cosmetic)\n')
    path = study("{quick: {runs: [{ratio: [1, 2], seed: [0, 1]}]}}")
    planned = sweep.plan(path, "quick", {"ratio": [10, 50, 5000]})
    assert [(item.parameters["ratio"], item.parameters["seed"]) for item in planned] == [
        (ratio, seed) for ratio in (10.0, 50.0, 5000.0) for seed in (0, 1)
    ]
    label = planned[0].parameters["preset"]
    assert label == "quick+ratio=10,50,5000"
    assert sweep.of_label("tiny", label) == planned
    assert sweep.of_label("tiny", "quick+ratoi=1") == sweep.of_label("tiny", "night") == []


def test_a_dry_run_lists_what_is_to_do_and_how_long_it_takes(study, capsys):
    path = study("{quick: {runs: [{seed: [0, 1], kimg: [1, 4]}], hours: 0.5}}")
    assert sweep.run(path, "quick", only={"kimg": [4]}, dry=True) == 0
    printed = capsys.readouterr().out
    assert printed.count("unfinished tiny seed=") == 2
    assert "720 s" in printed  # 4 of all 10 kimg of half an hour
    assert not inpaintlib.RESULTS.exists()
    short = sweep.plan(path, "quick")[0].run
    put(short, {"kimg": 1.0}, seconds=15.0)
    sweep.run(path, "quick", only={"kimg": [4], "seed": [1]}, dry=True)
    assert "45 s" in capsys.readouterr().out  # 5 s and four times 10
    beside = {"seconds": 15.0, "cpu_seconds": 10.0, "threads": 1, "device": "Xeon", "cpu": "Xeon"}
    for more, told in (({}, "25 s"), ({"threads": 2}, "45 s"), ({"device": "H200"}, "45 s")):
        (short.folder / "env.json").write_text(json.dumps(beside | more))
        sweep.run(path, "quick", only={"kimg": [4], "seed": [1]}, dry=True)
        assert told in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"^--only: kimg must be above 0, not -1"):
        sweep.run(path, "quick", only={"kimg": [-1]})
    with pytest.raises(BadInput, match="tiny: no run of the preset has kimg = 7"):
        sweep.run(path, "quick", only={"kimg": [7]})
    with pytest.raises(BadInput, match="tiny: of what --only asks for, no run has kimg = 7"):
        sweep.run(path, "quick", only={"kimg": [4, 7]})


def test_a_dry_run_reads_each_run_a_few_times(study, monkeypatch):
    path = study(f"{{quick: {{runs: [{{seed: {list(range(30))}}}]}}}}")
    for item in sweep.plan(path, "quick")[:15]:
        put(item.run, item.parameters)
    read, count = runs.read_json, []
    monkeypatch.setattr(runs, "read_json", lambda path: count.append(path) or read(path))
    sweep.run(path, dry=True)
    assert 15 < len(count) < 15 * 12


def put(run, parameters, seconds=1.0):
    """Puts a finished run's records into its folder, as if brought from another machine."""
    run.folder.mkdir(parents=True)
    (run.folder / "params.json").write_text(json.dumps({"preset": "quick", **parameters}))
    (run.folder / "env.json").write_text(json.dumps({"seconds": seconds}))
    (run.folder / "per_image.csv").write_text("psnr\n1\n")
    (run.folder / "metrics.json").write_text('{"psnr": 1.0, "status": "done"}')


def test_a_sweep_file_elsewhere_is_known_by_its_name_once_it_was_swept(study, tmp_path):
    path = study("{quick: {runs: [{seed: [0, 1]}]}}")
    own = tmp_path / "desk" / "mine.yaml"
    own.parent.mkdir()
    own.write_text(path.read_text().replace("study: tiny", "study: mine"))
    planned = sweep.plan(own, "quick")  # its notebook is found beside the study's own
    assert sweep.status(own).empty
    for item in planned:
        put(item.run, item.parameters)
    assert sweep.run(own) == 0
    assert sweep.load("mine") == sweep.load(own)
    assert len(sweep.of_preset("mine", "quick")) == 2
    assert sweep.status(own)["status"].tolist() == sweep.status("mine")["status"].tolist() == ["done"] * 2


@pytest.mark.parametrize("name", ["../..", "/tmp", "a b", ""])
def test_status_takes_names_of_studies_only(study, name):
    with pytest.raises(BadInput, match="must be made of letters, digits"):
        sweep.status(name)


def test_runs_made_by_hand_have_no_sweep_and_it_says_what_to_do(study):
    put(Run("my_runs", "seed=0"), {"seed": 0})
    with pytest.raises(BadInput, match="no sweep named 'my_runs': its runs were made by hand"):
        sweep.load("my_runs")
    assert sweep.status("my_runs")["status"].tolist() == ["done"]


# Execution ------------------------------------------------------------------------------------------------------------


def test_failures_are_kept_do_not_stop_the_others_and_are_tried_again(study, scheduler, capsys, monkeypatch):
    report, reported = engine._report, []

    def report_once_dask_forgot_the_others(future, item, bar):
        report(future, item, bar)  # else Dask would execute a run again when the worker that has its result dies
        wait_for(lambda: all(other.status == "cancelled" for other in reported))
        reported.append(future)

    monkeypatch.setattr(engine, "_report", report_once_dask_forgot_the_others)
    acts = "[raise, silent, die, kill_server]"
    path = study(f"{{quick: {{runs: [{{ratio: [.inf, 3]}}, {{act: {acts}, seed: 2}}, {{act: kill_worker}}]}}}}")
    assert sweep.run(path, scheduler=scheduler) == 1
    infinite, finite, raised, silent, died, served, lost = [item.run for item in sweep.plan(path, "quick")]
    assert [run.status() for run in (infinite, finite, lost)] == ["done"] * 3
    assert [run.status() for run in (raised, silent, died, served)] == ["failed"] * 4
    assert infinite.metrics["ratio_is_inf"] is True
    assert (finite.metrics["ratio_is_inf"], finite.metrics["type"]) == (False, "float")
    assert (lost.folder / "starts").read_text() == "xx"  # another worker took it
    assert (infinite.metrics["cold"], infinite.metrics["commits"]) == ([], 1)  # the whole package came before the fork

    error = (raised.folder / "error.txt").read_text()
    assert "Traceback" in error
    assert error.endswith("ValueError: seed 2 is cursed\n")
    assert "\x1b" not in error
    kept = nbformat.read(raised.folder / "notebook.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    assert "without run.finish" in (silent.folder / "error.txt").read_text()
    assert "ended with SIGKILL (was memory short?)" in (died.folder / "error.txt").read_text()
    assert "WorkerDied" in (served.folder / "error.txt").read_text()
    wait_for(lambda: not survivors(run_pids()))
    printed = capsys.readouterr().out
    assert "ValueError: seed 2 is cursed (see" in printed
    assert len([line for line in printed.splitlines() if line.startswith("done ")]) == 3
    assert "log.txt" not in os.listdir(finite.folder)

    before = {run.id: (run.folder / "notebook.ipynb").stat().st_mtime_ns for run in (infinite, finite)}
    (silent.folder / "error.txt").write_bytes(b"\xff\xfe binary")
    assert states()["act=silent,seed=2"] == "failed"
    presets = path.read_text().split("presets: ")[1].strip()
    mended = study(presets, body=BODY.replace("print(os.getcwd())", 'act = "finish"'))
    assert sweep.run(mended, scheduler=scheduler) == 0
    assert before == {run.id: (run.folder / "notebook.ipynb").stat().st_mtime_ns for run in (infinite, finite)}
    assert set(states().values()) == {"done"}
    assert sweep.run(mended, scheduler=scheduler, rerun="done", only={"ratio": [3]}) == 0
    assert before[finite.id] != (finite.folder / "notebook.ipynb").stat().st_mtime_ns
    assert before[infinite.id] == (infinite.folder / "notebook.ipynb").stat().st_mtime_ns


def test_a_run_that_hangs_fails_alone_and_one_that_others_run_is_waited_for(study, scheduler, capsys):
    path = study("{quick: {runs: [{act: hang}, {seed: 2}, {seed: 3}]}}")
    hung, good, other = [item.run for item in sweep.plan(path, "quick")]
    study("{quick: {runs: [{seed: 4}]}}", more="needs: [tiny]").rename(path.with_stem("after"))
    path.with_stem("after").write_text(path.with_stem("after").read_text().replace("study: tiny", "study: after"))
    study("{quick: {runs: [{act: hang}, {seed: 2}, {seed: 3}]}}")
    seen = []

    def let_go():
        wait_for(lambda: (hung.status(), good.status()) == ("failed", "done"), 300)
        time.sleep(2)
        seen.extend([other.status(), sweep.status("after").empty])
        other.release()

    other.claim()
    thread = threading.Thread(target=let_go)
    thread.start()
    assert sweep.run("after", scheduler=scheduler, run_time_limit=4.0, time_limit=400.0) == 1
    thread.join()
    assert seen == ["running", True]  # who needs the study waited, too
    assert capsys.readouterr().out.count(f"waiting   tiny {other.id}  another process is running it") == 1
    assert [run.status() for run in (hung, good, other)] == ["failed", "done", "done"]
    assert states("after") == {"seed=4": "done"}
    assert "Hung: the run was stopped after its time limit of 4 s" in (hung.folder / "error.txt").read_text()
    assert not survivors(run_pids())
    executed = nbformat.read(good.folder / "notebook.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == str(path.parent.parent)


def test_the_time_limit_stops_in_good_order(study, scheduler, capsys):
    path = study("{quick: {runs: [{seed: 1}, {act: sleep, seed: [0, 1]}]}}")
    assert sweep.run(path, scheduler=scheduler, time_limit=8.0) == 0
    assert "Time is up: 1 of 3 runs are done" in capsys.readouterr().out
    assert sorted(states().values()) == ["done", "unfinished", "unfinished"]
    assert not survivors(run_pids())
    assert sweep.run(path, scheduler=scheduler) == 0


def test_a_run_that_became_done_meanwhile_is_not_executed_again(study, scheduler):
    path = study(QUICK)
    [item] = sweep.plan(path, "quick")
    put(item.run, item.parameters)
    graph = {"tiny": [item]}  # as the other sweep saw it before this one had finished
    assert engine.sweep(graph, {"tiny": ()}, [item], scheduler=scheduler) == 0
    assert not (item.run.folder / "starts").exists()


def test_a_run_is_made_again_once_however_often_it_is_handed_out(study, scheduler):
    save = 'saved = run.folder / "checkpoint.pt"\nresumed = saved.exists()\nsaved.write_text("")\nparents ='
    body = BODY.replace("parents =", save).replace('["commits"] = asked', '["resumed"] = resumed')
    path = study("{quick: {runs: [{act: kill_worker}, {seed: 2}]}}", body=body)
    lost, other = [item.run for item in sweep.plan(path, "quick")]
    for item in sweep.plan(path, "quick"):
        put(item.run, item.parameters)
        (item.run.folder / "checkpoint.pt").write_text("of the first time")

    def finish():
        wait_for(lambda: list(lost.folder.glob("starts")) and lost.done, 300)
        (other.folder / "metrics.json").write_text('{"psnr": 2.0, "status": "done"}')
        other.release()

    other.claim()
    thread = threading.Thread(target=finish)
    thread.start()
    assert sweep.run(path, scheduler=scheduler, rerun="done", time_limit=400.0) == 0
    thread.join()
    assert (lost.folder / "starts").read_text() == "xx"
    assert lost.metrics["resumed"] is True  # from the checkpoint of the attempt that lost its worker
    assert other.metrics["psnr"] == 2.0  # another sweep's


def test_a_dataset_that_is_missing_leaves_out_its_study_and_who_needs_it_alone(study, monkeypatch, capsys):
    monkeypatch.setitem(globals(), "PARAMETERS", PARAMETERS + 'dataset: str = "demo"  # photos\n')
    path = study(QUICK)
    for name, more in (
        ("faces", "parameters: {dataset: celeba}"),
        ("after", "needs: [faces]"),
        ("far", "needs: [after]"),
    ):
        text = path.read_text().replace("study: tiny", f"study: {name}").replace("parameters: {}", "")
        path.with_stem(name).write_text(f"{text}{more}\n")
    made = []
    monkeypatch.setattr(datasets, "check", lambda name, *_: missing() if name == "celeba" else None)
    monkeypatch.setattr(engine, "sweep", lambda graph, needs, due, *_, **__: made.extend(i.study for i in due) or 0)

    def missing():
        raise BadInput("the dataset celeba is not here.")

    assert sweep.run(["tiny", "far"]) == 1
    assert made == ["tiny"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")] == [
        "left out  faces: the dataset celeba is not here.",
        "left out  after: it needs faces.",
        "left out  far: it needs after.",
    ]
    for dry in (False, True):
        with pytest.raises(BadInput, match="the dataset celeba is not here"):
            sweep.run("far", dry=dry)
    assert made == ["tiny"]


def test_networks_that_a_preset_needs_are_there_or_fetched_before_anything_starts(study, monkeypatch, capsys):
    more = 'networks: str = "none"  # to measure with\nstyle_weight: float = 0.0  # of VGG\n'
    monkeypatch.setitem(globals(), "PARAMETERS", PARAMETERS + more)
    monkeypatch.setattr(inpaintlib, "DATA", inpaintlib.RESULTS)  # which has none
    path, made, fetched = study(QUICK), [], []
    for name, given in (("faces", "networks: lpips+inception"), ("styles", "style_weight: 2")):
        text = path.read_text().replace("study: tiny", f"study: {name}").replace("parameters: {}", "")
        path.with_stem(name).write_text(f"{text}parameters: {{{given}}}\n")

    def fetch(name):
        fetched.append(name)
        if name == "inception":
            raise BadInput("inception.pt is missing.")

    monkeypatch.setattr(pretrained, "fetch", fetch)
    monkeypatch.setattr(engine, "sweep", lambda graph, needs, due, *_, **__: made.extend(i.study for i in due) or 0)
    assert sweep.run(["tiny", "faces", "styles"]) == 1
    assert made == ["tiny", "styles"]
    assert fetched == ["alexnet", "inception", "vgg16"]
    assert "left out  faces: inception.pt is missing." in capsys.readouterr().out
    with pytest.raises(BadInput, match="pt is missing"):
        sweep.run("faces")
    assert sweep.run("faces", dry=True) == 0


def test_a_disk_too_small_for_the_preset_is_one_sentence_before_it_starts(study, monkeypatch):
    path, usage = study("{quick: {runs: [{seed: [0, 1, 2, 3]}]}}"), type("Usage", (), {"free": 2_500_000})
    first, second, *_ = sweep.plan(path, "quick")
    monkeypatch.setattr(sweep.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(engine, "sweep", lambda *_, **__: 0)
    with pytest.raises(BadInput, match=r"4 runs need about 0\.4 GB, and .* has 0\.0 GB free: make room, or"):
        sweep.run(path)
    put(first.run, first.parameters)  # of a clone: it has no weights
    with pytest.raises(BadInput, match=r"3 runs need about 0\.3 GB"):
        sweep.run(path)
    (first.run.folder / "weights.pt").write_bytes(bytes(1_000_000))
    with pytest.raises(BadInput, match=r"3 runs need about 0\.0 GB"):  # three of a megabyte
        sweep.run(path)
    put(second.run, second.parameters)
    assert sweep.run(path) == 0


@pytest.mark.parametrize(
    ("about", "workers", "sentence"),
    [
        ({}, {}, "the scheduler at tcp://a has no workers; start one: dask worker"),
        ({"w": ModuleNotFoundError("No module named 'inpaintlib'")}, {"w": {}}, "worker w cannot import inpaintlib"),
        ({"w": ("other", True)}, {"w": {}}, "worker w has another version of inpaintlib"),
        ({"w": (engine.CODE, False)}, {"w": {}}, "worker w does not see"),
        ({"w": (engine.CODE, True)}, {"w": {"nthreads": 4, "resources": {}}}, "takes 4 runs at a time; start it with"),
    ],
)
def test_workers_that_cannot_execute_runs_are_one_sentence(tmp_path, about, workers, sentence):
    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": workers}

        def run(self, function, text, on_error):
            path = text.rpartition("exists(")[2].strip(")'")
            assert Path(path).exists()
            assert function(text) == (engine.CODE, True)
            return about

    with pytest.raises(BadInput, match=sentence):
        engine._slots(Client(), "tcp://a", tmp_path)


def test_a_scheduler_that_is_not_there_is_one_sentence_and_starts_no_loop(study, monkeypatch):
    path = study(QUICK)
    monkeypatch.setattr("distributed.Client", lambda *_, **__: pytest.fail("a client was started"))
    for address in ("tcp://127.0.0.1:9", "127.0.0.1:9", "moon", "tcp://no.such.host.invalid:8786", "tcp://a:port"):
        with pytest.raises(BadInput, match=f"the scheduler at {address} cannot be reached; start one with: dask"):
            sweep.run(path, scheduler=address)


def test_a_worker_that_ends_late_ends_no_sweep(monkeypatch, tmp_path):
    """On a busy machine Dask waits in vain for a worker's end, and raises."""
    import distributed

    class Late(distributed.LocalCluster):
        def close(self, *args, **kwargs):
            super().close(*args, **kwargs)
            raise TimeoutError

    monkeypatch.setattr(distributed, "LocalCluster", Late)
    with engine.cluster(None, 1, tmp_path) as (client, slots):
        assert client.submit(sum, [1, 2]).result() == 3
        assert slots == {}
    with pytest.raises(TimeoutError, match="of the sweep's own"), engine.cluster(None, 1, tmp_path):
        raise TimeoutError("of the sweep's own")


def test_a_run_gets_as_many_threads_however_few_runs_are_due(study, monkeypatch):
    """Sums of other threads differ in the last digits: the last run of a sweep that was killed must not have more."""
    items, threads = sweep.plan(study("{quick: {runs: [{seed: [0, 1, 2]}]}}"), "quick"), []
    monkeypatch.setattr(engine, "_cores", lambda: 8)
    monkeypatch.setattr(engine, "cluster", lambda *_: contextlib.nullcontext((None, {})))
    monkeypatch.setattr(engine, "_watch", lambda client, tasks, *_: threads.append(tasks[0].threads) or "")
    for due in (items, items[2:]):
        engine.sweep({"tiny": items}, {"tiny": ()}, due, workers=2)
    assert threads == [4, 4]


# Local clusters that are interrupted and killed -----------------------------------------------------------------------


COLD = """
import sys
from inpaintlib import __main__
from inpaintlib.harness import engine
engine.WARM = []  # the runs of these tests need nothing of the package, whose imports take ten seconds
if __name__ == "__main__":
    sys.exit(__main__.main())
"""


def start(what, *arguments, results=None, **more):
    """Starts a sweep: of a study of the package by its name, or of a sweep file, without the package's imports."""
    environment = {**os.environ, "INPAINT_RESULTS": str(results or inpaintlib.RESULTS), "OMP_NUM_THREADS": "1", **more}
    program = ["-m", "inpaintlib"]
    if isinstance(what, Path):
        program = [what.with_suffix(".py")]
        program[0].write_text(COLD)
    return subprocess.Popen([sys.executable, *map(str, [*program, "sweep", what, *arguments])], cwd=ROOT,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


def family(process):
    """The process and all that it started, but multiprocessing's own helpers, which end a moment after their parent."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [one.pid] * ("resource_tracker" not in " ".join(one.cmdline()))
    return found


def test_a_sweep_outlives_the_machines_sleep_and_interrupted_leaves_no_process_and_resumes(study):
    path = study("{quick: {runs: [{seed: 9}, {act: sleep, seed: [0, 1]}, {seed: 8}]}}")
    process = start(path, "--workers", "2", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="1s")
    wait_for(lambda: len(run_pids()) >= 3, 120)
    everyone = family(process)
    assert len(everyone) >= 7  # the sweep; two workers, each with a server and a run
    for what in (psutil.Process.suspend, psutil.Process.resume):
        for pid in everyone:
            what(psutil.Process(pid))
        time.sleep(2)
    assert (process.poll(), family(process)) == (None, everyone)  # no worker was given up
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "dashboard: http://127.0.0.1:" in output
    assert "Interrupted: 1 of 4 runs are done; start again to do the rest." in output
    assert "Traceback" not in output
    wait_for(lambda: not survivors(everyone))
    assert sorted(states().values()) == ["done", "unfinished", "unfinished"]

    finished = sweep.plan(path, "quick")[0].run
    before = (finished.folder / "notebook.ipynb").stat().st_mtime_ns
    first, second = start(path, "--workers", "1"), start(path, "--workers", "1")  # two sweeps on one folder
    outputs = [one.communicate(timeout=300)[0] for one in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert list(states().values()) == ["done"] * 4
    assert (finished.folder / "notebook.ipynb").stat().st_mtime_ns == before
    starts = [(i.parameters["seed"], (i.run.folder / "starts").read_text()) for i in sweep.plan(path, "quick")]
    assert starts == [(9, "x"), (0, "xx"), (1, "xx"), (8, "x")]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system weighs processes, not sessions")
def test_a_run_is_as_nice_as_its_sweep():
    code = "import os; os.nice(5); from inpaintlib.harness import engine; engine._own_session()"
    code += "; print(os.getsid(0) == os.getpid(), open('/proc/self/autogroup').read())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    own, *_, nice = done.stdout.split()
    assert (own, nice) == ("True", "5")


@pytest.mark.parametrize("whom", ["sweep", "worker"])
def test_whoever_is_killed_leaves_no_process(study, whom):
    path = study("{quick: {runs: [{act: sleep, seed: 0}]}}")
    process = start(path, "--workers", "1")
    wait_for(run_pids, 120)
    everyone, [run] = family(process), run_pids()
    if whom == "sweep":
        process.kill()
    else:
        psutil.Process(run).parents()[1].kill()
    process.communicate(timeout=120)
    wait_for(lambda: not survivors([*everyone, run]))
    assert states() == {"act=sleep,seed=0": "stale" if whom == "sweep" else "done"}


TIMES = {"seconds", "images_per_second", "training_seconds", "samples_per_second", "peak_memory_gb"}


def records(folder):
    """What must not depend on who was killed when: metrics, rows of photos, losses; times left out."""
    found = {}
    for run in sorted(folder.glob("*/runs/*/")):
        metrics = json.loads((run / "metrics.json").read_text())
        found[run.name] = (
            {name: value for name, value in metrics.items() if name not in TIMES},
            (run / "per_image.csv.gz").read_bytes(),
            (run / "params.json").read_bytes(),
            pd.read_csv(run / "history.csv").drop(columns="seconds").to_csv(),
        )
    return found


def saved(folder):
    """The seconds of the rows in each run's checkpoint; a training that resumes keeps them, one from 0 has others."""
    found = {}
    for path in folder.glob("*/runs/*/checkpoint.pt"):
        with contextlib.suppress(BadInput):  # gone meanwhile
            found[path.parent] = [row["seconds"] for row in load_checkpoint(path)["rows"]]
    return found


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(tmp_path, kills):
    """Of sweep, worker, server and run; the first is of a run that has saved, which resumes."""
    arguments = ["dcgan", "--preset", "smoke", "--workers", "2", "--set", "device=cpu"]
    assert start(*arguments, results=tmp_path / "calm").wait(600) == 0
    chance, process, everyone, kept = random.Random(0), None, set(), {}
    while kills:
        if process is None or process.poll() is not None:
            process = start(*arguments, results=tmp_path / "rough")
        if not kept:
            run = wait_for(lambda: next(iter(saved(tmp_path / "rough")), None), 300)
            os.kill(int((run / "running.lock").read_text().split()[1]), signal.SIGKILL)
            kept, kills = {run: saved(tmp_path / "rough")[run]}, kills - 1
            continue
        if chance.random() < 0.5:  # while runs are executed, else at any moment
            with contextlib.suppress(AssertionError):
                wait_for(lambda: list(tmp_path.glob("rough/*/runs/*/running.lock")), 30)
        end = time.monotonic() + chance.uniform(0, 6)
        while time.monotonic() < end and process.poll() is None:
            everyone |= set(family(process))
            time.sleep(0.1)
        alive = survivors(family(process)) if process.poll() is None else []
        if alive:
            os.kill(chance.choice([process.pid, *alive]), signal.SIGKILL)
            kills -= 1
        elif not kills:
            break
        else:  # all was done before a kill: begin again
            finished = [path for path in tmp_path.glob("rough/*/runs/*/metrics.json") if path.parent not in kept]
            for path in finished[:1]:
                path.unlink()
    process.wait(600)
    for _ in range(3):  # what failed since its worker was killed is tried again
        last = start(*arguments, results=tmp_path / "rough")
        if last.wait(600) == 0:
            break
    assert records(tmp_path / "rough") == records(tmp_path / "calm")
    for run, seconds in kept.items():
        assert pd.read_csv(run / "history.csv")["seconds"].tolist()[: len(seconds)] == seconds
    wait_for(lambda: not survivors(everyone))


def test_status_lists_every_state_with_its_progress(study):
    path = study("{quick: {runs: [{seed: [0, 1, 2, 3, 4, 5, 6]}]}}")
    every = done, diverged, running, failed, stale, _, damaged = [i.run for i in sweep.plan(path, "quick")]
    for run in every:
        run.folder.mkdir(parents=True)
        (run.folder / "params.json").write_text(json.dumps({"kimg": 10}))
    (done.folder / "per_image.csv").write_text("psnr\n1\n")
    (done.folder / "metrics.json").write_text('{"psnr": 1, "status": "done"}')
    diverged.diverged(3, None, "loss is nan")
    running.claim()
    (running.folder / "history.csv").write_text("step,kimg,seconds,rec\n1,0.5,5,3\n2,2,10,2\n3,2")
    failed.fail("Traceback\nValueError: no")
    (stale.folder / "running.lock").write_text("process 1 on another")
    (damaged.folder / "metrics.json").write_text('{"psnr": 1')
    table = sweep.status().set_index("run_id")
    names = ["done", "diverged", "running", "failed", "stale", "unfinished", "damaged"]
    assert table["status"].to_dict() == dict(zip([run.id for run in every], names, strict=True))
    assert table.loc[failed.id, "error"] == "ValueError: no"
    assert "is not strict JSON" in table.loc[damaged.id, "error"]
    assert table.loc[running.id, ["kimg", "kimg_total", "photos_s", "minutes_left"]].tolist() == [2, 10, 200, 0.7]
    assert math.isnan(table.loc[done.id, "kimg"])
    assert set(sweep.status("tiny")["study"]) == {"tiny"}
    running.release()
