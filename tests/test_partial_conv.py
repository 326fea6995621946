"""Partial convolutions: the layer against closed forms and a slow reference, the U-Net, the objective, the training."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inpaintlib import BadInput, pretrained
from inpaintlib.data import masks
from inpaintlib.methods.partial_conv import PartialConv2d, PartialConvNet, Settings, UNet
from tests.conftest import SMALL, narrow_vgg, noise, parameters, trainer


def reference(x, mask, weight, bias, stride=1, padding=0):
    """Eqs. 1 and 2 as the author's FAQ has them: the mask has all channels and is convolved with ones."""
    total = F.conv2d(mask, torch.ones_like(weight[:1]), None, stride, padding)
    y = F.conv2d(x * mask, weight, None, stride, padding) * (weight[0].numel() / total)
    y = y + (0 if bias is None else bias.view(1, -1, 1, 1))
    return torch.where(total > 0, y, torch.zeros_like(y)), (total > 0).to(x)


def random_map(batch, channels, size, share=0.3, seed=0):
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(seed)) < share


# The layer


@pytest.fixture
def ones():
    layer = PartialConv2d(1, 1, 3)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 0.25)
    return layer


@pytest.mark.parametrize(("valid_pixels", "expected"), [(3, -9.0), (5, -5.4), (9, -3.0)])
def test_worked_example_minus_three_is_scaled_by_what_is_valid(ones, valid_pixels, expected):
    """The seed's Figure 3: -3 from 3 of 9 valid values becomes -9 + b, and from 5 of 9 it is told apart."""
    valid = torch.zeros(1, 1, 3, 3)
    valid.view(-1)[:valid_pixels] = 1
    y, reached = ones(torch.where(valid > 0, -3 / valid_pixels, 100.0), valid)
    assert y.item() == pytest.approx(expected + 0.25)
    assert reached.item() == 1


def test_worked_example_an_empty_window_gives_nothing(ones):
    """0 by Eq. 1, where the seed's figure draws 0 + b: a bias would be content that no photo put there."""
    y, reached = ones(torch.full((1, 1, 3, 3), 7.0), torch.zeros(1, 1, 3, 3))
    assert y.item() == 0
    assert reached.item() == 0


@pytest.mark.parametrize("content", [0.0, 1e6, math.inf, math.nan])
def test_nothing_written_into_the_hole_changes_anything(content):
    layer, valid, x = PartialConv2d(4, 6, 3, 2, 1), random_map(2, 1, 16), torch.randn(2, 4, 16, 16)
    y, _ = layer(x, valid)
    assert torch.equal(y, layer(torch.where(valid, x, content), valid)[0])
    changed = torch.where(valid, x + 1, x)
    assert not torch.equal(y, layer(changed, valid)[0])


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (7, 3)])
def test_without_holes_the_interior_is_that_of_an_ordinary_convolution(kernel, padding):
    partial, plain = PartialConv2d(3, 5, kernel, 1, padding), nn.Conv2d(3, 5, kernel, 1, padding)
    plain.load_state_dict(partial.state_dict())
    x = torch.randn(2, 3, 20, 20)
    y, reached = partial(x, torch.ones(2, 1, 20, 20))
    inner = slice(padding, -padding)
    torch.testing.assert_close(y[..., inner, inner], plain(x)[..., inner, inner])
    assert reached.all()


def test_padding_counts_as_hole():
    partial, plain = PartialConv2d(2, 3, 3, 1, 1, bias=False), nn.Conv2d(2, 3, 3, 1, 1, bias=False)
    plain.load_state_dict(partial.state_dict())
    x = torch.randn(1, 2, 8, 8)
    y, expected = partial(x, torch.ones(1, 1, 8, 8))[0], plain(x)
    torch.testing.assert_close(y[..., 0, 1:-1], expected[..., 0, 1:-1] * 1.5)
    torch.testing.assert_close(y[..., -1, -1], expected[..., -1, -1] * 2.25)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (5, 2, 2), (7, 2, 3), (3, 2, 0), (1, 1, 0), (3, 1, 3), ((3, 5), (1, 2), (0, 2))],
)
def test_equals_the_slow_reference_with_all_channels(kernel, stride, padding, bias):
    layer = PartialConv2d(6, 4, kernel, stride, padding, bias).double()
    x, one, many = torch.randn(3, 6, 15, 15).double(), random_map(3, 1, 15, 0.1), random_map(3, 6, 15, 0.05, seed=1)
    for valid in (one, many, one[:1]):
        y, reached = layer(x, valid)
        full = valid.double().expand(len(valid), 6, 15, 15).expand_as(x)
        expected, expected_reached = reference(x, full, layer.weight, layer.bias, stride, padding)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(reached.expand_as(expected_reached[:, :1]), expected_reached[:, :1].bool())
    assert 0 < reached.double().mean() < 1 or kernel == 7


def test_a_concatenation_of_two_maps_is_exact():
    layer = PartialConv2d(11, 4, 3, 1, 1).double()
    parts = [torch.randn(2, 8, 12, 12).double(), torch.randn(2, 3, 12, 12).double()]
    maps = [random_map(2, 1, 12, 0.1), random_map(2, 1, 12, 0.1, seed=1)]
    full = torch.cat([maps[0].expand(2, 8, 12, 12), maps[1].expand(2, 3, 12, 12)], 1).double()
    expected, expected_reached = reference(torch.cat(parts, 1), full, layer.weight, layer.bias, 1, 1)
    y, reached = layer(parts, maps)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(reached, expected_reached.bool())
    averaged = layer(torch.cat(parts, 1), maps[0] | maps[1])[0]  # one map for both is another layer
    assert (averaged - expected).abs().max() > 0.01


def test_maps_come_back_as_they_went_in():
    layer, x = PartialConv2d(2, 3, 3, 2, 1), torch.randn(2, 2, 8, 8)
    valid = random_map(2, 1, 8)
    results = [layer(x, valid.to(dtype)) for dtype in (torch.bool, torch.float, torch.half, torch.uint8)]
    assert [reached.dtype for _, reached in results] == [torch.bool, torch.float, torch.half, torch.uint8]
    assert all(torch.equal(y, results[0][0]) for y, _ in results)


def test_gradients_are_right_and_none_reach_the_hole():
    layer = PartialConv2d(3, 2, 3, 2, 1).double()
    x, valid = torch.randn(2, 3, 6, 6, dtype=torch.double, requires_grad=True), random_map(2, 1, 6)
    weight, bias = (parameter.detach().requires_grad_() for parameter in (layer.weight, layer.bias))

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, valid))[0]

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    (gradient,) = torch.autograd.grad(run(x, weight, bias).square().sum(), x)
    assert (gradient[~valid.expand_as(x)] == 0).all()
    assert (gradient[valid.expand_as(x)] != 0).any()
    (of_bias,) = torch.autograd.grad(run(x, weight, bias).sum(), bias)
    assert of_bias.tolist() == pytest.approx([layer(x, valid)[1].sum().item()] * 2)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_has_no_nan_and_exact_counts(dtype):
    """With 6 of 9,216 values valid the ratio is 1,536; and a count of 9,195 is no number of 16 bits."""
    torch.manual_seed(0)
    layer = PartialConv2d(1024, 4, 3, 1, 1)
    parts = [torch.randn(1, 1021, 6, 6), torch.randn(1, 3, 6, 6)]
    maps = [torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)]
    maps[1][..., 2, 2:4] = 1
    expected = layer(parts, maps)[0]
    with torch.autocast("cpu", dtype):
        y, _ = layer(parts, maps)
        exact, _ = layer.coverage([torch.ones(1, 1, 6, 6).bool(), maps[1].bool()], [1021, 3])
    assert y.dtype == dtype
    assert exact.dtype == torch.float
    assert exact[0, 0, 2, 2].item() == pytest.approx(9216 / (9 * 1021 + 2 * 3), rel=1e-7)
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    y.square().mean().backward()
    assert layer.weight.grad.isfinite().all()
    narrow = PartialConv2d(8, 4, 3, 1, 1).to(dtype)
    assert narrow(torch.randn(1, 8, 6, 6, dtype=dtype), maps[1])[0].isfinite().all()


def test_without_scaling_the_response_is_left_as_it_is():
    layer, x, valid = PartialConv2d(2, 3, 3, 1, 1, scaling=False), torch.randn(1, 2, 8, 8), random_map(1, 1, 8, 0.1)
    y, reached = layer(x, valid)
    torch.testing.assert_close(y, F.conv2d(x * valid, layer.weight, layer.bias, 1, 1) * reached)


def test_bad_maps_are_one_clear_sentence():
    layer, x = PartialConv2d(4, 2, 3), torch.randn(2, 4, 8, 8)
    with pytest.raises(BadInput, match="valid: has values between 0 and 1; resize masks by nearest neighbour"):
        layer(x, torch.full((2, 1, 8, 8), 0.5))
    for shape in ((2, 1, 4, 4), (2, 3, 8, 8), (3, 1, 8, 8), (2, 8, 8)):
        with pytest.raises(BadInput, match=r"valid: shape .* does not fit .*; it must be \(2, 1, 8, 8\)"):
            layer(x, torch.ones(shape))
    with pytest.raises(BadInput, match="valid: 2 maps do not fit 1 features"):
        layer(x, [torch.ones(2, 1, 8, 8)] * 2)


# The network


@pytest.mark.parametrize(
    ("size", "levels", "millions", "closed"),
    [(512, 8, 32.86, 7), (256, 7, 25.78, 6), (128, 6, 18.70, 5), (64, 5, 11.62, 4)],
)
@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_level_rule(size, levels, millions, closed, conv):
    """Depth, weights, and after which layer a central hole of half the side is closed."""
    settings = Settings(size=size, conv=conv)
    with torch.device("meta"):
        network = UNet(settings)
    assert settings.levels == len(network.encoder) == len(network.decoder) == levels
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.005)
    if conv == "partial":
        maps = UNet(replace(settings, width=1)).filling(masks.centre(1, size))
        assert len(maps) == 2 * levels + 1
        assert [each.shape[-1] for each in maps[: levels + 1]] == [size >> i for i in range(levels + 1)]
        assert maps[-1].shape[-1] == size
        assert next(i for i, each in enumerate(maps) if each.all()) == closed


def test_width_scales_the_weights():
    weights = [parameters(UNet(Settings(size=64, width=width))) for width in (8, 16, 32)]
    assert weights[2] / weights[1] == pytest.approx(4, abs=0.1)
    assert weights[1] / weights[0] == pytest.approx(4, abs=0.2)


def second_network(settings, state, photos, hole, fill):
    """The appendix's table once more, from the weights alone and with the slow reference layer."""
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    partial, levels = settings.conv == "partial", settings.levels

    def block(name, x, mask, stride, kernel, slope):
        weight, bias = state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias")
        assert weight.shape[-1] == kernel
        if partial:
            y, new = reference(x, mask, weight, bias, stride, kernel // 2)
        else:
            y = F.conv2d(x, weight, bias, stride, kernel // 2)
            new = torch.ones_like(y[:, :1])
        if f"{name}.norm.weight" in state:
            parts = (state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            y = F.batch_norm(y, *parts)
        y = y if slope is None else torch.where(y > 0, y, slope * y)
        return y, new.expand_as(y)

    x = (photos * ~hole + fill * hole - mean) / deviation
    outputs = [(x, (~hole).float().expand_as(x))]
    for i in range(levels):
        outputs.append(block(f"encoder.{i}", *outputs[-1], 2, (7, 5, 5, 3, 3, 3, 3, 3)[i], 0))
    x, mask = outputs[-1]
    for i in range(levels):
        skip, skip_mask = outputs[-2 - i]
        up, up_mask = (each.repeat_interleave(2, -1).repeat_interleave(2, -2) for each in (x, mask))
        last = i == levels - 1
        x, mask = block(f"decoder.{i}", torch.cat([up, skip], 1), torch.cat([up_mask, skip_mask], 1), 1, 3,
                        None if last else 0.2)  # fmt: skip
    return x * deviation + mean


@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_network_equals_a_second_implementation(conv):
    torch.manual_seed(1)
    settings = Settings(size=64, width=4, conv=conv, placeholder="grey")
    network = UNet(settings)
    photos, hole = torch.rand(3, 3, 64, 64), masks.irregular(3, 64, 0, (0.4, 0.5))
    for _ in range(3):  # statistics other than 0 and 1
        network(photos, hole)
    network.eval()
    expected = second_network(settings, network.state_dict(), photos, hole, 0.5)
    torch.testing.assert_close(network(photos, hole), expected, rtol=1e-4, atol=1e-4)


def test_only_plain_convolutions_see_the_fill():
    photos, hole = torch.rand(2, 3, 32, 32), masks.centre(2, 32)
    fills = [torch.tensor(value).view(-1, 1, 1) for value in ((0.5,), (0.485, 0.456, 0.406), (0.0,))]
    for conv in ("partial", "plain"):
        network = UNet(Settings(size=32, width=4, conv=conv)).eval()
        outputs = [network(photos, hole, fill) for fill in fills]
        assert torch.equal(network(photos, hole), outputs[1])  # the default is ImageNet's mean colour
        assert torch.equal(outputs[0], outputs[1]) == torch.equal(outputs[0], outputs[2]) == (conv == "partial")
    grey = UNet(Settings(size=32, width=4, conv="plain", placeholder="grey")).eval()
    assert torch.equal(grey(photos, hole), grey(photos, hole, fills[0]))


def test_what_nothing_valid_reaches_is_the_mean_colour():
    network, hole = UNet(Settings(size=64, width=2)).eval(), torch.ones(1, 1, 64, 64, dtype=torch.bool)
    out = network(torch.rand(1, 3, 64, 64), hole)
    torch.testing.assert_close(out, network.mean.expand_as(out))


# The objective


def small(seed=0, bank=None, **choices):
    return trainer(replace(SMALL["partial convolutions"], **choices), seed, bank=bank)


photos_of = partial(noise, size=32)


def test_objective_is_equation_seven_term_by_term():
    method, vgg = small(vgg_input="imagenet"), narrow_vgg()
    truth, output, hole = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), masks.irregular(2, 32, 0, (0.2, 0.3))
    composite, known = torch.where(hole, output, truth), (~hole).float()
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(x):
        return [vgg[:end]((x - mean) / deviation) for end in (5, 10, 17)]

    def grams(x):
        return [torch.einsum("bchw,bdhw->bcd", f, f) / f[0].numel() for f in features(x)]

    expected = {
        "valid": F.l1_loss(output * known, truth * known),
        "hole": F.l1_loss(output * (1 - known), truth * (1 - known)),
        "perceptual": sum(F.l1_loss(a, b) for x in (output, composite)
                          for a, b in zip(features(x), features(truth), strict=True)),
        "style": sum(F.l1_loss(a, b) for x in (output, composite)
                     for a, b in zip(grams(x), grams(truth), strict=True)),
    }  # fmt: skip
    terms = method.objective(output, truth, hole)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    assert set(terms) == set(method.settings.weights)  # tv: tests/test_losses.py
    assert method.settings.weights == {"valid": 1, "hole": 6, "perceptual": 0.05, "style": 120, "tv": 0.1}
    assert {name for name, term in method.objective(truth, truth, hole).items() if term.item() > 1e-6} == {"tv"}


def test_step_reports_every_term_and_their_weighted_sum():
    method = small()
    losses = method.step(photos_of(4), 0)
    weighted = sum(weight * losses[name].item() for name, weight in method.settings.weights.items())
    assert losses["total"].item() == pytest.approx(weighted, rel=1e-5)


def test_vgg_runs_twice_a_step_and_not_at_all_without_its_terms(monkeypatch):
    method, batches = small(), []
    method.features.register_forward_hook(lambda _, photos, __: batches.append([len(each) for each in photos]))
    method.step(photos_of(3), 0)
    assert sorted(batches) == [[3], [3, 3]]

    def missing(device):
        raise BadInput("weights/vgg16.pt is missing")

    monkeypatch.setattr(pretrained, "vgg16", missing)
    pixels = PartialConvNet(Settings(size=32, width=4, bank=6, perceptual_weight=0, style_weight=0), device="cpu")
    assert set(pixels.step(photos_of(2), 0)) == {"valid", "hole", "tv", "total"}
    with pytest.raises(BadInput, match=r"vgg16\.pt is missing"):
        PartialConvNet(Settings(size=32, width=4, bank=6), device="cpu")


# Training and use


def test_training_holes_are_of_all_bins_and_a_function_of_seed_and_step():
    method = small(bank=None)
    shares = masks.hole_ratio(method.bank)
    for low, high in masks.RATIO_BINS:
        assert ((low < shares) & (shares <= high)).sum() == 2
    holes = method.holes(64, 7)
    assert torch.equal(holes, small().holes(64, 7))
    assert not torch.equal(holes, method.holes(64, 8))
    assert set(masks.hole_ratio(holes).tolist()) <= set(shares.tolist())
    assert len({hole.numpy().tobytes() for hole in holes}) > len(method.bank)  # mirrored and turned
    own = masks.strokes(5, 32, 0)
    assert set(masks.hole_ratio(small(bank=own).holes(32, 0)).tolist()) <= set(masks.hole_ratio(own).tolist())


@pytest.mark.parametrize("freeze_affine", [False, True])
def test_second_stage_freezes_the_encoders_statistics_and_lowers_the_learning_rate(freeze_affine):
    """The paper's "freeze batch normalisation" is read with and without its scale and shift."""
    method = small(second_stage_kimg=0.008, freeze_affine=freeze_affine)  # two steps of four photos

    def statistics():
        state = method.network.state_dict()
        return [torch.cat([v for k, v in state.items() if k.startswith(part) and "running_mean" in k])
                for part in ("encoder", "decoder")]  # fmt: skip

    for step in range(4):
        before, gamma = statistics(), method.network.encoder[1].norm.weight.clone()
        method.step(photos_of(4), step)
        encoder, decoder = statistics()
        assert torch.equal(encoder, before[0]) == (step >= 2)
        assert not torch.equal(decoder, before[1])
        frozen = freeze_affine and step >= 2
        assert torch.equal(method.network.encoder[1].norm.weight, gamma) == frozen
        assert method.network.decoder[0].norm.weight.requires_grad
        assert method.adam.param_groups[0]["lr"] == (2e-4 if step < 2 else 5e-5)
        method.inpaint(torch.rand(1, 3, 32, 32), masks.centre(1, 32))  # returns to the stage's mode
        assert method.network.decoder[0].norm.training
        assert method.network.encoder[1].norm.training == (step < 2)


def test_weights_have_the_deviation_of_the_activation_that_follows():
    """He 2015: sqrt(2 / ((1 + slope^2) inputs)), 1 / sqrt(inputs) where nothing follows."""
    network = small(size=64, width=16).network
    for block, gain in ((network.encoder[3], 2), (network.decoder[0], 2 / 1.04), (network.decoder[-1], 1)):
        inputs = block.conv.weight[0].numel()
        assert block.conv.weight.std().item() == pytest.approx((gain / inputs) ** 0.5, rel=0.05)
    assert not network.decoder[-1].conv.bias.any()


def test_pixel_scale_multiplies_the_pixel_terms_alone():
    truth, output, hole = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), masks.centre(2, 32)
    once, scaled = (small(pixel_scale=scale).objective(output, truth, hole) for scale in (1.0, 4.4))
    for name, term in once.items():
        factor = 4.4 if name in ("valid", "hole", "tv") else 1
        assert scaled[name].item() == pytest.approx(factor * term.item(), rel=1e-5), name


def test_training_starts_from_a_finished_run_with_the_same_layers_only(tmp_path):
    first, then = small(seed=3, perceptual_weight=0, style_weight=0), small(seed=4)
    first.step(photos_of(2), 0)
    first.save(tmp_path / "weights.pt")
    then.start_from(tmp_path / "weights.pt")
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, then.network.state_dict()[name]), name
    assert not then.adam.state_dict()["state"]
    for choices in ({"conv": "plain"}, {"scaling": False}, {"width": 8}):
        with pytest.raises(BadInput, match=f"weights.pt: was trained with {next(iter(choices))}"):
            small(**choices).start_from(tmp_path / "weights.pt")


def test_partial_convolutions_fill_other_sizes_and_never_see_the_placeholder():
    method, photos, mask = small(), torch.rand(2, 3, 64, 32), torch.zeros(2, 1, 64, 32, dtype=torch.bool)
    mask[..., 20:40, 5:25] = True
    filled = method.inpaint(photos, mask)
    assert torch.equal(filled, method.inpaint(photos, mask, placeholder=torch.zeros(3, 1, 1)))
    assert method.network.training


def test_the_network_compiles_without_a_graph_break():
    method, hole = small(), masks.centre(2, 32)
    photos = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(method.network.eval(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(photos, hole), method.network(photos, hole))
    objective = torch.compile(method.objective, fullgraph=True, backend="eager")
    expected = method.objective(photos, photos.flip(0), hole)
    torch.testing.assert_close(objective(photos, photos.flip(0), hole), expected)


def test_bad_photos_masks_and_checkpoints_are_one_clear_sentence():
    method, photos = small(), torch.rand(1, 3, 64, 64)
    centre = masks.centre(1, 64)
    for mask, message in (
        (F.interpolate(centre.float(), 64, mode="bilinear") * 0.5, "mask: has greys; resize masks by nearest"),
        (centre.float(), "give a bool tensor, True = hole"),
        (masks.centre(1, 32), r"the photos need \(1, 1, 64, 64\)"),
        (~masks.centre(1, 64, hole=16), "mask: 94% of it is hole, where 80% is the most; .* invert it"),
    ):
        with pytest.raises(BadInput, match=message):
            method.inpaint(photos, mask)
    with pytest.raises(BadInput, match=r"bank: .* must be bool \(n, 1, 32, 32\)"):
        small(bank=masks.centre(3, 64))
    with pytest.raises(BadInput, match=r"bank: 9\d% of it is hole"):
        small(bank=~masks.irregular(3, 32, 0, (0.01, 0.1)))
    with pytest.raises(BadInput, match="conv: plain convolutions do not update a mask"):
        small(conv="plain").network.filling(masks.centre(1, 32))
