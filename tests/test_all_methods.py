"""All methods on one test: the holes, who may fill them, what is kept of it, and what ranks and fronts say."""

import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import inpaintlib
from inpaintlib import ROOT, BadInput, training
from inpaintlib.data import masks
from inpaintlib.files import read_json, write_json
from inpaintlib.harness import sweep
from inpaintlib.harness.runs import Run
from inpaintlib.methods import classical
from inpaintlib.methods.partial_conv import Settings as ConvSettings
from inpaintlib.methods.partial_conv import UNet
from inpaintlib.metrics import evaluate
from inpaintlib.studies import all_methods
from inpaintlib.studies.all_methods import MASKS, METHODS, Loaded
from inpaintlib.training import generator

HALF_GREY = Loaded(lambda photos, mask: torch.where(mask, 0.25, photos), 32, masks.centre(1, 32))


@pytest.fixture(scope="module")
def sets():
    photos = (torch.rand(3, 3, 64, 64, generator=generator(1)) * 255).byte()
    return all_methods.test_sets(photos, ["a1", "a2", "b"], ["a", "a", "b"], "noise")


def test_every_kind_of_hole_is_over_the_same_photos(sets):
    assert list(sets) == list(MASKS)
    assert [len(test_set) for test_set in sets.values()] == [3, 36, 3, 3]
    for test_set in sets.values():
        assert torch.equal(test_set.photos[:: len(test_set) // 3], sets["centre"].photos)
        assert set(test_set.pictures) == {"a", "b"}
    areas = {kind: masks.hole_ratio(test_set.masks()) for kind, test_set in sets.items()}
    assert areas["centre"].eq(0.25).all()
    assert areas["half"].eq(0.5).all()
    assert np.allclose(areas["random_pixels"], 0.8, atol=1e-3)
    bins = torch.tensor(masks.RATIO_BINS).repeat_interleave(2, 0).repeat(3, 1)
    assert ((bins[:, 0] < areas["irregular"]) & (areas["irregular"] <= bins[:, 1])).all()


def test_figures_show_demo_photos_under_irregular_holes_that_grow():
    shown = all_methods.shown_sets(32)
    assert {len(test_set) for test_set in shown.values()} == {6}
    assert all((ROOT / "data" / "demo" / "test" / f"{name}.jpg").exists() for name in shown["irregular"].ids)
    assert masks.hole_ratio(shown["irregular"].masks()).diff().gt(0).all()
    assert torch.equal(shown["irregular"].photos, shown["half"].photos)


def test_a_method_of_the_centre_is_asked_for_nothing_else(sets):
    assert [kind for kind, test_set in sets.items() if all_methods.fits(HALF_GREY, test_set)] == ["centre"]
    assert all(all_methods.fits(Loaded(classical.grey), test_set) for test_set in sets.values())


def test_a_method_of_another_size_sees_the_photo_scaled_and_leaves_known_pixels(sets):
    photos, mask = sets["centre"].photos01(), sets["centre"].masks()
    seen = []

    def keep(small, holes):
        seen.append((small, holes))
        return HALF_GREY.fill(small, holes)

    filled = all_methods.at(replace(HALF_GREY, fill=keep), 64)(photos, mask)
    assert torch.equal(filled[~mask.expand_as(filled)], photos[~mask.expand_as(filled)])
    assert filled[..., 17:47, 17:47].eq(0.25).all()
    small, holes = seen[0]
    assert torch.equal(holes, masks.centre(1, 32).expand(3, -1, -1, -1))
    assert torch.allclose(small.mean((2, 3)), photos.mean((2, 3)), atol=0.01)
    assert all_methods.at(HALF_GREY, 32) is HALF_GREY


def test_convolutions_fill_other_sizes_and_scattered_pixels_as_they_are(sets):
    network = UNet(ConvSettings(size=32, width=2))
    fill = all_methods.at(Loaded(None, 32, None, (network,)), 64)
    photos, mask = sets["random_pixels"].photos01(), sets["random_pixels"].masks()
    with torch.no_grad():
        filled, expected = fill(photos, mask), network.eval()(photos, mask, None).clamp(0, 1)
    assert torch.equal(filled, torch.where(mask, expected, photos))


def test_what_is_measured_is_what_evaluate_measures(sets):
    found = {"mean_colour": [None], "telea": [None]}
    per_image, costs, failed = all_methods.measure(found, sets)
    assert failed == []
    assert costs.to_dict("records") == [
        {"arm": name, "seed": 0, "weights": 0, "kimg": 0.0, "training_seconds": 0.0, "trained_on": "",
         "trained_size": 0, "trained_holes": ""} for name in found
    ]  # fmt: skip
    assert len(per_image) == 2 * (3 + 36 + 3 + 3)
    for (arm, kind), rows in per_image.groupby(["arm", "mask"]):
        scores = evaluate(classical.FILLS[arm], sets[kind], networks=())
        assert list(rows["psnr_hole"]) == list(scores.per_image["psnr_hole"])
        assert set(rows["test_set"]) == {sets[kind].hash}
        assert rows["seconds_per_photo"].gt(0).all()


def test_a_method_that_gives_up_on_some_holes_is_named_and_the_others_are_measured(sets, monkeypatch):
    def gives_up(photos, mask):
        if mask.float().mean() > 0.6:
            raise BadInput("lr: the search diverged")
        return torch.where(mask, 0.5, photos)

    monkeypatch.setitem(METHODS, "telea", replace(METHODS["telea"], make=lambda path, device: Loaded(gives_up)))
    per_image, costs, failed = all_methods.measure({"telea": [None], "mean_colour": [None]}, sets)
    assert failed == ["Telea, seed 0, 80 % of the pixels: lr: the search diverged"]
    there = set(per_image.groupby(["arm", "mask"]).groups)
    assert there == {(arm, kind) for arm in ("telea", "mean_colour") for kind in MASKS} - {("telea", "random_pixels")}
    assert list(costs["arm"]) == ["telea", "mean_colour"]


def test_training_counts_the_network_that_a_training_began_with():
    run = Run("partial_conv_losses", "arm=full,seed=0-8dbe2a")
    start = next((ROOT / "results/partial_conv_start/runs").glob("arm=partial,seed=0-*"))
    files = [(read_json(folder / "params.json"), read_json(folder / "metrics.json")) for folder in (run.folder, start)]
    cost = all_methods.training(run)
    assert cost["kimg"] == files[0][0]["kimg"] + files[1][0]["kimg"] > 6
    assert cost["training_seconds"] == files[0][1]["training_seconds"] + files[1][1]["training_seconds"]
    assert (cost["trained_on"], cost["trained_size"], cost["trained_holes"]) == ("demo", 32, "irregular")
    given = {"kimg": 1, "dataset": "demo", "size": 64, "train_masks": "nvidia"}
    other = types.SimpleNamespace(parameters=given, metrics={"training_seconds": 2.0})
    assert all_methods.training(other)["trained_holes"] == "irregular"  # whoever drew them


def test_networks_are_of_one_data_set_and_a_method_without_one_is_missing(monkeypatch):
    class Trained:
        def __init__(self, dataset, seed):
            self.parameters = {"dataset": dataset, "seed": seed}

    there = {"medfe_cae": [Trained(d, s) for s in range(3) for d in ("celeba", "demo")],
             "latent_search": [Trained("celeba", s) for s in range(3)]}  # fmt: skip
    monkeypatch.setattr(all_methods, "trained", lambda name, preset: there.get(name, []))
    found, missing = all_methods.networks("night", "demo", 2)
    chosen = {name: [tuple(run.parameters.values()) for run in runs if run] for name, runs in found.items()}
    assert chosen == {"latent_search": [("celeba", 0), ("celeba", 1)], "medfe_cae": [("demo", 0), ("demo", 1)]} | {
        name: [] for name, one in METHODS.items() if not one.study
    }
    assert set(missing) | set(found) == set(METHODS)
    assert not set(missing) & set(found)


def test_ranks_are_those_of_a_plain_loop():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [{"mask": "half", "arm": arm, "seed": seed, "picture": picture, "psnr_hole": level + rng.normal()}
         for arm, level in (("best", 30), ("second", 20.0), ("other", 20.2))
         for seed in (0, 1) for picture in range(8)]
    )  # fmt: skip
    found = all_methods.ranks(frame, n=500).set_index("arm")
    draws = np.random.default_rng(0).integers(8, size=(500, 8))
    of = {arm: some.groupby("picture")["psnr_hole"].mean().to_numpy() for arm, some in frame.groupby("arm")}
    wins = np.mean([of["second"][draw].mean() > of["other"][draw].mean() for draw in draws])
    assert 0 < wins < 1
    assert found.loc["best", ["rank", "low", "high", "first"]].tolist() == [1, 1, 1, 1]
    assert {found.loc[arm, "rank"] for arm in ("second", "other")} == {2, 3}
    assert found.loc["second", ["low", "high"]].tolist() == [2, 3]
    lower = all_methods.ranks(frame[frame["arm"] != "best"], higher=False, n=500).set_index("arm")
    assert lower.loc["second", "first"] == pytest.approx(1 - wins)


def test_the_front_is_what_nothing_beats():
    cost, quality = [1, 2, 2, 3, 4, 4], [5, 7, 6, 7, 9, 9]
    assert all_methods.front(cost, quality).tolist() == [True, True, False, False, True, True]
    some = np.random.default_rng(0).random((2, 40))
    plain = [not any((c <= x and q >= y) and (c < x or q > y) for c, q in some.T) for x, y in some.T]
    assert all_methods.front(*some).tolist() == plain


def test_the_table_marks_holes_that_were_not_learned_and_those_that_cannot_be_filled():
    costs = pd.DataFrame({"arm": ["context_encoder", "partial_conv", "latent_search"],
                          "trained_holes": ["centre", "irregular", ""]})  # fmt: skip
    there = [("context_encoder", "centre"), ("partial_conv", "centre"), ("partial_conv", "irregular"),
             ("latent_search", "half")]  # fmt: skip
    rows = [{"arm": a, "mask": m, "metric": "psnr_hole", "value": 20.0, "ci_low": 19.0, "ci_high": 21.0}
            for a, m in there]  # fmt: skip
    table = all_methods.by_mask(pd.DataFrame(rows), "psnr_hole", costs)
    assert table.loc["Context Encoder, joint"].tolist() == ["20.00 [19.00, 21.00]", "—", "—", "—"]
    assert table.loc["partial convolutions"].tolist() == ["20.00 [19.00, 21.00] †", "20.00 [19.00, 21.00]", "—", "—"]
    assert table.loc["latent search, blended", MASKS["half"]] == "20.00 [19.00, 21.00]"


def test_each_preset_measures_its_own_networks_and_needs_their_studies():
    plan = sweep.load("all_methods")
    for name in plan.presets:
        of = "kept" if name in ("quick", "night") else name
        assert {item.parameters["trained_preset"] for item in sweep.plan(plan, name)} == {of}
    assert set(plan.needs) == {one.study for one in METHODS.values() if one.study}
    for one in METHODS.values():
        if one.study:
            known = set(sweep.plan(one.study, "quick")[0].parameters)
            assert set(one.run) <= known


KEPT = sorted((ROOT / "results" / "networks").glob("*.json"))


def test_networks_of_the_repository_are_small():
    sizes = [path.with_suffix(".pt").stat().st_size for path in KEPT]
    assert KEPT
    assert max(sizes) < 10e6
    assert sum(sizes) < 25e6


@pytest.mark.parametrize("card", KEPT, ids=lambda path: path.stem)
def test_a_kept_network_scores_on_the_demo_photos_what_its_card_says(card, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", ROOT / "results")
    said, found = read_json(card)["demo"], all_methods.demo_scores(card.stem)
    numbers = ("psnr_hole", "ssim_hole", "l1_hole")
    assert [found[name] for name in numbers] == pytest.approx([said[name] for name in numbers], rel=0.01)
    assert found["test_set"] == said["test_set"]


def test_a_kept_gan_is_searched_in_fp32_also_where_16_bits_are_native(monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", ROOT / "results")
    monkeypatch.setattr(training, "native_bf16", lambda: True)
    searches = [METHODS[name].load(device="cpu").fill.__self__ for name in ("latent_search", "latent_search_unblended")]
    assert [search.bf16 for search in searches] == [False, False]
    assert searches[0].gan.bf16  # the patch is seen


def test_kept_networks_are_measured_like_those_of_runs(sets, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", ROOT / "results")
    found, missing = all_methods.networks("kept", "demo", 3)
    assert {name for name in found if METHODS[name].study} == {path.stem for path in KEPT} | {"latent_search_unblended"}
    assert not set(missing) & set(found)
    some = {name: found[name] for name in ("context_encoder", "partial_conv", "telea")}
    per_image, costs, failed = all_methods.measure(some, {"centre": sets["centre"]})
    assert not failed
    assert set(per_image["arm"]) == set(some)
    card = read_json(KEPT[0])
    assert costs.set_index("arm").loc[KEPT[0].stem, "training_seconds"] == card["cost"]["training_seconds"] > 0
    assert all(set(read_json(path)["cost"]) == set(all_methods.training(None)) for path in KEPT)


def test_only_finished_runs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    with pytest.raises(BadInput, match="is not a finished run, so its network is not kept"):
        all_methods.keep("partial_conv", Run("partial_conv_losses", "none"))


def test_keeping_either_search_keeps_the_one_gan_of_both(tmp_path, gan, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    monkeypatch.setattr(Run, "done", True)
    told = {"preset": "", "arm": "", "dataset": "", "size": 16, "kimg": 1.0, "seed": 0}
    write_json((run := Run("dcgan", "one")).folder / "params.json", told)
    write_json(run.folder / "metrics.json", {"kid": 1.0})
    gan.save(run.folder / "weights.pt")
    monkeypatch.setattr(all_methods, "training", lambda run: {})
    monkeypatch.setattr(all_methods, "demo_scores", lambda name: {"of": name})
    assert all_methods.keep("latent_search_unblended", run) == tmp_path / "networks" / "latent_search.pt"
    card = read_json(tmp_path / "networks" / "latent_search.json")
    assert (card["method"], card["demo"]) == ("latent_search", {"of": "latent_search"})
    assert METHODS["latent_search"].load(device="cpu").side == 16
