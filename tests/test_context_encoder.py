"""Context Encoders: parameter counts, losses in closed form, and the fast step against a plain second one."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import inpaintlib
from benchmarks.speed import PlainContextEncoder
from inpaintlib import losses, metrics
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet
from inpaintlib.methods import classical
from inpaintlib.methods import context_encoder as ce
from inpaintlib.methods.context_encoder import (
    ChannelWiseLinear,
    Discriminator,
    Generator,
    Settings,
    Spread,
    Squeeze,
)
from inpaintlib.studies import context_encoder as study
from tests.conftest import SMALL as methods
from tests.conftest import noise as photos
from tests.conftest import parameters, trainer

SMALL = methods["context encoder"]


class TestNetworks:
    def test_parameter_counts_are_the_lua_codes(self):
        with torch.device("meta"):
            assert parameters(Generator(Settings())) == 71_124_544
            assert parameters(Discriminator(64)) == 2_765_568
            assert parameters(Discriminator(128)) == 2_831_232  # random regions: one more layer

    def test_conditional_discriminator_listens_to_the_context(self):
        network, patch = Discriminator(32, 8, conditional=True), torch.zeros(2, 3, 32, 32)
        with torch.no_grad():
            one, other = (network(patch, context) for context in (torch.zeros(2, 3, 64, 64), torch.rand(2, 3, 64, 64)))
        assert not torch.allclose(one, other)

    def test_channel_wise_linear_is_a_grouped_convolution(self):
        maps, side = 5, 4
        layer, x = ChannelWiseLinear(maps, side), torch.randn(3, maps, side, side)
        assert parameters(layer) == maps * side**4
        kernels = layer.weight.transpose(1, 2).reshape(maps * side**2, 1, side, side)
        torch.testing.assert_close(layer(x), F.conv2d(x, kernels, groups=maps).view_as(x))

    def test_bottleneck_as_matrix_products_is_the_convolutions(self):
        for kind, plain, shape in ((Squeeze, torch.nn.Conv2d, (3, 5, 4, 4)),
                                   (Spread, torch.nn.ConvTranspose2d, (3, 5, 1, 1))):  # fmt: skip
            layer, x = kind(5, 7, 4, bias=False).double(), torch.randn(shape, dtype=torch.double, requires_grad=True)
            twin = plain(5, 7, 4, bias=False).double()
            twin.load_state_dict(layer.state_dict())  # names and shapes are theirs
            y, z = layer(x), twin(x)
            torch.testing.assert_close(y, z)
            towards = torch.randn_like(y)
            ours = torch.autograd.grad(y, [x, *layer.parameters()], towards)
            for one, other in zip(ours, torch.autograd.grad(z, [x, *twin.parameters()], towards), strict=True):
                torch.testing.assert_close(one, other)

    def test_pooling_keeps_the_weights_and_takes_the_largest_of_four(self):
        strided, pooled = (trainer(replace(SMALL, pooling=on)).generator for on in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(strided.parameters(), pooled.parameters(), strict=True))
        x, first = torch.randn(2, 3, 64, 64), pooled.encoder[0]
        every = F.leaky_relu(F.conv2d(x, first[0].weight, padding=1), 0.2)  # 63 px: the last window is half empty
        every = F.pad(every, (0, 1, 0, 1), value=-math.inf)
        torch.testing.assert_close(first(x), every.unflatten(3, (32, 2)).unflatten(2, (32, 2)).amax((3, 5)))

    def test_initialisation_is_dcgans(self):
        network = trainer(replace(SMALL, width=32)).generator
        squeeze, norm = network.squeeze.weight, network.bottleneck[0]
        assert squeeze.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(norm.weight.mean().item() - 1) < 0.02
        assert norm.weight.std() > 0
        assert not norm.bias.any()


class TestObjective:
    @pytest.mark.parametrize(("overlap", "mean"), [(0, 1), (4, 3.109), (7, 4.507)])
    def test_band_multiplies_the_ratio(self, overlap, mean):
        weights = ce.overlap_weights(64, overlap, 10)
        inner = (64 - 2 * overlap) ** 2 / 64**2
        assert weights.mean().item() == pytest.approx(inner + 10 * (1 - inner), rel=1e-6)
        assert weights.mean().item() == pytest.approx(mean, abs=1e-3)
        assert (weights == weights.flip(-1)).all()
        assert (weights == weights.transpose(-1, -2)).all()

    def test_reconstruction_of_a_constant_error(self):
        truth = torch.rand(2, 3, 32, 32)
        weights = ce.overlap_weights(32, 4, 10)
        for kind, value in (("l2", 0.09), ("l1", 0.3), ("l2_sum", 0.09 * 3 * 32 * 32)):
            loss = ce.reconstruction_loss(truth + 0.3, truth, weights, kind)
            assert loss.item() == pytest.approx(value * weights.mean().item(), rel=1e-5)

    def test_adversarial_loss_is_cross_entropy_of_the_sigmoid(self):
        logits = torch.tensor([-2.0, 0.5, 3.0])
        p = logits.sigmoid()
        assert losses.adversarial(logits, True).item() == pytest.approx(-p.log().mean().item(), rel=1e-6)
        assert losses.adversarial(logits, False).item() == pytest.approx(-(1 - p).log().mean().item(), rel=1e-6)
        assert losses.adversarial(torch.tensor([-200.0]), True).item() == 200  # where log of a sigmoid is -inf

    @pytest.mark.parametrize(
        ("ratio", "weights"), [(0, (0, 1)), (1, (0.5, 0.5)), (999, (0.999, 0.001)), (math.inf, (1, 0))]
    )
    def test_weights_sum_to_one(self, ratio, weights):
        assert Settings(ratio=ratio).weights == pytest.approx(weights)

    def test_known_pixels_weigh_more_with_random_regions(self):
        s = replace(SMALL, region="random_block", ratio=math.inf)
        holes, x = masks.random_block(4, 64, 0), photos()
        method = trainer(s)
        rec = method.update(x, holes=holes)["rec"].item()
        truth = x.float() / 127.5 - 1
        other = trainer(s)
        with torch.no_grad():
            predicted = other.generator(truth.masked_fill(holes, 0))
        expected = ((predicted - truth) ** 2 * torch.where(holes, 1.0, 10.0)).mean().item()
        assert rec == pytest.approx(expected, rel=1e-5)


class TestStep:
    @pytest.mark.parametrize("change", [{}, {"overlap_visible": True}, {"ratio": 1.0}])
    def test_fast_step_equals_the_plain_one(self, change):
        settings = replace(SMALL, **change)
        fast, plain = trainer(settings, seed=3), PlainContextEncoder(settings, 3, torch.device("cpu"))
        for step in range(3):  # beyond, a GAN amplifies the rounding of another order of sums
            x = photos(8, seed=step)
            a, b = fast.step(x, step), plain.step(x, step)
            for name in b:
                assert a[name].item() == pytest.approx(b[name].item(), rel=1e-3), (step, name)

    def test_reconstruction_only_never_runs_the_discriminator(self):
        method = trainer(replace(SMALL, ratio=math.inf))
        before = [p.clone() for p in method.discriminator.parameters()]
        assert set(method.step(photos(), 0)) == {"rec"}
        assert all(torch.equal(a, b) for a, b in zip(before, method.discriminator.parameters(), strict=True))

    def test_hidden_band_sees_nothing_of_the_patch_and_visible_band_does(self):
        x, changed = photos(2), photos(2).clone()
        changed[:, :, 17, 17] = 255 - changed[:, :, 17, 17]  # inside the patch (16..47), within the band of 4
        for visible in (False, True):
            method = trainer(replace(SMALL, overlap_visible=visible))
            inputs = [method.mask_input(p.float() / 127.5 - 1, method.blank) for p in (x, changed)]
            assert torch.equal(*inputs) is not visible

    @pytest.mark.parametrize("region", ["centre", "random_block"])
    def test_a_discriminator_of_composites_sees_the_known_pixels_and_the_prediction_in_the_hole(self, region):
        method = trainer(replace(SMALL, composite=True, region=region))
        x, patch = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 3, method.settings.patch, method.settings.patch)
        holes = masks.make(region, 2, 64, 0)
        assert method.crop(x).shape == patch.shape or region != "centre"
        expected = method.discriminator(torch.where(holes, 0.0, x))
        torch.testing.assert_close(method.judged(x, patch, holes), expected)

    def test_bf16_gives_the_losses_of_fp32_but_for_its_rounding(self):
        exact, rounded = (trainer(replace(SMALL, ratio=1.0), precision=precision) for precision in ("fp32", "bf16"))
        for step in range(3):
            a, b = (arm.step(photos(8, seed=step), step) for arm in (exact, rounded))
            assert b["rec"].dtype == torch.float32
            assert b["rec"].item() == pytest.approx(a["rec"].item(), rel=0.02)
            assert b["rec"].item() != a["rec"].item()

    def test_random_masks_follow_the_seed_alone(self):
        arms = [trainer(replace(SMALL, region="random_pixels", noise=noise), seed=2) for noise in (0, 4)]
        assert torch.equal(arms[0].bank, arms[1].bank)
        assert arms[0].bank.float().mean().item() == pytest.approx(0.8, abs=0.01)

    @pytest.mark.parametrize("region", ["random_block", "random_region", "random_pixels"])
    def test_no_training_hole_is_a_test_hole(self, region):
        """Test sets draw theirs with the seed 1, and holes of one seed and index are the same."""
        tested = {hole.numpy().tobytes() for hole in masks.make(region, 300, SMALL.size, 1)}
        for seed in (0, 1):
            bank = trainer(replace(SMALL, region=region), seed=seed).bank
            assert not tested & {hole.numpy().tobytes() for hole in bank}


class TestStudy:
    def test_a_fill_for_another_context_gains_nothing_where_the_context_is_ignored(self):
        truths = torch.rand(6, 3, 50, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        gain, change = study.swapped_contexts(torch.full_like(truths, 0.5), truths)
        assert not gain.any()
        assert change == 0
        gain, change = study.swapped_contexts(0.5 * truths + 0.25, truths)
        assert (gain > 0).all()
        gain, change = study.swapped_contexts(truths, truths)
        apart = (truths - truths.roll(3, 0)).square().mean((1, 2))
        assert gain == pytest.approx((10 * (apart / 1e-6).log10()).numpy())
        assert change == 1

    def test_regression_slope_is_one_for_the_mean_of_what_could_be_there(self):
        draw = torch.Generator().manual_seed(0)
        mean = torch.randn(400, 3, 20, dtype=torch.double, generator=draw)
        truth, guess = (mean + 0.5 * torch.randn(mean.shape, dtype=torch.double, generator=draw) for _ in range(2))
        assert study.regression_slope(mean, truth) == pytest.approx(1, abs=0.02)
        assert study.regression_slope(guess, truth) == pytest.approx(1 / 1.25, abs=0.02)
        assert study.regression_slope(truth / 2 + 0.3, truth) == pytest.approx(2)

    def test_colourfulness_of_known_photos(self):
        grey = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
        assert study.colourfulness(grey) == pytest.approx(0, abs=1e-9)
        red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        assert study.colourfulness(red) == pytest.approx(0.3 * math.hypot(1, 0.5))  # no spread, opponents 1 and 1/2

    def test_measured_as_evaluate_does_on_the_inner_hole(self, tmp_path, monkeypatch):
        monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
        method, ids = trainer(SMALL), [str(i) for i in range(4)]
        whole, inner = (TestSet.make("t", photos(), masks.centre(4, 64, hole=side), ids) for side in (32, 24))
        found = study.measure(method, whole, inner_margin=4)
        apart = metrics.evaluate(method.inpaint, inner, networks=(), device="cpu")
        assert found["psnr_inner"] == pytest.approx(apart["psnr_hole"], abs=1e-4)
        assert found["psnr_inner_pooled"] == pytest.approx(apart["psnr_hole_pooled"], abs=1e-4)
        assert found["seam_inner"] == pytest.approx(apart["seam"], abs=1e-6)
        telea = metrics.evaluate(classical.telea, whole, networks=(), device="cpu")
        assert found["gain_over_telea"] == pytest.approx(found["psnr_hole"] - telea["psnr_hole"], abs=1e-4)
        assert found.per_image["detail"].mean() == found["detail"] > 0
        assert "context_gain" not in study.measure(trainer(replace(SMALL, region="random_block")), whole)

    def test_speed_is_the_median_rows_and_the_discriminators_loss_the_last_quarters(self):
        history = pd.DataFrame({"kimg": [0, 1, 2, 3, 4.0], "seconds": [0, 10, 20, 1000, 1010.0],
                                "d_real": [math.nan, 9, 9, 9, 0.25], "d_fake": [math.nan, 9, 9, 9, 0.5]})  # fmt: skip
        assert study.of_training(history) == {
            "training_seconds": 1010, "training_photos_per_second": 100, "discriminator_loss": 0.75}  # fmt: skip
