"""Runs: strict parameters, stable ids, folders that are done or not, and who holds them."""

import gzip
import json
import math
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

import inpaintlib
from inpaintlib import ROOT, BadInput, training
from inpaintlib.harness import runs
from inpaintlib.harness.runs import Run, check, digest, find, load_table, notebook_parameters, run_id

CELL = """# what the study varies
ratio: float = 1000.0  # lambda_rec / lambda_adv [0, inf]
lr: float = 2e-4  # learning rate of the generator (0, 1)
norm: str = "l2"  # reconstruction loss {l1, l2}
seed: int = 0  # random seed [0, inf)
flip: bool = True
watch: bool = False  # write logs to watch (cosmetic)
study: str = "my_runs"  # where the run is kept
run_id: str = ""
"""
DEFAULTS = {"ratio": 1000.0, "lr": 2e-4, "norm": "l2", "seed": 0, "flip": True, "watch": False}


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")
    return write_notebook(tmp_path / "10_tiny.ipynb", CELL)


def write_notebook(path, cell, tags=("parameters",)):
    code = nbformat.v4.new_code_cell(cell, metadata={"tags": list(tags)})
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Tiny"), code]), path)
    return path


def namespace(**changed):
    return {**DEFAULTS, "study": "tiny", "run_id": "", **changed}


# Parameters -----------------------------------------------------------------------------------------------------------


def test_parameters_are_read_from_the_tagged_cell(notebook):
    found = notebook_parameters(notebook)
    assert {name: p.default for name, p in found.items() if name in DEFAULTS} == DEFAULTS
    assert list(found) == [*DEFAULTS, "study", "run_id"]
    assert [p.type for p in found.values()] == [float, float, str, int, bool, bool, str, str]
    assert found["ratio"].help == "lambda_rec / lambda_adv [0, inf]"
    assert (found["ratio"].range, found["lr"].range, found["seed"].range) == ("[0, inf]", "(0, 1)", "[0, inf)")
    assert found["norm"].choices == ("l1", "l2")
    assert (found["flip"].help, found["flip"].range, found["flip"].choices) == ("", "", ())
    assert [name for name, p in found.items() if p.cosmetic] == ["watch"]


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"ratio": 100}, {"ratio": 100.0}),
        ({"ratio": math.inf}, {"ratio": math.inf}),
        ({"ratio": "inf"}, {"ratio": math.inf}),
        ({"ratio": 0}, {"ratio": 0.0}),
        ({"norm": "l1", "flip": False}, {"norm": "l1", "flip": False}),
    ],
)
def test_check_completes_and_converts(notebook, given, becomes):
    checked = check(notebook, given)
    assert checked == {**DEFAULTS, "study": "my_runs", "run_id": "", **becomes}
    assert type(checked["ratio"]) is float


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ration": 1.0}, "10_tiny.ipynb has no parameter 'ration'; did you mean 'ratio'?"),
        ({"zzz": 1}, "has no parameter 'zzz' (there are: flip, lr, norm, ratio"),
        ({"ratio": "100"}, "ratio must be a number, not '100'."),
        ({"ratio": True}, "ratio must be a number, not True."),
        ({"ratio": None}, "ratio must be a number, not None."),
        ({"ratio": -1}, "ratio must be at least 0, not -1."),
        ({"ratio": math.nan}, "ratio must be a number, not NaN."),
        ({"lr": "1e-4"}, "lr must be a number, not '1e-4'."),
        ({"lr": 10**400}, "lr must be a number, not 1000"),
        ({"seed": 99999999999999999999}, "seed must fit into 64 bits, not be 99999999999999999999."),
        ({"lr": 0}, "lr must be above 0 and below 1, not 0."),
        ({"lr": 1}, "lr must be above 0 and below 1, not 1."),
        ({"seed": True}, "seed must be a whole number, not True."),
        ({"seed": 1.0}, "seed must be a whole number, not 1.0."),
        ({"seed": -1}, "seed must be at least 0, not -1."),
        ({"flip": 1}, "flip must be true or false, not 1."),
        ({"norm": "l3"}, "norm must be one of l1, l2, not 'l3'."),
        ({"norm": ["l1"]}, "norm must be text, not ['l1']."),
    ],
)
def test_check_refuses_with_a_sentence(notebook, given, sentence):
    with pytest.raises(BadInput) as refusal:
        check(notebook, given)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("ratio = 1.0", "'ratio = 1.0' in the cell tagged parameters must read 'name: type = value"),
        ("sizes: list = [1]", "with type one of bool, int, float, str"),
        ("import os", "'import os' in the cell"),
        ("seed: int = 1.5", "the default of seed must be a whole number, not 1.5"),
        ("norm: str = 'l3'  # {l1, l2}", "the default of norm must be one of l1, l2"),
        ("seed: int = 2 * 3", "the default of seed must be a plain value, not 2 * 3"),
        ("seed: int = ", "is not valid Python"),
        ("seed: int = 010", "is not valid Python"),
        ("seed: int = 1\nseed: int = 2", "declares seed twice; keep one"),
    ],
)
def test_a_parameters_cell_holds_annotated_scalars_only(tmp_path, cell, sentence):
    with pytest.raises(BadInput) as refusal:
        notebook_parameters(write_notebook(tmp_path / "a.ipynb", cell))
    assert sentence in str(refusal.value)


def test_bounds_are_said_in_words_and_a_power_of_two_is_asked_for(tmp_path):
    cell = "size: int = 64  # px, a power of two [16, 1024]\nlr: float = 1.0  # rate (0, inf)\n"
    path = write_notebook(tmp_path / "a.ipynb", cell)
    for wrong, sentence in (
        ({"size": 8}, "size must be at least 16 and at most 1024, not 8."),
        ({"size": 48}, "size must be a power of two, not 48."),
        ({"lr": 0}, "lr must be above 0, not 0."),
    ):
        with pytest.raises(BadInput) as refusal:
            check(path, wrong)
        assert str(refusal.value) == sentence


def test_notebooks_that_are_none(tmp_path):
    with pytest.raises(BadInput, match="there is no notebook"):
        notebook_parameters(tmp_path / "missing.ipynb")
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(BadInput, match="is not a Jupyter notebook"):
        notebook_parameters(tmp_path / "text.ipynb")
    with pytest.raises(BadInput, match="has no cell tagged parameters"):
        notebook_parameters(write_notebook(tmp_path / "untagged.ipynb", CELL, tags=()))


# Ids ------------------------------------------------------------------------------------------------------------------


def test_run_ids_never_change(notebook):
    parameters = check(notebook, {"ratio": 100})
    # printf '%s' '{"notebook":"10_tiny.ipynb","parameters":{"flip":true,"lr":0.0002,"norm":"l2",
    # "ratio":100.0,"seed":0}}' | sha256sum
    assert run_id(notebook, parameters, ["ratio", "seed"]) == "ratio=100,seed=0-464db7"
    backwards = dict(reversed(parameters.items()))
    assert run_id(notebook, backwards, ["ratio", "seed"]) == "ratio=100,seed=0-464db7"
    assert digest(notebook, check(notebook, {"ratio": 100.0, "watch": True, "study": "x"})) == "464db7"


def test_run_ids_are_readable_and_safe_file_names(notebook):
    parameters = check(notebook, {"ratio": math.inf, "flip": False})
    assert run_id(notebook, parameters, ["ratio", "lr", "flip"]).startswith("ratio=inf,lr=0.0002,flip=false-")
    assert run_id(notebook, parameters, []).startswith("defaults-")
    strange = {**parameters, "study": "a/b: {c}" + "d" * 300}
    name = run_id(notebook, strange, ["study"])
    assert name.startswith("study=a_b___c_ddd")
    assert len(name) < 130


def test_every_parameter_that_matters_is_in_the_digest(notebook, tmp_path):
    others = [{"ratio": math.inf}, {"lr": 0.1}, {"norm": "l1"}, {"seed": 1}, {"flip": False}]
    digests = {digest(notebook, check(notebook, given)) for given in [{}, *others]}
    renamed = write_notebook(tmp_path / "11_tiny.ipynb", CELL)
    assert len(digests | {digest(renamed, check(renamed, {}))}) == 7


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_run_from_start_to_finish(notebook):
    run = Run.start(notebook, namespace(ratio=math.inf, seed=3))
    assert run.folder.parent == inpaintlib.RESULTS / "tiny" / "runs"
    assert run.id.startswith("ratio=inf,seed=3-")
    assert (run.status(), run.done) == ("running", False)
    assert run.parameters == {**DEFAULTS, "ratio": math.inf, "seed": 3}
    env = json.loads((run.folder / "env.json").read_text())
    assert env["python"] == sys.version.split()[0]
    machine = {"python", "torch", "device", "precision", "cpu", "threads"}
    assert set(env) == machine | {"notebook", "cosmetic", "git_commit", "time"}
    assert not re.search(rf"{socket.gethostname()}|/(home|root|work|tmp|Users)/", json.dumps(env))
    (run.folder / "checkpoint.pt").touch()
    run.finish({"psnr": 20.5, "n_photos": 2}, pd.DataFrame({"id": ["a", "b"], "psnr": [20.0, 21.0]}))
    assert not (run.folder / "checkpoint.pt").exists()
    assert (run.status(), run.done) == ("done", True)
    assert json.loads((run.folder / "metrics.json").read_text()) == {"psnr": 20.5, "n_photos": 2, "status": "done"}
    assert run.per_image["psnr"].tolist() == [20.0, 21.0]
    assert run.picture("completions") == run.folder / "completions.png"
    first = (run.folder / "per_image.csv.gz").read_bytes()
    time.sleep(1.1)  # gzip would write the second
    again = Run.start(notebook, namespace(ratio=math.inf, seed=3))
    again.finish({"psnr": 20.5, "n_photos": 2}, pd.DataFrame({"id": ["a", "b"], "psnr": [20.0, 21.0]}))
    assert (run.folder / "per_image.csv.gz").read_bytes() == first
    assert run.picture("evolution.gif") == run.folder / "evolution.gif"


def test_the_commit_of_a_run_says_where_the_code_differs_from_it(tmp_path, monkeypatch):
    def commit():
        runs.git_commit.cache_clear()
        return runs.git_commit()

    monkeypatch.setattr(inpaintlib, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in ("code.py", "10.ipynb", "text.md"):
        (tmp_path / name).write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    clean = commit()
    assert re.fullmatch("[0-9a-f]{40}", clean)
    for name in ("text.md", "new.py"):
        (tmp_path / name).write_text("2")
    assert commit() == clean
    for name in ("code.py", "10.ipynb"):
        (tmp_path / name).write_text("2")
        assert runs.git_commit() == clean  # what this process has imported is as it was
        assert commit() == f"{clean}-dirty"
        (tmp_path / name).write_text("1")
        assert commit() == clean
    runs.git_commit.cache_clear()


def test_finish_killed_between_its_two_writes_is_not_done(notebook, monkeypatch):
    run = Run.start(notebook, namespace())

    def killed(*_):
        raise KeyboardInterrupt

    (checkpoint := run.folder / "checkpoint.pt").touch()
    monkeypatch.setattr(runs, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.finish({"psnr": 1.0}, pd.DataFrame({"psnr": [1.0]}))
    assert (run.folder / "per_image.csv.gz").exists()
    assert not run.done
    assert load_table(find("tiny")).empty
    assert checkpoint.exists()  # what was trained is not lost


def test_the_environment_is_of_the_run_s_own_device_and_precision(monkeypatch):
    gpu = torch.device("cuda:1")
    monkeypatch.setattr(training, "choose_device", lambda name: gpu if name == "auto" else torch.device(name))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {device.index}")
    monkeypatch.setattr(training, "native_bf16", lambda: False)
    asked = ({}, {"precision": "fp32"}, {"device": "cpu"}, {"device": "cpu", "precision": "bf16"})
    envs = [runs.environment(**each) for each in asked]
    assert [env["precision"] for env in envs] == ["bf16", "fp32", "fp32", "bf16"]
    assert [env["device"] for env in envs] == ["GPU 1", "GPU 1", envs[0]["cpu"], envs[0]["cpu"]]


def test_a_diverged_run_needs_no_more_work_but_is_in_no_table(notebook):
    run = Run.start(notebook, namespace())
    last = run.folder / "checkpoint.pt"
    run.diverged(40, last, f"loss rec is nan; the last good checkpoint is {last}")
    assert (run.status(), run.done) == ("diverged", True)
    assert run.metrics == {
        "status": "diverged",
        "step": 40,
        "checkpoint": "checkpoint.pt",
        "message": "loss rec is nan; the last good checkpoint is checkpoint.pt",
    }
    assert load_table(find("tiny")).empty


def test_a_metric_may_not_contradict_a_parameter(notebook):
    run = Run.start(notebook, namespace(seed=1))
    with pytest.raises(BadInput, match="the metric 'seed'"):
        run.finish({"seed": 2}, pd.DataFrame())
    run.finish({"seed": 1}, pd.DataFrame({"psnr": [1.0]}))
    assert run.done


def test_find_and_load_table(notebook):
    for seed in (0, 1, 2):
        for ratio in (1.0, math.inf):
            run = Run.start(notebook, namespace(seed=seed, ratio=ratio))
            if seed < 2:
                run.finish({"psnr": 10.0 + seed}, pd.DataFrame({"psnr": [1.0]}))
    assert len(find("tiny")) == 6
    assert sorted(run.parameters["seed"] for run in find("tiny", ratio=math.inf)) == [0, 1, 2]
    assert len(find("tiny", ratio=1, seed=[0, 2])) == 2
    table = load_table(find("tiny", ratio=math.inf))
    assert (table["psnr"] - table["seed"]).tolist() == [10.0, 10.0]
    assert table["ratio"].tolist() == [math.inf] * 2
    assert table["run_id"].tolist() == [run.id for run in find("tiny", ratio=math.inf, seed=[0, 1])]
    assert find("other") == []
    with pytest.raises(BadInput, match="no parameter 'ratios'; did you mean 'ratio'"):
        find("tiny", ratios=1)


def test_start_names_what_is_wrong(notebook):
    with pytest.raises(BadInput, match="seed is not defined; execute the cell tagged parameters first"):
        Run.start(notebook, {name: value for name, value in namespace().items() if name != "seed"})
    with pytest.raises(BadInput, match="ratio must be at least 0"):
        Run.start(notebook, namespace(ratio=-1))
    with pytest.raises(BadInput, match="run_id must be made of letters"):
        Run.start(notebook, namespace(run_id="../elsewhere"))
    assert not (inpaintlib.RESULTS / "tiny").exists()


def test_a_folder_belongs_to_one_set_of_parameters(notebook):
    Run.start(notebook, namespace(run_id="mine")).release()
    Run.start(notebook, namespace(run_id="mine", watch=True)).release()
    with pytest.raises(BadInput, match="holds a run with ratio = 1000, not 1: choose another run_id"):
        Run.start(notebook, namespace(run_id="mine", ratio=1))


def test_a_run_is_found_again_under_the_name_that_a_sweep_gave_it(notebook):
    parameters = check(notebook, {})
    name = run_id(notebook, parameters, ["ratio", "seed"])
    Run.start(notebook, namespace(run_id=name)).release()
    assert Run.start(notebook, namespace()).id == name


# Who runs it ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time, pathlib, inpaintlib
inpaintlib.RESULTS = pathlib.Path(sys.argv[1])
from inpaintlib.harness.runs import Run
run = Run("tiny", sys.argv[2])
run.claim()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Lets another process claim a run; returns that process."""
    started = []

    def start(run):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(inpaintlib.RESULTS), run.id], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_run_that_another_live_process_holds_is_refused_and_stays_its(notebook, hold):
    run = Run.start(notebook, namespace())
    run.release()
    assert run.status() == "unfinished"
    other = hold(run)
    assert run.status() == "running"
    for attempt in (lambda: Run.start(notebook, namespace()), lambda: run.fail("Traceback")):
        with pytest.raises(BadInput, match=rf"is running already \(process {other.pid} on "):
            attempt()
    run.release()
    assert run.status() == "running"  # a loser takes nothing from the winner
    assert not (run.folder / "error.txt").exists()
    other.kill()
    other.wait()
    assert run.status() == "stale"
    assert Run.start(notebook, namespace()).status() == "running"


def test_a_process_that_ends_gives_up_its_run(notebook, hold):
    run = Run.start(notebook, namespace())
    run.release()
    hold(run).communicate("")
    assert run.status() == "unfinished"


def test_who_looks_just_as_a_run_is_let_go_leaves_no_lock(notebook, monkeypatch):
    run, lock = Run.start(notebook, namespace()), runs.FileLock
    run.release()
    (run.folder / "running.lock").write_text("process 1 on another")

    def once_it_is_let_go(*path, **options):
        (run.folder / "running.lock").unlink()
        return lock(*path, **options)

    monkeypatch.setattr(runs, "FileLock", once_it_is_let_go)
    assert not run.held
    assert run.status() == "unfinished"


def test_a_failure_is_kept_until_the_next_start(notebook):
    run = Run.start(notebook, namespace())
    run.fail("Traceback ...\nValueError: no\n\n")
    assert run.status() == "failed"
    assert (run.folder / "error.txt").read_text() == "Traceback ...\nValueError: no\n"
    assert Run.start(notebook, namespace()).status() == "running"


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def done(notebook):
    run = Run.start(notebook, namespace())
    run.finish({"psnr": 1.5, "test_set": "a"}, pd.DataFrame({"id": ["a", "b"], "psnr": [1.0, 2.0]}))
    assert run.done
    return run


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("params.json", None, "cannot read"),
        ("params.json", b"{}", "must hold names and values, not {}"),
        ("params.json", b"[1, 2]", "must hold names and values, not [1, 2]"),
        ("params.json", b'{"ratio": 3.0}', "does not belong to a folder of this name"),
        ("metrics.json", b'{"psnr": 1.', "is not strict JSON"),
        ("metrics.json", b"{}", "must hold names and values"),
        ("metrics.json", b'{"status": "done"}', "holds no metric"),
        ("metrics.json", b"\xff\x00", "is not strict JSON"),
        ("per_image.csv.gz", None, "cannot be read (No such file"),
        ("per_image.csv.gz", b"half", "cannot be read"),
        ("per_image.csv.gz", gzip.compress(b"id,psnr\na,1\n" * 99, mtime=0)[:30], "cannot be read"),
        ("per_image.csv.gz", gzip.compress(b"id,psnr\n", mtime=0), "has no rows"),
    ],
)
def test_a_damaged_run_is_not_done_says_so_and_blocks_no_other(notebook, done, name, content, sentence):
    whole = Run.start(notebook, namespace(seed=1))
    whole.finish({"psnr": 2.5}, pd.DataFrame({"psnr": [1.0]}))
    path = done.folder / name
    path.unlink() if content is None else path.write_bytes(content)
    assert (done.done, done.status()) == (False, "damaged")
    assert sentence in done.fault
    assert str(path) in done.fault
    assert load_table(find("tiny"))["run_id"].tolist() == [whole.id]
    again = Run.start(notebook, namespace())
    again.finish({"psnr": 1.5}, pd.DataFrame({"psnr": [1.0]}))
    assert (again.id, again.status()) == (done.id, "done")


def test_a_run_brought_from_another_machine_counts(done, tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "clone")
    there = Run("tiny", done.id)
    there.folder.mkdir(parents=True)
    for name in ("params.json", "env.json", "metrics.json", "per_image.csv.gz"):
        (there.folder / name).write_bytes((done.folder / name).read_bytes())
    assert there.status() == "done"
    assert load_table(find("tiny"))["psnr"].tolist() == [1.5]
    (there.folder / "per_image.csv.gz").unlink()
    (there.folder / "per_image.csv").write_text("id,psnr\na,1\n")
    assert there.done


def test_git_keeps_the_records_of_a_run_and_nothing_else():
    names = ["params.json", "env.json", "metrics.json", "history.csv", "per_image.csv.gz", "weights.pt", "examples.png",
             "checkpoint.pt", "frames/1.png", "notebook.ipynb", "log.txt", "running.lock", "tensorboard/a"]  # fmt: skip
    paths = [f"results/tiny/runs/seed=0-123456/{name}" for name in names]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert [Path(path).name for path in paths if path not in ignored] == names[:5]


def test_what_a_killed_write_left_goes_with_the_next_start(notebook):
    run = Run.start(notebook, namespace())
    (run.folder / ".metrics.json.12345678.tmp").write_text("{")
    Run.start(notebook, namespace())
    assert [path.name for path in run.folder.glob(".*")] == []


def test_a_results_folder_that_cannot_be_written_is_one_sentence(notebook, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder, why in ((tmp_path / "file", "Not a directory"), (Path("/proc/results"), "No such file")):
        monkeypatch.setattr(inpaintlib, "RESULTS", folder)
        with pytest.raises(BadInput, match=f"cannot write {folder}/tiny/runs/.*: {why}.*INPAINT_RESULTS"):
            Run.start(notebook, namespace())


def test_a_name_may_not_claim_other_parameters(notebook):
    with pytest.raises(BadInput, match="run_id 'mine-123456' belongs to other parameters"):
        Run.start(notebook, namespace(run_id="mine-123456"))


@pytest.mark.parametrize(
    "content",
    ['{"cells": null}', '{"cells": [null]}', '{"cells": [{"metadata": {"tags": ["parameters"]}, "source": null}]}',
     '{"cells": [{"metadata": {"tags": 3}}]}', "[]", "3"],
)  # fmt: skip
def test_notebooks_of_a_foreign_form_are_one_sentence(tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(BadInput, match="is not a Jupyter notebook"):
        notebook_parameters(tmp_path / "a.ipynb")
    (tmp_path / "a.ipynb").write_text('{"cells": [{"metadata": null}, {"metadata": {"tags": null}}]}')
    with pytest.raises(BadInput, match="has no cell tagged parameters"):
        notebook_parameters(tmp_path / "a.ipynb")
