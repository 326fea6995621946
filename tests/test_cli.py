"""The command line: bad input is one sentence and exit status 2, never a traceback."""

import subprocess
import sys

import pytest

from inpaintlib.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fetch moon", "no dataset 'moon'"),
        ("fetch", "fetch: name a dataset"),
        ("fetch utkface --source /nowhere.zip", "/nowhere.zip"),
        ("prepare demo 0", "size is 0"),
        ("prepare demo 64 --resize stretch", "resize is 'stretch'"),
        ("sweep context_encoder_ratios --preset huge", "there is no preset 'huge'"),
        ("sweep context_encoder_ratio", "did you mean 'context_encoder_ratios'"),
        ("sweep context_encoder_ratios --set rato=3", "has no parameter 'rato'; did you mean 'ratio'?"),
        ("sweep context_encoder_ratios --set ratio=-1", "ratio must be in [0, inf], not -1"),
        ("sweep context_encoder_ratios --set ratio=much", "ratio must be a number, not 'much'"),
        ("sweep context_encoder_ratios --set ratio", "--set: 'ratio' is not NAME=VALUE"),
        ("sweep context_encoder_ratios --set fill=white", "fill must be one of zero, mean, not 'white'"),
        ("report context_encoder_ratios --preset full", "no run of the preset 'full' is done"),
        ("bench warp_drive", "there is no benchmark 'warp_drive'"),
    ],
)
def test_bad_input(arguments, words, capsys, tmp_path, monkeypatch):
    import inpaintlib

    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("inpaintlib: ")
    assert error.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "inpaintlib", "sweep", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_list_names_every_dataset(capsys):
    assert main(["fetch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("demo", "tiny_imagenet", "celeba", "places2", "nvidia_masks_test"))
