"""What notebooks 30 to 32 measure: GANs found by their runs, parts of runs, what a search says of itself."""

import math
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

import inpaintlib
from inpaintlib import ROOT, BadInput, metrics
from inpaintlib.data import masks
from inpaintlib.files import write_json
from inpaintlib.harness import figures, runs, sweep, tables
from inpaintlib.harness.tables import Results
from inpaintlib.methods import dcgan, latent_search, poisson
from inpaintlib.methods.dcgan import DCGAN
from inpaintlib.methods.latent_search import LatentSearch, Settings
from inpaintlib.studies import dcgan as sampling
from inpaintlib.studies import latent_search as searching

SIZE, LATENT, N = 16, 8, 5


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gan():
    """A DCGAN of 16 px whose photos vary with z."""
    gan = DCGAN(dcgan.Settings(size=SIZE, width=4, latent=LATENT), seed=1, device="cpu")
    with torch.no_grad():
        for network in (gan.generator, gan.discriminator):
            for p in network.parameters():
                if p.ndim == 4:
                    p.mul_(8)
        gan.discriminator(gan.generator(torch.rand(64, LATENT) * 2 - 1))
    return gan


@pytest.fixture(scope="module")
def test_set():
    photos = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return searching.test_sets("centre+half", "noise", photos, [f"photo {i}" for i in range(N)])["centre"]


@pytest.fixture(scope="module")
def searched(gan, test_set):
    method = LatentSearch(gan, Settings(iterations=6, lr=0.05, starts=4, lambda_prior=2.0))
    return method, searching.search(method, test_set, records=3)[0]


# Runs that build on runs


def finished_run(folder, study="dcgan", run_id="seed=0", done=True, **parameters):
    run = folder / study / "runs" / run_id
    run.mkdir(parents=True)
    write_json(run / "params.json", {"preset": "quick", "arm": "paper", "dataset": "demo", "seed": 0} | parameters)
    if done:
        write_json(run / "metrics.json", {"status": "done"})
    return run


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


def test_reports_take_the_largest_preset_that_has_a_finished_run(results):
    assert sweep.reported("dcgan") == "smoke"  # whose absence the report then names
    finished_run(results, run_id="a", preset="quick")
    finished_run(results, run_id="b", preset="laptop", done=False)
    assert [sweep.reported("dcgan"), sweep.reported("dcgan", "smoke")] == ["quick", "smoke"]
    finished_run(results, run_id="c", preset="laptop")
    assert sweep.reported("dcgan", "auto") == "laptop"


def test_the_gan_of_a_run_at_a_length(results, gan):
    networks = finished_run(results) / "networks"
    with pytest.raises(BadInput, match="its networks are gone"):
        searching.trained_gan("dcgan", "quick", seed=0)
    networks.mkdir()
    gan.save(networks / "000016.000.pt")
    DCGAN(dcgan.Settings(size=SIZE, width=2, latent=LATENT), device="cpu").save(networks / "000003.200.pt")
    widths = [searching.trained_gan("dcgan", "quick", kimg, "cpu", seed=0).settings.width for kimg in (0.0, 16.0, 3.2)]
    assert widths == [4, 4, 2]
    with pytest.raises(BadInput, match=r"kept no network after 5 kimg; it has 3\.2, 16"):
        searching.trained_gan("dcgan", "quick", 5.0, seed=0)


def test_rivals(results):
    assert searching.rivals("none", "quick", 0) == {}
    assert list(searching.rivals("telea+membrane", "quick", 0)) == ["telea", "membrane"]
    with pytest.raises(BadInput, match="there is no fill 'magic'; choose from context_encoder, telea"):
        searching.rivals("telea+magic", "quick", 0)
    with pytest.raises(BadInput, match=r"context_encoder_ratios: no run .* sweep context_encoder_ratios"):
        searching.rivals("context_encoder", "quick", 0)


def test_a_membrane_carries_a_linear_photo_through_the_hole():
    """Harmonic functions are their own membrane: a ramp is one."""
    ramp = torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(searching.membrane(ramp, masks.centre(1, SIZE)), ramp, atol=1e-6, rtol=0)


# What a search says of itself


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
    psnrs = searching.start_psnrs(method, found, test_set)
    best = found.start_losses.argmin(1)
    assert torch.equal(found.start_latents[torch.arange(N), best], found.latents)
    direct = metrics.psnr(found.generated, test_set.photos01(), test_set.masks())
    assert psnrs[torch.arange(N), best].numpy() == pytest.approx(direct.numpy(), rel=1e-4)
    assert rows["start_spread"].to_numpy() == pytest.approx(psnrs.std(1).numpy())
    gan.discriminator.eval()
    logits = gan.discriminator(found.generated * 2 - 1).detach()
    gan.discriminator.train()
    assert rows["realism"].to_numpy() == pytest.approx(logits.numpy(), abs=1e-3)
    prior = 2.0 * latent_search.prior_loss(logits).numpy()
    assert rows["context_loss"].to_numpy() + prior == pytest.approx(rows["loss"].to_numpy(), rel=1e-4)
    assert set(rows["seconds_per_photo"]) == {2.0}


@pytest.mark.parametrize(("sign", "rho"), [(-1, 1.0), (1, -1.0)])
def test_start_agreement_is_one_where_the_loss_picks_the_best_fill(searched, test_set, sign, rho):
    method, found = searched
    psnrs = searching.start_psnrs(method, found, test_set)
    rows = searching.search_columns(method, found._replace(start_losses=sign * psnrs), test_set, 1.0)
    assert rows["start_agreement"].to_numpy() == pytest.approx(rho)


def test_one_start_has_neither_spread_nor_agreement(gan, test_set):
    method = LatentSearch(gan, Settings(iterations=1))
    rows = searching.search_columns(method, searching.search(method, test_set)[0], test_set, 1.0)
    assert rows[["start_spread", "start_agreement"]].isna().all(axis=None)


def test_the_history_is_that_of_the_best_starts(searched):
    _, found = searched
    history = searching.history(found, "centre")
    assert list(history["iteration"]) == found.iterations == [0, 3, 6]
    best = found.start_losses.argmin(1)
    by_hand = [float(sum(row[b, best[b]] for b in range(N)) / N) for row in found.total]
    assert history["total"].to_numpy() == pytest.approx(by_hand)
    assert (history["context"] + history["prior"]).to_numpy() == pytest.approx(history["total"].to_numpy(), rel=1e-5)


def test_pictures_come_back_in_order(searched, test_set, tmp_path):
    _, found = searched
    fills = searching.fills(found, test_set)
    rows = searching.pictures(searching.keep_pictures(found, fills, test_set, [0, 2], tmp_path / "centre"))
    assert list(rows) == ["corrupted", "G(z)", "pasted", "blended", "truth"]
    assert np.array_equal(rows["truth"], test_set.photos[[0, 2]].permute(0, 2, 3, 1))
    hole = test_set.masks([2])[0, 0].numpy()
    assert np.array_equal(rows["pasted"][1][hole], rows["G(z)"][1][hole])
    assert (rows["corrupted"][1][hole] == 128).all()


def test_the_film_ends_in_what_was_found(searched, test_set, tmp_path):
    method, found = searched
    folders = searching.film(method, found, test_set, tmp_path, [1, 3])
    last = figures.split_strip(figures.frames(folders["G(z)"])[-1])
    wanted = figures.arrays(method.generate(found.path[-1, [1, 3]]))
    assert [path.stem for path in figures.frames(folders["pasted"])] == ["000000", "000003", "000006"]
    assert np.array_equal(last, wanted)


# Parts of runs


@pytest.fixture
def divided(results):
    """Two runs whose per_image.csv holds two masks and two fills."""
    for seed in range(2):
        run = finished_run(results, "latent_search", f"seed={seed}", seed=seed, blend=True, starts=1)
        write_json(run / "metrics.json", {"status": "done", "psnr_hole": 99.0, "test_set": "all", "n_photos": 12})
        base = {"pixels": 300, "hole_ratio": 0.25, "mse": 0.01, "laplacian": 1.0, "laplacian_truth": 2.0}
        rows = [base | {"arm": arm, "mask": mask, "blend": blend, "psnr_hole": level + seed + photo,
                        "mse_hole": 10.0 ** -(photo + 1), "sharpness": photo, "test_set": mask}
                for arm, mask, blend, level in (("paper", "centre", False, 10), ("paper", "centre", True, 12),
                                                ("paper", "half", False, 5), ("telea", "centre", False, 20))
                for photo in range(3)]  # fmt: skip
        pd.DataFrame(rows).to_csv(run / "per_image.csv", index=False)
    return Results("latent_search", "quick", searching.PARTS)


def test_each_part_of_a_run_has_a_row(divided):
    table = divided.runs
    assert len(table) == 8
    row = table[(table["arm"] == "paper") & (table["mask"] == "half") & (table["seed"] == 1)].iloc[0]
    assert (row["psnr_hole"], row["test_set"], row["n_photos"], row["starts"]) == (5 + 1 + 1, "half", 3, 1)
    assert row["sharpness"] == 0.5  # of sums, not the mean of ratios
    assert row["psnr_hole_pooled"] == pytest.approx(-10 * math.log10((0.1 + 0.01 + 0.001) / 3))


def test_parts_are_paired_by_seed_and_photo(divided):
    base = {"arm": "paper", "mask": "centre", "blend": False}
    assert divided.per_image("psnr_hole", **base).tolist() == [[10, 11, 12], [11, 12, 13]]
    blended = divided.difference("psnr_hole", base | {"blend": True}, base)
    assert (blended.difference, blended.n_seeds, blended.n_images) == (2, 2, 3)
    assert divided.difference("psnr_hole", base | {"arm": "telea"}, base).difference == 10
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
    assert set(one) - {"hole_ratio", "test_set", "n_photos"} <= set(tables.METRICS)


# GANs


def test_diversity_is_the_rms_difference_of_two_photos():
    photos = torch.rand(6, 3, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    pairs = [(photos[i] - photos[j]).square().mean() for i in range(6) for j in range(6) if i != j]
    assert sampling.diversity(photos) == pytest.approx(math.sqrt(sum(pairs) / len(pairs)))
    assert sampling.diversity(photos[:1].expand(4, -1, -1, -1)) == pytest.approx(0, abs=1e-12)


def test_measuring_a_gan_leaves_it_in_training_and_unchanged(gan, test_set):
    before = {key: value.clone() for key, value in gan.discriminator.state_dict().items()}
    found = sampling.measure(gan, test_set.photos, 6)
    assert gan.discriminator.training
    assert all(torch.equal(before[key], value) for key, value in gan.discriminator.state_dict().items())
    fakes = sampling.logits(gan, test_set.photos, 6).query("kind == 'fake'")["logit"]
    assert (len(fakes), found["logit_fake"]) == (6, pytest.approx(fakes.mean()))
    assert found["diversity"] > 0


def test_kid_of_photos_with_themselves_is_that_of_the_features(test_set, gan):
    flat = torch.nn.Flatten()
    real = test_set.photos01()
    found = sampling.measure(gan, test_set.photos, 6, flat)
    assert found["kid"] == pytest.approx(metrics.kid(gan.samples(6).flatten(1), real.flatten(1)))


def test_a_walk_goes_straight_from_latent_to_latent(gan):
    walk = sampling.walk(gan, steps=3, rows=2)
    first, last = (gan.latents(2, sampling.generator(0, -2 - end)) for end in range(2))
    torch.testing.assert_close(walk[:, 0], gan.generate(first))
    torch.testing.assert_close(walk[:, 1], gan.generate((first + last) / 2))
    torch.testing.assert_close(walk[:, 2], gan.generate(last))


# Notebooks


@pytest.mark.parametrize(("notebook", "kind"), [("30_dcgan", dcgan.Settings), ("31_latent_search", Settings)])
def test_every_choice_of_the_method_is_a_parameter(notebook, kind):
    declared = runs.notebook_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")
    for field in fields(kind):
        assert declared[field.name].type is type(field.default), field.name
    for name, allowed in latent_search.CHOICES.items() if kind is Settings else ():
        assert set(declared[name].choices) == set(allowed)
