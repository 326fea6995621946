"""Benchmarks: rows, ratios, and that a device's rows replace its own only."""

import subprocess

import pandas as pd
import pytest
import torch
from conftest import narrow_vgg

import inpaintlib
from benchmarks import speed as bench
from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import medfe, medfe_released

CPU = torch.device("cpu")


def test_a_second_run_replaces_its_own_rows_and_keeps_those_of_other_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    path = tmp_path / "bench.csv"
    other = "fake,a,another machine,99,photos/s,9,11\n"
    path.write_text("bench,case,device,value,unit,baseline,ratio\n" + other)
    for value in (20.0, 30.0):
        rows = [bench._row("fake", case, value, "photos/s", 10.0) for case in ("a", "b")]
        monkeypatch.setitem(bench.BENCHES, "fake", lambda rows=rows: rows)
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


# MEDFE as released


def outputs_and_gradients(middle, levels, hole, weights):
    """What a middle returns, and the gradients of its random mix with respect to parameters and levels."""
    levels = [each.clone().requires_grad_() for each in levels]
    fine_and_coarse, *branches = middle(levels, hole)
    outputs = [*fine_and_coarse, *branches]
    total = sum((each * weight).sum() for each, weight in zip(outputs, weights, strict=True))
    return outputs, torch.autograd.grad(total, [*middle.parameters(), *levels])


@pytest.mark.parametrize("feature_hole", [medfe.feature_hole, medfe_released.released_feature_hole])
def test_released_middle_is_ours_forward_and_backward(feature_hole):
    torch.manual_seed(2)
    settings, hole = medfe.Settings(size=64, width=4), masks.irregular(2, 64, 0, (0.3, 0.4))
    assert medfe.feature_hole(hole).flatten(1).any(1).all()
    ours, released = medfe.FeatureEqualization(settings), bench.ReleasedMiddle(settings)
    ours.feature_hole = released.feature_hole = feature_hole
    released.load_state_dict(ours.state_dict())
    levels = [torch.randn(2, c, s, s) for c, s in zip(settings.channels, (32, 16, 8, 4, 4, 4), strict=True)]
    with torch.no_grad():
        weights = [torch.randn_like(each) for each in [*levels, *ours(levels, hole)[1:]]]
    (a, da), (b, db) = (outputs_and_gradients(middle, levels, hole, weights) for middle in (ours, released))
    assert len(da) == len(list(ours.parameters())) + 6
    torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
    for x, y in zip(da, db, strict=True):
        assert x.norm() > 1
        assert (y - x).norm() < 1e-3 * x.norm()


def test_released_medfe_takes_the_same_steps():
    """Adam magnifies the rounding of gradients near 0, so the second step agrees less than the first."""
    settings = medfe.Settings(size=64, width=2)
    fast = medfe.MEDFE(settings, 3, CPU, "fp32", vgg=narrow_vgg())
    released = bench.released_medfe(settings, 3, CPU, narrow_vgg())
    assert type(released.network.middle) is bench.ReleasedMiddle
    before = [p.detach().clone() for p in released.network.middle.parameters()]
    torch.manual_seed(1)
    photos = torch.randint(0, 256, (2, 6, 64, 64), dtype=torch.uint8)
    for step, tolerance in enumerate((1e-5, 5e-3)):
        expected, found = (method.step(photos, step) for method in (fast, released))
        assert found.keys() == expected.keys()
        assert {"d_global", "d_local", "adversarial", "l1", "perceptual", "style", "structure", "texture"} < set(found)
        for name in expected:
            assert expected[name] > 0
            assert found[name].item() == pytest.approx(expected[name].item(), rel=tolerance), (step, name)
    moved = [(p != old).flatten() for p, old in zip(released.network.middle.parameters(), before, strict=True)]
    assert torch.cat(moved).float().mean() > 0.9


def test_medfe_rows_say_what_was_measured(monkeypatch):
    monkeypatch.setattr(bench, "choose_device", lambda: CPU)
    monkeypatch.setattr(bench.pretrained, "vgg16", lambda device: narrow_vgg())
    monkeypatch.setitem(bench.MEDFE_CASES, "cpu", {"width": 2, "batches": {64: (1, 2)}, "structures": {32: 2}})
    stepped, step = [], medfe.MEDFE.step

    def recorded(self, photos, i):
        stepped.append((type(self.network.middle), len(photos)))
        return step(self, photos, i)

    monkeypatch.setattr(medfe.MEDFE, "step", recorded)

    def in_turns(steps, photos, gpu):
        """Runs each arm once; they took 8, 2 and 2 s a step, .5 and .01 for all structures."""
        for step in steps.values():
            step(photos, 0)
        return [8.0, 2.0, 2.0] if photos.shape[1] == 6 else [0.5, 0.01]

    monkeypatch.setattr(bench, "_in_turns", in_turns)
    rows = pd.DataFrame(bench.BENCHES["medfe"]())
    assert stepped == [(bench.ReleasedMiddle, 1), (medfe.FeatureEqualization, 1), (medfe.FeatureEqualization, 2)]
    assert list(rows.columns) == ["bench", "case", "device", "value", "unit", "baseline", "ratio"]
    assert set(rows["bench"]) == {"medfe"}
    assert rows["case"].tolist() == [
        "step, 64 px, width 2, batch 1, eager; released: batch 1",
        "step, 64 px, width 2, batch 2, eager; released: batch 1",
        "structure, 32 px, code of an auto-encoder, width 32, batch 2; RTV by factorisation: CPU",
    ]
    assert rows["unit"].tolist() == ["photos/s"] * 2 + ["ms/photo"]
    assert rows["value"].tolist() == pytest.approx([1 / 2, 2 / 2, 5])
    assert rows["baseline"].tolist() == pytest.approx([1 / 8, 1 / 8, 250])
    assert rows["ratio"].tolist() == pytest.approx([4, 8, 0.02])


def test_the_study_is_timed_in_a_clone_of_what_is_committed(tmp_path, monkeypatch):
    git = lambda *words: subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)  # noqa: E731
    seen = tmp_path.parent / "seen"
    (tmp_path / "Makefile").write_text(f"study:\n\tsleep 0.3; ls > {seen}; echo $$INPAINT_RESULTS >> {seen}\n")
    git("init", "-q")
    git("add", "Makefile")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "A study")
    (tmp_path / "not committed").touch()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setenv("INPAINT_RESULTS", "elsewhere")
    (row,) = bench.study()
    assert seen.read_text().split() == ["Makefile"]
    assert 0.3 <= 60 * row["value"] < 30
    assert (row["unit"], row["baseline"]) == ("min", 10)

    (tmp_path / "Makefile").write_text("study:\n\techo no wheel for torch >&2; exit 3\n")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-a", "-m", "A study that fails")
    with pytest.raises(BadInput, match=r"make study ended with status 2; its last line: make.*Error 3"):
        bench.study()


@pytest.mark.slow
def test_trainings_that_share_a_device_are_counted_together():
    """On a CPU of two cores; on one, two are no faster, and no slower than by half."""
    one, two = bench.share()
    assert [row["case"].split()[0] for row in (one, two)] == ["1", "2"]
    assert two["baseline"] == one["value"]
    assert two["ratio"] > 0.5
