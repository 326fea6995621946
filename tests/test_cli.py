"""The command line: bad input is one sentence and exit status 2, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import inpaintlib
from inpaintlib import ROOT
from inpaintlib.__main__ import duration, main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fetch moon", "no dataset 'moon'"),
        ("fetch", "fetch: name a dataset"),
        ("fetch utkface --source /nowhere.zip", "/nowhere.zip"),
        ("prepare demo 0", "size is 0"),
        ("prepare demo 64 --resize stretch", "resize is 'stretch'"),
        ("fetch nothing", "no dataset 'nothing': choose one of demo, "),
        ("sweep context_encoder_ratios --set rato=10", "inpaintlib: --set rato=10: 10_context_encoder.ipynb has no"),
        ("sweep context_encoder_ratios --set size=48 --dry-run", "--set size=48: size must be a power of two, not 48."),
        ("sweep context_encoder_ratios --set dataset=/nowhere --dry-run", "no folder or zip of photos at /nowhere"),
        ("sweep context_encoder_ratios --set device=warp --dry-run", "device: 'warp' cannot be used here"),
        ("sweep context_encoder_ratios --preset huge", "there is no preset 'huge'"),
        ("sweep context_encoder_ratio", "did you mean 'context_encoder_ratios'"),
        ("sweep context_encoder_ratios --set rato=3", "has no parameter 'rato'; did you mean 'ratio'?"),
        ("sweep context_encoder_ratios --set ratio=-1", "ratio must be at least 0, not -1"),
        ("sweep context_encoder_ratios --set ratio=much", "ratio must be a number, not 'much'"),
        ("sweep context_encoder_ratios --set ratio", "--set: 'ratio' is not NAME=VALUE"),
        ("sweep context_encoder_ratios --set reconstruction=white", "reconstruction must be one of l2, l1"),
        ("sweep context_encoder_ratios --set ratio=7 --set ratio=8", "--set: ratio is given twice; several values"),
        ("sweep context_encoder_ratios --set ratio=[1", "--set: '[1', the value of ratio, is not valid YAML"),
        ("sweep context_encoder_ratios --set seed=010", "seed must be a whole number, not '010'"),
        ("sweep context_encoder_ratios --set seed=99999999999999999999", "seed must fit into 64 bits"),
        ("sweep context_encoder_ratios --set dataset=dmeo", "dmeo"),
        ("sweep context_encoder_ratios --set device=warp", "device: 'warp' cannot be used here"),
        ("sweep context_encoder_ratios --only ratio=7", "no run of the preset has ratio = 7"),
        ("sweep context_encoder_ratios --workers 0", "workers must be at least 1, not 0"),
        ("sweep context_encoder_ratios --scheduler tcp://127.0.0.1:9", "the scheduler at tcp://127.0.0.1:9 cannot be"),
        ("sweep /nowhere/mine.yaml", "there is no sweep file /nowhere/mine.yaml"),
        ("status ../..", "a study must be made of letters, digits"),
        ("status nothing", "there is no sweep named 'nothing'"),
        ("report my_runs", "there is no sweep named 'my_runs'"),
        ("report context_encoder_ratios --preset full", "no run of the preset 'full' is done"),
        ("bench warp_drive", "there is no benchmark 'warp_drive'"),
    ],
)
def test_bad_input(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("inpaintlib: ")
    assert error.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "9 m", "nine", "9w"])
def test_other_durations_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "dcgan", f"--time-limit={text}"])
    assert "must be a number and s, m, h or d, such as 9m" in capsys.readouterr().err


def test_results_must_be_a_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "file")
    assert main(["status"]) == 2
    assert "INPAINT_RESULTS must name a folder" in capsys.readouterr().err


def test_folders_of_the_environment_are_the_same_wherever_a_process_works():
    say = "import inpaintlib; print(inpaintlib.DATA, inpaintlib.RESULTS)"
    for given, meant in (("", ROOT), ("disk", ROOT / "disk"), ("/disk", Path("/disk"))):
        data, results = (meant, meant) if given else (ROOT / "data", ROOT / "results")
        env = os.environ | {"INPAINT_DATA": given, "INPAINT_RESULTS": given, "PYTHONPATH": str(ROOT)}
        for folder in (ROOT, ROOT / "notebooks"):
            said = subprocess.run([sys.executable, "-c", say], cwd=folder, env=env, capture_output=True, text=True)
            assert said.stdout.split() == [str(data), str(results)]


def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "inpaintlib", "sweep", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_list_names_every_dataset(capsys):
    assert main(["fetch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("demo", "tiny_imagenet", "celeba", "places2", "nvidia_masks_test"))
