"""Benchmarks: rows, ratios, and that a device's rows replace its own only."""

import pandas as pd
import pytest
import torch

import inpaintlib
from inpaintlib.study import bench


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    values = {"now": 0.0}
    rows = lambda: [bench._row("fake", case, values["now"], "photos/s", 10.0) for case in ("a", "b")]  # noqa: E731
    monkeypatch.setitem(bench.BENCHES, "fake", rows)
    return values


def test_a_second_run_replaces_its_own_rows_and_keeps_those_of_other_devices(fake, tmp_path):
    path = tmp_path / "bench.csv"
    other = "fake,a,another machine,99,photos/s,9,11\n"
    path.write_text("bench,case,device,value,unit,baseline,ratio\n" + other)
    for fake["now"] in (20.0, 30.0):
        shown = bench.run("fake")
    table = pd.read_csv(path)
    assert shown["ratio"].tolist() == [3.0, 3.0]
    assert table["value"].tolist() == [99, 30, 30]
    assert list(table.columns) == ["bench", "case", "device", "value", "unit", "baseline", "ratio"]


def test_seconds_are_means_of_consecutive_steps():
    calls = []
    spent = bench.seconds_per_step(lambda photos, step: calls.append(step), torch.zeros(1), 50)
    assert calls == list(range(50))
    assert 0 < spent < 0.01
