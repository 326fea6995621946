"""What notebooks 30 to 32 measure: GANs found by their runs, parts of runs, what a search says of itself."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from inpaintlib import BadInput, metrics
from inpaintlib.data import masks
from inpaintlib.data.photos import Photos
from inpaintlib.files import write_json
from inpaintlib.harness import claims, figures, sweep
from inpaintlib.harness.runs import Run
from inpaintlib.harness.tables import Results
from inpaintlib.methods import classical, dcgan, latent_search, poisson
from inpaintlib.methods.context_encoder import ContextEncoder
from inpaintlib.methods.context_encoder import Settings as ContextSettings
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.latent_search import LatentSearch, Settings
from inpaintlib.studies import dcgan as sampling
from inpaintlib.studies import latent_search as searching

SIZE, LATENT, N = 16, 8, 5


@pytest.fixture(scope="module")
def test_set():
    photos = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return searching.masked_sets("centre+half", "noise", photos, [f"photo {i}" for i in range(N)])["centre"]


@pytest.fixture(scope="module")
def searched(gan, test_set):
    method = LatentSearch(gan, Settings(iterations=6, lr=0.05, restarts=4, lambda_prior=2.0))
    return method, searching.search(method, test_set, records=3)[0]


# Runs that build on runs


def finished_run(folder, study="dcgan", run_id="seed=0", done=True, metrics=None, rows=None, **parameters):
    run = Run(study, run_id)
    run.folder.mkdir(parents=True)
    parameters = {"preset": "quick", "arm": "paper", "dataset": "demo", "seed": 0} | parameters
    write_json(run.folder / "params.json", parameters)
    if done:
        (run.folder / "weights.pt").touch()
        run.finish(metrics or {"psnr": 1.0}, pd.DataFrame(rows or [{"id": "a"}]))
    return run.folder


def test_a_run_that_is_missing_names_the_command_that_makes_it(results):
    finished_run(results, seed=1)
    finished_run(results, run_id="unfinished", done=False)
    with pytest.raises(
        BadInput, match=r"seed = 0 is done; make it with python -m inpaintlib sweep dcgan --preset quick"
    ):
        sweep.finished("dcgan", "quick", seed=0)
    assert sweep.finished("dcgan", "quick", seed=1).id == "seed=0"


def test_several_runs_are_not_one(results):
    finished_run(results, arm="paper")
    finished_run(results, run_id="other", arm="turns")
    with pytest.raises(BadInput, match="2 runs of the preset 'quick' have seed = 0"):
        sweep.finished("dcgan", "quick", seed=0)
    assert sweep.finished("dcgan", "quick", seed=0, arm="turns").id == "other"


def test_the_gan_of_a_run_at_a_length(results, gan):
    networks = finished_run(results) / "networks"
    networks.mkdir()
    gan.save(networks.parent / "weights.pt")
    gan.save(networks / "000016.000.pt")
    DCGAN(dcgan.Settings(size=SIZE, width=2, latent=LATENT), device="cpu").save(networks / "000003.264.pt")
    widths = [searching.trained_gan("dcgan", "quick", kimg, "cpu", seed=0).settings.width for kimg in (0.0, 16.0, 3.2)]
    assert widths == [4, 4, 2]  # a whole step may end a little after what was asked for
    with pytest.raises(BadInput, match=r"kept no network after 5 kimg; it has 3\.264, 16"):
        searching.trained_gan("dcgan", "quick", 5.0, seed=0)


def test_baselines_are_the_context_encoders_of_their_regions(results):
    assert searching.baselines("none", "context_encoder_faces", "quick") == {}
    with pytest.raises(BadInput, match="there is no Context Encoder of 'magic'; choose none, or from centre, random"):
        searching.baselines("centre+magic", "context_encoder_faces", "quick", seed=0)
    with pytest.raises(BadInput, match=r"arm = ratio, ratio = 1000, seed = 0 is done; .* sweep context_encoder_faces"):
        searching.baselines("centre", "context_encoder_faces", "quick", seed=0)
    folder = finished_run(results, "context_encoder_faces", "centre", arm="ratio", ratio=1000.0)
    network = ContextEncoder(ContextSettings(size=64, overlap=4, width=2, bottleneck=4), seed=5, device="cpu")
    network.save(folder / "weights.pt")
    fill = searching.baselines("centre", "context_encoder_faces", "quick", "cpu", seed=0)["centre"]
    photos, mask = torch.rand(1, 3, 64, 64), masks.centre(1, 64)
    assert torch.equal(fill(photos, mask), network.inpaint(photos, mask))


def test_each_mask_has_the_context_encoder_that_was_trained_on_it():
    networks = {"centre": "a", "random_region": "b", "random_pixels": "c"}
    fitting = [searching.fitting(networks, mask) for mask in ("centre", "half", "random_pixels", "strokes")]
    assert fitting == ["a", "b", "c", "b"]
    assert searching.fitting({"centre": "a"}, "half") is None


# What a search says of itself


def test_a_search_that_was_stopped_goes_on_with_the_kinds_that_are_missing(gan, test_set, tmp_path, monkeypatch):
    method = LatentSearch(gan, Settings(iterations=3, lr=0.05))
    sets = {"centre": test_set, "again": test_set, "last": test_set}
    searches, search = [], searching.search

    def stopped(*given):
        searches.append(given)
        if len(searches) == 2:
            raise KeyboardInterrupt
        return search(*given)

    monkeypatch.setattr(searching, "search", stopped)
    with pytest.raises(KeyboardInterrupt):
        searching.search_all(method, sets, tmp_path)
    found, seconds = searching.search_all(method, sets, tmp_path)
    assert len(searches) == 4
    assert list(found) == list(seconds) == list(sets)
    assert all(value > 0 for value in seconds.values())
    for name, value in found["centre"]._asdict().items():  # read again from the file
        other = getattr(found["last"], name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_fills_are_pasted_and_blended(searched, test_set):
    _, found = searched
    fills = searching.fills(found, test_set)
    photos, mask = test_set.photos01(), test_set.masks()
    assert torch.equal(fills[False], torch.where(mask, found.generated, photos))
    assert torch.equal(fills[True], poisson.blend(photos, found.generated, mask))
    assert list(searching.fills(found, test_set, blend=False)) == [False]


def test_measured_fills_are_the_fills_in_order(searched, test_set):
    _, found = searched
    fill = searching.fills(found, test_set, blend=False)[False]
    rows = searching.measure(fill, test_set, batch=2)
    direct = metrics.psnr(metrics.quantise(fill), test_set.photos01(), test_set.masks())
    assert rows["psnr_hole"].to_numpy() == pytest.approx(direct.numpy())
    assert list(rows["id"]) == [f"photo {i}" for i in range(N)]
    assert set(rows["test_set"]) == {test_set.hash}


def test_columns_of_a_search(searched, test_set, gan):
    method, found = searched
    rows = searching.search_columns(method, found, test_set, seconds=10.0)
    psnrs, photos, mask = searching.restart_psnrs(method, found, test_set), test_set.photos01(), test_set.masks()
    best = found.restart_losses.argmin(1)
    assert torch.equal(found.restart_latents[torch.arange(N), best], found.latents)
    direct = metrics.psnr(metrics.quantise(found.generated), photos, mask)
    assert psnrs[torch.arange(N), best].numpy() == pytest.approx(direct.numpy(), rel=1e-3)
    assert rows["restart_best"].to_numpy() == pytest.approx(psnrs.amax(1).numpy())
    assert rows["restart_mean"].to_numpy() == pytest.approx(psnrs.mean(1).numpy())
    assert rows["hole_l1"].to_numpy() == pytest.approx(metrics.l1(found.generated, photos, mask).numpy(), rel=1e-5)
    ring = latent_search.context_weights(mask)
    by_hand = [float((ring[b] * (found.generated - photos)[b].abs()).sum() / 3 / ring[b].sum()) for b in range(N)]
    assert rows["ring_l1"].to_numpy() == pytest.approx(by_hand, rel=1e-5)
    assert rows["restart_spread"].to_numpy() == pytest.approx(psnrs.std(1).numpy())
    gan.discriminator.eval()
    logits = gan.discriminator(found.generated * 2 - 1).detach()
    gan.discriminator.train()
    assert rows["realism"].to_numpy() == pytest.approx(logits.numpy(), abs=1e-3)
    prior = 2.0 * latent_search.prior_loss(logits).numpy()
    assert rows["context_loss"].to_numpy() + prior == pytest.approx(rows["loss"].to_numpy(), rel=1e-4)
    assert set(rows["seconds_per_photo"]) == {2.0}


@pytest.mark.parametrize(("sign", "rho"), [(-1, 1.0), (1, -1.0)])
def test_restart_agreement_is_one_where_the_loss_picks_the_best_fill(searched, test_set, sign, rho):
    method, found = searched
    psnrs = searching.restart_psnrs(method, found, test_set)
    rows = searching.search_columns(method, found._replace(restart_losses=sign * psnrs), test_set, 1.0)
    assert rows["restart_agreement"].to_numpy() == pytest.approx(rho)


def test_one_restart_has_neither_spread_nor_agreement(gan, test_set):
    method = LatentSearch(gan, Settings(iterations=1))
    rows = searching.search_columns(method, searching.search(method, test_set)[0], test_set, 1.0)
    assert rows[["restart_spread", "restart_agreement"]].isna().all(axis=None)


def test_fewer_restarts_are_those_of_a_shorter_search(gan, test_set, searched):
    """Of four restarts the first is what a search with one finds; the rows of all four are the search itself."""
    method, found = searched
    fewer = searching.fewer_restarts(method, found)
    alone = searching.search(LatentSearch(gan, replace(method.settings, restarts=1)), test_set)[0]
    assert list(fewer) == [1, 4]
    torch.testing.assert_close(fewer[1].generated, alone.generated, atol=1e-5, rtol=0)
    torch.testing.assert_close(fewer[1].loss, alone.loss, rtol=1e-5, atol=0)
    assert fewer[4] is found
    rows = searching.measure_search(method, found, test_set, seconds=10.0)
    assert rows.groupby(["restarts", "blend"]).size().to_dict() == {
        (k, blend): N for k in (1, 4) for blend in (False, True)
    }
    assert rows.groupby("restarts")["seconds_per_photo"].first().to_dict() == {1: 0.5, 4: 2.0}
    coarse = LatentSearch(gan, replace(method.settings, iterations=1, coarse_restarts=6, coarse_iterations=1))
    assert list(searching.fewer_restarts(coarse, searching.search(coarse, test_set)[0])) == [4]


def test_the_history_is_that_of_the_best_restarts(searched):
    _, found = searched
    history = searching.history(found, "centre")
    assert list(history["iteration"]) == found.iterations == [0, 3, 6]
    best = found.restart_losses.argmin(1)
    by_hand = [float(sum(row[b, best[b]] for b in range(N)) / N) for row in found.total]
    assert history["total"].to_numpy() == pytest.approx(by_hand)
    assert (history["context"] + history["prior"]).to_numpy() == pytest.approx(history["total"].to_numpy(), rel=1e-5)


def test_pictures_come_back_in_order(searched, test_set, tmp_path):
    _, found = searched
    folder = searching.keep_pictures(found, test_set, tmp_path / "centre", classical.grey)
    rows = searching.pictures(folder)
    fills = ["mean colour", "Telea", "Context Encoder"]
    assert list(rows) == ["input", "G(z)", "pasted", "blended", *fills, "ground truth"]
    assert np.array_equal(rows["ground truth"], test_set.photos.permute(0, 2, 3, 1))
    hole = test_set.masks([2])[0, 0].numpy()
    assert np.array_equal(rows["pasted"][2][hole], rows["G(z)"][2][hole])
    assert (rows["input"][2][hole] == 128).all()
    twice = searching.side_by_side({"a": folder, "b": folder})
    assert [len(row) for row in twice.values()] == [2 * N] * len(rows)


def test_the_film_ends_in_what_was_found(searched, test_set, tmp_path):
    method, found = searched
    folders = searching.film(method, found, test_set, tmp_path)
    last = figures.split_strip(figures.frames(folders["G(z)"])[-1])
    wanted = figures.arrays(method.generate(found.path[-1]))
    assert [path.stem for path in figures.frames(folders["pasted"])] == ["000000", "000003", "000006"]
    assert np.array_equal(last, wanted)


# Parts of runs


@pytest.fixture
def divided(results):
    """Two runs whose per_image.csv holds two masks and two fills."""
    for seed in range(2):
        base = {"pixels": 300, "hole_ratio": 0.25, "mse": 0.01, "laplacian": 1.0, "laplacian_truth": 2.0}
        rows = [base | {"arm": arm, "mask": mask, "blend": blend, "restarts": 1, "psnr_hole": level + seed + photo,
                        "mse_hole": 10.0 ** -(photo + 1), "sharpness": photo, "test_set": mask, "picture": str(photo)}
                for arm, mask, blend, level in (("paper", "centre", False, 10), ("paper", "centre", True, 12),
                                                ("paper", "half", False, 5), ("telea", "centre", False, 20))
                for photo in range(3)]  # fmt: skip
        finished_run(results, "latent_search", f"seed={seed}", seed=seed, blend=True, restarts=1, rows=rows,
                     metrics={"psnr_hole": 99.0, "test_set": "all", "n_photos": 12})  # fmt: skip
    return Results("latent_search", "quick", searching.PARTS)


def test_each_part_of_a_run_has_a_row(divided):
    table = divided.runs
    assert len(table) == 8
    row = table[(table["arm"] == "paper") & (table["mask"] == "half") & (table["seed"] == 1)].iloc[0]
    assert (row["psnr_hole"], row["test_set"], row["n_photos"], row["restarts"]) == (5 + 1 + 1, "half", 3, 1)
    assert row["sharpness"] == 0.5  # of sums, not the mean of ratios
    assert row["psnr_hole_pooled"] == pytest.approx(-10 * math.log10((0.1 + 0.01 + 0.001) / 3))


def test_parts_are_paired_by_seed_and_photo(divided):
    base = {"arm": "paper", "mask": "centre", "blend": False}
    assert [divided.photos(row)["psnr_hole"].tolist() for _, row in divided.where(**base).iterrows()] == [
        [10, 11, 12],
        [11, 12, 13],
    ]
    blended = divided.difference("psnr_hole", base | {"blend": True}, base)
    assert (blended.mean, blended.n) == (2, 2)
    assert divided.difference("psnr_hole", base | {"arm": "telea"}, base).mean == 10
    assert divided.difference("psnr_hole", base | {"mask": "half"}, base) is None  # another test set
    tidy = divided.tidy(["arm", "mask", "blend"]).set_index(["arm", "mask", "blend", "metric"])["value"]
    assert tidy["paper", "centre", True, "psnr_hole"] == 13.5


def test_a_run_s_own_metrics_do_not_leak_into_its_parts(divided):
    assert 99.0 not in set(divided.runs["psnr_hole"])


def test_overall_metrics_of_one_mask_and_of_several(searched, test_set):
    rows = searching.measure(test_set.photos01(), test_set).assign(loss=3.0)
    one = searching.overall(rows, seconds=2.0)
    assert (one["test_set"], one["n_photos"], one["images_per_second"], one["loss"]) == (test_set.hash, N, N / 2, 3.0)
    two = searching.overall(pd.concat([rows, rows.assign(test_set="other")]), seconds=2.0)
    assert two["test_set"] not in (test_set.hash, "other")
    assert two["n_photos"] == 2 * N


# GANs


def test_diversity_is_the_rms_difference_of_two_photos():
    photos = torch.rand(6, 3, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    pairs = [(photos[i] - photos[j]).square().mean() for i in range(6) for j in range(6) if i != j]
    assert sampling.diversity(photos) == pytest.approx(math.sqrt(sum(pairs) / len(pairs)))
    assert sampling.diversity(photos[:1].expand(4, -1, -1, -1)) == pytest.approx(0, abs=1e-12)


def test_measuring_a_gan_leaves_it_in_training_and_unchanged(gan, test_set):
    before = {key: value.clone() for key, value in gan.discriminator.state_dict().items()}
    found = sampling.measuring(gan, test_set.photos, 6)()
    assert gan.discriminator.training
    assert all(torch.equal(before[key], value) for key, value in gan.discriminator.state_dict().items())
    fakes = sampling.logits(gan, test_set.photos, 6).query("kind == 'fake'")["logit"]
    assert (len(fakes), found["logit_fake"]) == (6, pytest.approx(fakes.mean()))
    assert found["diversity"] > 0


def test_kid_of_photos_with_themselves_is_that_of_the_features(test_set, gan):
    flat = torch.nn.Flatten()
    real = test_set.photos01()
    found = sampling.measuring(gan, test_set.photos, 6, flat)()
    assert found["kid"] == pytest.approx(metrics.kid(gan.samples(6).flatten(1), real.flatten(1)))


def test_the_course_of_a_training():
    """Eight looks at a loss that falls by steps and rises at the end."""
    history = pd.DataFrame({"kimg": range(9), "g": [None, 4, 4, 2, 2, 1, 3, 1, 3], "g_first": [None] + [5.0] * 8,
                            "test_kid": [0.9, None, 0.5, None, None, None, 0.2, None, 0.1]})  # fmt: skip
    found = sampling.over_training(history)
    assert (found["g_early"], found["g_late"], found["g_last"], found["g_first"]) == (3, 2, 2, 5)
    assert found["g_late_deviation"] == pytest.approx(math.sqrt(4 / 3))
    assert found["kid_first"] == 0.5  # at 2 kimg; before training there is nothing to compare


def test_the_nearest_training_photo(test_set):
    train = Photos(test_set.photos.numpy(), list(test_set.ids), "noise")
    assert sampling.nearest(test_set.photos01(), train) == pytest.approx(0, abs=1e-3)
    assert sampling.nearest(test_set.photos01() + 0.01, train) == pytest.approx(0.01, rel=1e-2)


def test_a_walk_goes_straight_from_latent_to_latent(gan):
    walk = sampling.walk(gan, steps=3, rows=2)
    first, last = (gan.latents(2, sampling.generator(0, -2 - end)) for end in range(2))
    torch.testing.assert_close(walk[:, 0], gan.generate(first))
    torch.testing.assert_close(walk[:, 1], gan.generate((first + last) / 2))
    torch.testing.assert_close(walk[:, 2], gan.generate(last))


# Worked examples and the survey of the ports


def test_worked_weights_count_the_holes_in_the_window():
    table = searching.weights_by_hand(side=9, hole=3, window=3)
    assert table.iloc[2].tolist() == ["0", "0", "1", "2", "3", "2", "1", "0", "0"]
    assert table.iloc[3].tolist() == ["0", "0", "2", "", "", "", "2", "0", "0"]


def test_a_blended_step_becomes_a_ramp_and_keeps_its_step():
    """Known ends 0 and 1, a source that jumps by 1/2: the level is shared out evenly, the jump stays."""
    table = searching.blended_row([0, 0, 0, 0, 0, 1], [0.5, 0.5, 0.5, 1, 1, 1])
    assert table["blended x"].diff().iloc[1:].to_numpy() == pytest.approx([0.1, 0.1, 0.6, 0.1, 0.1])
    assert table["blended x"].iloc[[0, -1]].tolist() == [0, 1]


def test_lambda_converts_to_the_same_minimum(gan, test_set):
    """Total losses under converted settings are proportional, so every z keeps its rank."""
    y, mask, z = test_set.photos01([0]), test_set.masks([0]), torch.rand(5, LATENT)
    for context in ("l1", "l2"):
        port = Settings(context=context, lambda_prior=0.3)
        losses = []
        for reduction, signed in (("sum", True), ("mean", True), ("sum", False), ("mean", False)):
            target = replace(port, reduction=reduction, signed=signed)
            target = replace(target, lambda_prior=searching.convert_lambda(port, target, SIZE))
            w = latent_search.pixel_weights(mask, target)
            losses.append(LatentSearch(gan, target).objective(z, y, w)["total"])
        for loss in losses[1:]:
            ratio = loss / losses[0]
            torch.testing.assert_close(ratio, ratio[:1].expand(5), rtol=1e-4, atol=0)


def test_lambda_table():
    table = searching.lambda_table(64).set_index("port")
    assert len(table) == len(searching.PORTS)
    assert table.loc["Yeh 2017", "mean"] == pytest.approx(0.003 / 12288)
    assert table.loc["IFT6266 blog, λ 1e-5", "sum [0,1]"] == pytest.approx(1e-5 * 12288)
    assert table.loc["IFT6266 blog, λ 1e-5", "sum"] == pytest.approx(1e-5 * 12288 * 4)
    assert table.loc["catalinlup", "sum"] == pytest.approx(0.003 * 12288 * 2)
    for name, port in searching.PORTS.items():
        own = port.reduction + ("" if port.signed else " [0,1]")
        assert table.loc[name, own] == table.loc[name, "lambda"] == port.lambda_prior
    with pytest.raises(BadInput, match=r"^context: "):
        searching.convert_lambda(searching.YEH, searching.IFT6266)


@pytest.mark.parametrize("preset", ["quick", "night", "full", "exact"])
def test_a_table_has_a_name_for_each_way_to_search_and_for_each_set_of_photos(preset):
    ways = {claims.but_seed(item): item.parameters for item in sweep.plan("latent_search", preset)}
    named = [searching.configuration(SimpleNamespace(**parameters)) for parameters in ways.values()]
    assert len(set(named)) == len(named)
    telea = {searching.configuration(SimpleNamespace(arm="Telea", n_photos=n)) for n in (128, 512)}
    assert telea == {"Telea, 128 photos", "Telea, 512 photos"}


@pytest.mark.parametrize("preset", sorted(sweep.load("latent_search").presets))
def test_every_search_has_its_gan_and_its_context_encoders_planned(preset):
    planned = [item.parameters for item in sweep.plan("latent_search", preset)]
    given = planned[0]["gan_preset"]
    gans, others = ([p.parameters for p in sweep.plan(study, given)] for study in ("dcgan", "context_encoder_faces"))
    length = {(p["arm"], p["dataset"], p["seed"]): p["kimg"] for p in gans}
    trained = {(p["arm"], p["dataset"], p["seed"]) for p in others if p["ratio"] == 1000}
    for p in planned:
        alike = p["dataset"], p["seed"]
        assert p["gan_kimg"] <= length[p["gan_arm"], *alike]
        regions = p["baselines"].split("+") if p["baselines"] != "none" else []
        assert {(searching.CONTEXT_ENCODERS[region], *alike) for region in regions} <= trained
