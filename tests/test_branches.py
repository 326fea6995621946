"""What notebooks 40 to 42 measure: what codes lose and what features hold; and arms that are what they say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import inpaintlib
from inpaintlib import ROOT, BadInput, metrics
from inpaintlib.data import masks
from inpaintlib.data.photos import Photos
from inpaintlib.data.test_set import TestSet
from inpaintlib.files import write_json
from inpaintlib.harness import parameters, sweep
from inpaintlib.harness.runs import Run
from inpaintlib.methods import autoencoder, medfe, medfe_released, rtv
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.medfe import MEDFE, Settings
from inpaintlib.studies import autoencoder as codes_study
from inpaintlib.studies import medfe as branches
from tests.conftest import coders, noise

SIZE, N = 64, 4  # as those of noise


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A folder of their own for structure images."""
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path / "data")


def method(constraint="conv1x1"):
    settings = Settings(constraint=constraint, size=SIZE, width=2, perceptual_weight=0, style_weight=0)
    return MEDFE(settings, device="cpu", codes=coders())


@pytest.fixture(scope="module")
def test_set():
    photos = noise(seed=1)
    return TestSet.make("noise", photos, masks.centre(N, SIZE), [str(i) for i in range(N)])


# The arms


@pytest.mark.parametrize("preset", sorted(sweep.load("medfe_vs_cae").presets))
def test_arms_are_what_their_names_say(preset):
    """``released cae + init``: the code, the constraint, what is fixed; ``x4``: the multiplier."""
    for item in sweep.plan("medfe_vs_cae", preset):
        p = item.parameters
        arm, _, fixes = p["arm"].removesuffix(" from the start").partition(" + ")
        code, constraint, *mult = arm.split(" ")
        assert (p["code"], p["constraint"], p["fixes"]) == (code, constraint, fixes.replace(" + ", "+"))
        assert p["loss_mult"] == (float(mult[0][1:]) if mult else -1)
        assert (p["pixel_kimg"] == 0) == (p["arm"].endswith(" from the start") or preset == "exact")


@pytest.mark.parametrize("study", ["autoencoder", "medfe_vs_cae"])
def test_every_arm_has_seeds_enough_to_be_judged(study):
    for preset in ("quick", "night", "full", "exact"):
        seeds = pd.DataFrame([item.parameters for item in sweep.plan(study, preset)]).groupby(["dataset", "arm"])[
            "seed"
        ]
        assert seeds.nunique().min() >= 3, preset
    headline = ["none", "conv1x1", "cae"], ["conv1x1", "cae"]
    if study == "medfe_vs_cae":
        night = pd.DataFrame([item.parameters for item in sweep.plan(study, "night")])
        for code, constraints in zip(("described", "released"), headline, strict=True):
            for constraint in constraints:
                arm = night[(night["arm"] == f"{code} {constraint}") & (night["dataset"] == "celeba")]
                assert arm["seed"].nunique() >= 6


@pytest.mark.parametrize("preset", sorted(sweep.load("medfe_vs_cae").presets))
def test_every_network_with_codes_has_its_auto_encoders_planned(preset):
    planned = [item.parameters for item in sweep.plan("medfe_vs_cae", preset)]
    coders = sweep.plan("autoencoder", planned[0]["codes_preset"])
    there = {tuple(p.parameters[k] for k in ("arm", "dataset", "size", "width", "seed")) for p in coders}
    for p in planned:
        seed = p["seed"] if p["codes_seed"] < 0 else p["codes_seed"]
        for kind in autoencoder.KINDS if p["constraint"].startswith("cae") else ():
            assert (kind, p["dataset"], p["size"], p["width"] // 2, seed) in there


# Auto-encoders


def finished_coder(folder, kind, width=1, **parameters):
    run = folder / "autoencoder" / "runs" / f"{kind}-{width}"
    run.mkdir(parents=True)
    given = {"preset": "quick", "arm": kind, "size": SIZE, "width": width, "dataset": "demo", "seed": 0}
    write_json(run / "params.json", given | parameters)
    write_json(run / "metrics.json", {"status": "done", "l1": 0.1})
    pd.DataFrame({"id": ["a"]}).to_csv(run / "per_image.csv.gz", index=False)
    cae = CAE(autoencoder.Settings(kind=kind, width=width), device="cpu")
    cae.network.shown += 1
    cae.save(run / "weights.pt")


def test_codes_come_from_the_runs_of_their_kind_and_width(results):
    wanted = {"study": "autoencoder", "preset": "quick", "device": "cpu", "dataset": "demo", "seed": 0}
    assert branches.trained_codes(Settings(size=SIZE, width=2), **wanted) is None
    cae = Settings(constraint="cae", size=SIZE, width=2)
    finished_coder(results, "texture")
    finished_coder(results, "texture", width=4)
    with pytest.raises(BadInput, match=r"autoencoder: no run .* arm = structure.* is done; make it with python -m inp"):
        branches.trained_codes(cae, **wanted)
    finished_coder(results, "structure")
    found = branches.trained_codes(cae, **wanted)
    assert [(c.settings.kind, c.settings.width, c.untrained) for c in found] == [("texture", 1, False),
                                                                                ("structure", 1, False)]  # fmt: skip
    with pytest.raises(BadInput, match="width: 3 will not do with cae; auto-encoders are half as wide"):
        branches.trained_codes(replace(cae, width=3), **wanted)


@pytest.fixture
def prepared():
    return Photos(noise(3).numpy(), ["a", "b", "c"], "noise")


def test_structures_lie_behind_their_photos_and_their_window_shrinks(prepared, monkeypatch):
    both = codes_study.with_structures(prepared)
    expected = rtv.structure(noise(3).float() / 255, rtv.Settings(sigma=0.75))
    assert np.array_equal(both.array[:, :3], prepared.array)
    assert np.array_equal(both.array[:, 3:], (expected * 255).round().byte().numpy())
    assert not both.array.flags.writeable
    kept = codes_study.kept_structures(torch.from_numpy(prepared.array))
    assert torch.equal((kept * 255).round().byte(), torch.from_numpy(np.array(both.array[:, 3:])))
    assert (both.ids, len(both)) == (["a", "b", "c"], 3)
    monkeypatch.setattr(rtv, "structure", None)  # from here on nothing can be computed
    assert np.array_equal(codes_study.with_structures(prepared).array, both.array)
    with pytest.raises(TypeError):  # other photos have a file of their own
        codes_study.with_structures(replace(prepared, array=255 - prepared.array))


def test_no_half_file_of_structures_stays_and_a_damaged_one_is_named(prepared, monkeypatch):
    calls, whole = [], codes_study.structures

    def stops(photos):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(photos)

    monkeypatch.setattr(codes_study, "structures", stops)
    with pytest.raises(BadInput, match=r"npy: No space left on device; free some space"):
        codes_study._kept(prepared.array, batch=2)
    assert not list(inpaintlib.DATA.rglob("*.npy*"))
    codes_study.with_structures(prepared)
    next(inpaintlib.DATA.rglob("*.npy")).write_bytes(b"")
    with pytest.raises(BadInput, match=r"npy: is damaged .*; delete it, and it is computed anew"):
        codes_study.with_structures(prepared)


class Blur:
    """An auto-encoder that is a Gaussian blur."""

    device = torch.device("cpu")

    def __init__(self, sigma):
        self.sigma = sigma

    def reconstruct(self, photos):
        return codes_study.blur(photos, self.sigma)


def test_a_blur_loses_high_frequencies_and_is_its_own_control():
    sigma = float(np.geomspace(0.3, SIZE / 4, 24)[9])
    scores, rows = codes_study.measure_code(Blur(sigma), noise(), list("abcd"))
    assert scores["lost_low"] < 0.5 < 0.9 < scores["lost_high"]
    assert scores["correlation_removed"] == pytest.approx(scores["blur_correlation_removed"])
    assert list(rows["id"]) == list("abcd")
    photos = noise() / 255
    assert scores["l1"] == pytest.approx((codes_study.blur(photos, sigma) - photos).abs().mean().item(), rel=1e-4)
    assert scores["l1"] == pytest.approx(scores["l1_photo"])


def test_an_eighth_of_a_photo_holds_no_periods_below_8_px():
    line = torch.arange(SIZE) / SIZE * 2 * torch.pi
    for periods, kept in ((1, True), (16, False)):  # of 64 and of 4 px
        wave = (torch.cos(periods * line) / 4 + 0.5).expand(1, 3, SIZE, SIZE)
        found = codes_study.losses_by_period(codes_study.reduced(wave), wave)
        assert (found["residual_low" if kept else "residual_high"] < 0.05 / 32) is kept  # its power is 1/32
        assert (found["high_less_low"] > 0) is not kept
        assert found["high_less_low"] == found["residual_high"] - found["residual_low"]


def test_a_blur_keeps_a_flat_photo_to_its_edges():
    flat = torch.full((1, 3, SIZE, SIZE), 0.3)
    torch.testing.assert_close(codes_study.blur(flat, 16), flat)


# Probes


def test_the_probe_finds_a_linear_map_and_nothing_else():
    torch.manual_seed(0)
    x, weights = torch.randn(4000, 6), torch.randn(6, 3)
    y = x @ weights + 5
    assert branches.probe(x[:2000], y[:2000], x[2000:], y[2000:]) == pytest.approx(1, abs=1e-4)
    half = y + (y - 5).std(0) * torch.randn(4000, 3)  # noise of the signal's own variance
    assert branches.probe(x[:2000], half[:2000], x[2000:], half[2000:]) == pytest.approx(0.5, abs=0.03)
    other = torch.randn(4000, 6)
    assert branches.probe(other[:2000], y[:2000], other[2000:], y[2000:]) == pytest.approx(0, abs=0.02)


def test_cka_ignores_rotation_and_scale_and_sees_independence():
    torch.manual_seed(0)
    x = torch.randn(3000, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert branches.cka(x, 3 * x @ rotation + 7) == pytest.approx(1)
    assert branches.cka(x, torch.randn(3000, 8)) < 0.02
    assert branches.cka(x, x[:, :4]) == pytest.approx(1 / np.sqrt(2), abs=0.02)  # half of the energy, twice the rank


def test_effective_rank_counts_equal_directions():
    x = torch.eye(6)[torch.arange(600) % 6] * 3 + 1
    assert branches.effective_rank(x) == pytest.approx(5)  # six corners of a simplex span five directions
    assert branches.effective_rank(x[:, :1] @ torch.ones(1, 4)) == pytest.approx(1)


def test_features_in_the_hole_are_those_whose_patch_is_all_hole():
    features = torch.arange(64.0).view(1, 1, 8, 8)
    found = branches.in_hole(features, masks.centre(1, SIZE))
    assert found[:, 0].tolist() == [8 * i + j for i in range(2, 6) for j in range(2, 6)]
    partly = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    partly[..., :15, :16] = True
    assert branches.in_hole(features, partly)[:, 0].tolist() == [0, 1]


def test_what_the_1x1_does_not_read_is_orthogonal_to_it():
    weight, x = torch.randn(3, 8), torch.randn(50, 8)
    free = branches.without_read(x, weight)
    torch.testing.assert_close(free @ weight.double().T, torch.zeros(50, 3).double(), atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(x - free, atol=1e-4) == 3


# Networks


def test_exchanging_what_is_not_read_leaves_the_loss(test_set):
    network = method()
    found = branches.probe_branches(network, noise(seed=2), test_set)
    assert found["swap_change"] < 1e-5
    texture = branches._filled(network, test_set.photos, test_set.masks())[1]
    network.network.to_rgb.weight.data.mul_(50)  # so that what is read matters
    target = medfe.resize(test_set.photos01() * 2 - 1, (8, 8))
    before, after = ((network.network.pictures(t) - target).abs().mean() for t in (texture, texture.roll(1, 0)))
    assert abs(after / before - 1) > 1e-4  # while exchanging all of the features moves it
    assert branches.swap_change(network, texture, test_set.photos01()) < 1e-5


@pytest.mark.parametrize(("constraint", "names"), [
    ("none", set()),
    ("conv1x1", {"probe_lost", "swap_change"}),
    ("cae", {"code_error", "code_distance", "code_size", "code_variation"}),
])  # fmt: skip
def test_each_constraint_has_its_measures(test_set, constraint, names):
    found = branches.probe_branches(method(constraint), noise(seed=2), test_set)
    both = {
        f"{name}_{branch}"
        for name in ("probe", "cka", "rank", "structure_in", "detail_in")
        for branch in ("texture", "structure")
    }
    assert set(found) == both | names
    assert all(np.isfinite(list(found.values())))


def test_holes_thinner_than_a_patch_hold_nothing_to_examine():
    thin = torch.zeros(N, 1, SIZE, SIZE, dtype=torch.bool)
    thin[..., 3] = True
    assert branches.probe_branches(method(), noise(), TestSet.make("thin", noise(), thin, list("abcd"))) == {}


def test_code_error_is_one_for_zeros_and_zero_for_the_codes(test_set):
    network, truth = method("cae"), test_set.photos01()
    texture, structure = (encoder(truth * 2 - 1) for encoder in network.codes)
    met = branches.against_codes(network, (structure, texture), truth)
    assert met["code_error"] == pytest.approx(0, abs=1e-6)
    zeros = branches.against_codes(network, (0 * structure, 0 * texture), truth)
    assert zeros["code_error"] == pytest.approx(1)
    assert (zeros["code_distance"], zeros["code_size"]) == (pytest.approx(met["code_size"]),) * 2
    parts = [(code.double().var((0, 2, 3), correction=0).mean() / code.double().square().mean()).sqrt().item()
             for code in (texture, structure)]  # fmt: skip
    assert zeros["code_variation"] == pytest.approx(np.mean(parts), rel=1e-5)


def test_films_show_what_each_constraint_can_show(test_set):
    photos, hole = test_set.photos01(), test_set.masks()
    for constraint, grey in (("none", True), ("cae_reinitialised", True), ("conv1x1", False), ("cae", False)):
        network, pair = method(constraint), coders()
        film = branches.pictures(network, photos, hole, pair)
        assert film.shape == (3 * N, 3, SIZE, SIZE)
        assert torch.equal(film[:N], network.inpaint(photos, hole).clamp(0, 1))
        assert bool((film[N:] == 0.5).all()) is grey
        truth = branches.true_pictures(network.settings, photos, pair)
        assert torch.equal(truth[:N], photos)
        assert bool((truth[N:] == 0.5).all()) is grey
        if constraint == "cae":
            texture = network.branches(photos, hole)[1]
            torch.testing.assert_close(film[2 * N :], pair[0].decode(texture).clamp(0, 1))
            torch.testing.assert_close(truth[2 * N :], pair[0].reconstruct(photos))
        blocks = truth[2 * N :].view(N, 3, 8, 8, 8, 8)
        assert bool((blocks == blocks[:, :, :, :1, :, :1]).all()) is (constraint != "cae")  # one colour a patch


def test_weighted_constraint_is_of_the_end():
    history = pd.DataFrame({"total": [np.nan] + [1.0] * 10, "structure": [np.nan] + [0.0] * 9 + [0.2],
                            "texture": [np.nan] + [9.0] * 9 + [0.3]})  # fmt: skip
    assert branches.weighted_constraint(history, Settings(constraint="cae")) == pytest.approx(8 * 0.5)
    assert branches.weighted_constraint(history[["total"]], Settings(constraint="none")) == 0


def test_pulls_are_gradients_of_the_weighted_terms():
    network, photos, holes = method(), noise(2), masks.centre(2, SIZE)
    found = branches.pulls(network, photos, holes)
    assert set(found) == {f"pull_{name}" for name in ("l1", "structure", "texture", "constraint", "others")}
    twice = MEDFE(replace(network.settings, loss_mult=2.0), device="cpu")
    doubled = branches.pulls(twice, photos, holes)
    for name in ("structure", "texture", "constraint"):
        assert doubled[f"pull_{name}"] == pytest.approx(2 * found[f"pull_{name}"], rel=1e-4)
    assert doubled["pull_l1"] == doubled["pull_others"] == pytest.approx(found["pull_l1"], rel=1e-4)
    free = branches.pulls(method("none"), photos, holes)
    assert free["pull_constraint"] == 0
    heavy = MEDFE(replace(network.settings, l1_weight=20.0), device="cpu")  # trained so; the texts have 1
    assert branches.pulls(heavy, photos, holes)["pull_l1"] == pytest.approx(found["pull_l1"], rel=1e-4)


def test_fid_of_few_photos_is_of_the_first_500():
    features = torch.randn(2, 600, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    scores = metrics.Evaluation({"fid": 0.0, "n_photos": 600}, pd.DataFrame(), torch.zeros(0))
    scores.features = {"": features}
    assert branches.few(scores)["fid_500"] == metrics.fid(features[0][:500], features[1][:500])
    assert branches.few(scores | {"n_photos": 500}) == {}


def test_settings_of_a_run_are_of_its_code(results):
    declared = parameters.notebook_parameters(ROOT / "notebooks" / "41_medfe.ipynb")
    given = {name: parameter.default for name, parameter in declared.items()}
    for i, (code, fixes, kind) in enumerate((("described", "", Settings), ("released", "bpa", medfe_released.Settings),
                                             ("described", "bpa", None))):  # fmt: skip
        run = Run("medfe_vs_cae", str(i))
        run.folder.mkdir(parents=True)
        write_json(run.folder / "params.json", given | {"code": code, "fixes": fixes})
        if kind:
            assert type(branches.settings_of(run)) is kind
            continue
        with pytest.raises(BadInput, match="fixes: 'bpa' will not do with code described, which has nothing to fix"):
            branches.settings_of(run)
