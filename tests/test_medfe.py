"""MEDFE: networks, the audit of the released code, the cheap middle against the dear one, objective, training, use."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inpaintlib import BadInput, losses, pretrained, training
from inpaintlib.data import masks
from inpaintlib.methods import medfe, medfe_released
from inpaintlib.methods.medfe import MEDFE, Discriminator, Network, Settings
from inpaintlib.methods.medfe_released import FIXES
from tests.conftest import SMALL, after, narrow_vgg, noise, parameters, trainer
from tests.conftest import coders as codes

TINY, RELEASED = SMALL["MEDFE"], SMALL["released MEDFE"]
CHANNELS = 4 * TINY.width  # of the branches
photos = partial(noise, 2, channels=6)  # with other noise behind them for structure images


# The networks


def test_parameter_counts_are_the_released_codes():
    with torch.device("meta"):
        network = Network(Settings())
        assert [parameters(part) for part in (network.encoder, network.middle, network.decoder, network.to_rgb)] == [
            30_026_432, 54_992_928, 18_098_499, 771
        ]  # fmt: skip
        assert round(parameters(network) / 1e6, 1) == 103.1
        assert parameters(Discriminator()) == 2_764_737
        reports = Network(Settings(constraint="cae"))  # its own 768 to 256 for the code, and no 1x1 to RGB
        assert parameters(reports) - parameters(network) == 768 * 256 - 771


@pytest.mark.parametrize(("size", "sides"), [(256, [128, 64, 32, 16, 8, 4]), (128, [64, 32, 16, 8, 4, 4]),
                                             (64, [32, 16, 8, 4, 4, 4])])  # fmt: skip
def test_levels_end_at_four_pixels_and_branches_have_an_eighth(size, sides):
    network = Network(replace(TINY, size=size))
    levels = network.encoder(torch.zeros(1, 6, size, size))
    assert [level.shape[1:] for level in levels] == [
        (c, n, n) for c, n in zip([2, 4, 8, 16, 16, 16], sides, strict=True)
    ]
    output, structure, texture = network(torch.rand(2, 3, size, size), masks.centre(2, size))
    assert output.shape == (2, 3, size, size)
    assert structure.shape == texture.shape == (2, CHANNELS, size // 8, size // 8)
    assert output.abs().max() <= 1


def test_spectral_weights_have_largest_singular_value_one_in_fp32_under_autocast_too():
    judge, x = training.initialise(Discriminator(2), 0, "d", medfe.initialise_spectral), torch.rand(1, 3, 64, 64)
    for _ in range(200):
        with torch.autocast("cpu", torch.bfloat16):
            judge(x)
    judge.eval()
    for layer in judge.layers[::2]:
        assert layer.weight.dtype == torch.float32
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, abs=1e-4)


# Arms that are compared with each other


def test_arms_of_one_seed_see_the_same_holes_and_crops(monkeypatch):
    seen = []
    for settings in (replace(TINY, region="irregular", bank=12), replace(TINY, constraint="none", region="irregular",
                     bank=12), medfe_released.Settings(size=64, width=2, region="irregular", bank=12)):  # fmt: skip
        method = trainer(settings)
        monkeypatch.setattr(method, "_update", lambda **inputs: seen.append(inputs))
        method.step(photos(), 7)
    for inputs in seen[1:]:
        assert all(torch.equal(inputs[name], seen[0][name]) for name in ("photos", "holes", "draws"))


# Audit: what the released code does, in a few lines each


@pytest.mark.parametrize("kind", ["centre", "irregular", "random_block", "random_region", "half", "random_pixels"])
def test_released_feature_mask_is_empty_for_every_mask(kind):
    holes = masks.make(kind, 8, 128, 0)
    released = medfe_released.released_feature_hole
    assert not released(holes).any()
    assert not released(torch.ones(1, 1, 128, 128, dtype=torch.bool)).any()  # not even all hole


def test_described_feature_mask_is_the_hole_in_small():
    assert torch.equal(medfe.feature_hole(masks.centre(2, 128)), masks.centre(2, 16))
    assert medfe.feature_hole(torch.ones(1, 1, 128, 128, dtype=torch.bool)).all()
    holes = masks.irregular(8, 256, 0, (0.4, 0.5))
    assert medfe.feature_hole(holes).float().mean() == pytest.approx(holes.float().mean().item(), abs=0.06)


def test_released_initialisation_overwrites_the_counting_kernels():
    torch.manual_seed(0)
    counting = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    nn.init.ones_(counting.weight)
    nn.Sequential(counting).apply(training.initialise_dcgan)
    counts = counting(torch.ones(1, 256, 5, 5))[0, :, 2, 2]  # with ones: 2304
    assert abs(counts.mean().item()) < 0.2
    assert counts.std().item() == pytest.approx(0.02 * math.sqrt(2304), rel=0.1)
    assert 0.4 < (counts < 0).float().mean().item() < 0.6
    ours = medfe_released.OverwrittenPartialConv2d(256, 3).counting.sum((2, 3))
    assert ours.std().item() == pytest.approx(counts.std().item(), rel=0.15)
    one, same, other = (trainer(RELEASED, seed=seed).network.middle.streams[0][0].conv for seed in (3, 3, 4))
    assert torch.equal(one.counting, same.counting)
    assert one.counting.std().item() == pytest.approx(0.02 * math.sqrt(CHANNELS), rel=0.5)
    assert not torch.equal(one.counting, other.counting)


@pytest.mark.parametrize("settings", [replace(RELEASED, constraint="cae"),
                                      replace(TINY, constraint="cae_reinitialised")])  # fmt: skip
def test_released_initialisation_overwrites_the_loaded_auto_encoders(settings):
    loaded = codes()
    for each in loaded:
        nn.init.constant_(each.network.encoder[-1][0].weight, 0.5)
    used = trainer(settings, codes=loaded).codes[1][-1][0].weight
    assert used.std().item() == pytest.approx(0.02, rel=0.1)
    assert (loaded[1].network.encoder[-1][0].weight == 0.5).all()  # the caller's own is not touched
    for spared in (replace(TINY, constraint="cae"), replace(RELEASED, constraint="cae", fixes="init")):
        assert (trainer(spared, codes=loaded).codes[1][-1][0].weight == 0.5).all()


def test_released_reshape_scrambles_space_and_channels():
    impulse = torch.zeros(1, 512, 32, 32)
    impulse[0, 7, 10, 20] = 1
    _, channels, rows, columns = medfe.range_average(impulse).nonzero().unbind(1)
    assert channels.unique().tolist() == [7]
    assert rows.unique().tolist() == [9, 10, 11]
    assert columns.unique().tolist() == [19, 20, 21]
    _, channels, rows, columns = medfe_released.scrambled(medfe.range_average(impulse)).nonzero().unbind(1)
    assert (channels.min(), channels.max()) == (153, 186)
    assert rows.unique().tolist() == [0, 16]
    assert columns.unique().tolist() == [7]


def test_the_1x1_constraint_leaves_all_but_three_directions_free():
    method = trainer(replace(TINY, perceptual_weight=0, style_weight=0))
    method.network.to_rgb = medfe.conv(256, 3, bias=True)
    weight = method.network.to_rgb.weight.flatten(1)
    assert weight.shape == (3, 256)
    free = torch.linalg.svd(weight.double())[2][3:].float()  # 253 directions that the convolution does not see
    features, truth = torch.randn(1, 256, 8, 8), torch.rand(1, 3, 64, 64)
    other = features + 10 * torch.einsum("kc,bkhw->bchw", free, torch.randn(1, 253, 8, 8))
    assert (other - features).abs().mean() > 5

    def constraint(x):
        terms = method.objective(truth * 2 - 1, truth, x, x, truth)
        return terms["structure"].item(), terms["texture"].item()

    assert constraint(other) == pytest.approx(constraint(features), rel=1e-4)
    assert constraint(features + weight[0, :, None, None] * 100) != pytest.approx(constraint(features), rel=1e-2)


def test_instance_norm_before_tanh_keeps_features_from_any_code_with_a_mean():
    """Each channel of atanh(features) has mean 0 over the photo, whatever the weights."""
    x, hole = torch.rand(2, 3, 64, 64), masks.centre(2, 64)
    for constraint, expected in (("cae", True), ("cae_no_norm", False)):
        torch.manual_seed(0)
        network = trainer(replace(TINY, constraint=constraint)).network.double()
        _, structure, texture = network(x.double(), hole)
        means = torch.cat([structure, texture]).atanh().mean((2, 3)).abs()
        assert (means.max().item() < 1e-6) is expected


# The middle: cheap against dear


def test_spatial_average_is_the_materialised_gaussian():
    x = torch.randn(2, 5, 6, 8)
    place = torch.cartesian_prod(torch.arange(6.0), torch.arange(8.0))
    gauss = torch.exp(-(torch.cdist(place, place) ** 2) / (2 * 1.5**2))
    gauss = gauss / gauss.sum(1, keepdim=True)  # (48, 48)
    expected = (x.flatten(2)[:, :, None] * gauss).sum(-1).view_as(x)  # the (B, C, 48, 48) that the code makes
    torch.testing.assert_close(medfe.spatial_average(x), expected, rtol=1e-4, atol=1e-5)


def test_range_average_is_the_loop_over_pixels():
    x = torch.randn(2, 5, 4, 6)
    gate, values, expected = F.pad(x.sigmoid(), [1] * 4), F.pad(x, [1] * 4), torch.empty_like(x)
    for b in range(2):
        for i in range(4):
            for j in range(6):
                near = gate[b, :, i : i + 3, j : j + 3]
                weights = (near * gate[b, :, i + 1, j + 1, None, None]).mean(0).flatten().softmax(0)
                expected[b, :, i, j] = (values[b, :, i : i + 3, j : j + 3].flatten(1) * weights).sum(1)
    torch.testing.assert_close(medfe.range_average(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("fraction", [0, 0.6])
def test_overwritten_counting_with_one_channel_is_that_with_all(kernel, fraction):
    layer = medfe_released.OverwrittenPartialConv2d(4, kernel).double()
    full = torch.randn(4, 4, kernel, kernel).double()
    layer.counting.copy_(full.sum(1, keepdim=True))
    x, valid = torch.randn(2, 4, 9, 9).double(), torch.rand(2, 1, 9, 9) >= fraction
    counts = F.conv2d(valid.double().expand(2, 4, 9, 9), full, None, 1, kernel // 2)
    y, reached = layer(x, valid)
    expected = F.conv2d(x * valid, layer.weight, None, 1, kernel // 2) / counts
    torch.testing.assert_close(y, torch.where(reached, expected, 0))


def test_resizing_after_a_1x1_convolution_is_resizing_before_it():
    layer, x = nn.Conv2d(4, 3, 1, bias=False), torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(medfe.resize(layer(x), (8, 8)), layer(medfe.resize(x, (8, 8))))


def released_middle(middle, levels, hole):
    """Our weights as the released code arranges them: one photo, one branch after the other, masks and ones-kernels of
    all channels, every pixel's own Gaussian map, every 3x3 patch copied out."""
    y, size = [F.leaky_relu(each, 0.2) for each in levels], levels[2].shape[-2:]
    pixels, valid = size.numel(), (~medfe.feature_hole(hole)).float().expand(1, CHANNELS, *size)

    def norm(x):
        return F.leaky_relu(F.instance_norm(x), 0.2)

    def filled(branch):
        scales = []
        for stream in middle.streams:
            x, mask = branch, valid
            for layer in stream:
                weight, padding = layer.conv.weight, layer.conv.padding
                total = F.conv2d(mask, torch.ones_like(weight), None, 1, padding)
                x = F.conv2d(x * mask, weight, None, 1, padding) * weight[0].numel() / total.clamp(min=1)
                x, mask = F.leaky_relu(layer.norm(x * (total > 0)), 0.2), (total > 0).float()
            scales.append(x)
        return middle.squeeze(torch.cat(scales, 1))

    texture = filled(
        middle.squeeze(torch.cat([part(each) for part, each in zip(middle.texture, y[:3], strict=True)], 1))
    )
    structure = [norm(middle.structure(medfe.resize(each, size))) for each in y[3:]]
    structure = filled(middle.squeeze(torch.cat(structure, 1)))
    x = middle.fuse(torch.cat([structure, texture], 1))
    x = x * middle.equalise.excitation(x)
    place = torch.cartesian_prod(*(torch.arange(float(side)) for side in size))
    gauss = torch.exp(-torch.cdist(place, place).square() / (2 * 1.5**2))
    gauss = (gauss / gauss.sum(1, keepdim=True)).view(pixels, 1, *size)
    spatial = (gauss * x.expand(pixels, *x.shape[1:])).sum((2, 3)).T
    patches, gates = (F.unfold(each, 3, padding=1).view(-1, 9, pixels) for each in (x, x.sigmoid()))
    weights = (gates * x.sigmoid().view(-1, 1, pixels)).mean(0).softmax(0)
    averages = [each.view_as(x) for each in (spatial, (patches * weights).sum(1))]
    x = middle.equalise.squeeze(torch.cat(averages, 1))
    back = [norm(to(medfe.resize(x, each.shape[-2:]))) for to, each in zip(middle.to_fine, levels[:3], strict=True)]
    back += [chain(x) for chain in middle.to_coarse]
    return [a + b for a, b in zip(levels, back, strict=True)], structure, texture


def test_cheap_middle_of_a_batch_is_the_released_one_of_each_photo():
    network, hole = trainer(TINY).network, masks.irregular(2, 64, 0, (0.3, 0.4))
    levels = network.encoder(torch.randn(2, 6, 64, 64))
    ours = network.middle(levels, hole)
    for i in range(2):
        expected = released_middle(network.middle, [each[i : i + 1] for each in levels], hole[i : i + 1])
        for a, b in zip((*ours[0], *ours[1:]), (*expected[0], *expected[1:]), strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "same"), [(TINY, True), (RELEASED, False), (replace(RELEASED, fixes="mask"), True)]
)
def test_filling_reads_hole_features_only_as_released(settings, same):
    middle, x = trainer(settings).network.middle, torch.randn(1, CHANNELS, 8, 8)
    valid = ~middle.feature_hole(masks.centre(1, 64))
    changed = torch.where(masks.centre(1, 8), 5.0, x)
    assert torch.equal(middle.fill(x, valid), middle.fill(changed, valid)) is same


# The objective


def test_relativistic_loss_in_closed_form():
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([0.0, -2.0])  # means 2 and -1
    # of D: r - f' - 1 = 3, 1 and f - r' + 1 = -1, -3; of G: 5, 3 and -3, -5
    assert medfe.relativistic_loss(real, fake).item() == (5 + 5) / 2
    assert medfe.relativistic_loss(real, fake, of_generator=True).item() == (17 + 17) / 2
    apart = torch.full((2,), 0.5), torch.full((2,), -0.5)
    assert medfe.relativistic_loss(*apart).item() == 0
    assert medfe.relativistic_loss(*apart[::-1], of_generator=True).item() == 0


def objective(settings, **options):
    method = trainer(settings, **options)
    torch.manual_seed(1)
    output, truth, structures = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    structure, texture = torch.randn(2, 2, CHANNELS, 8, 8)
    terms = method.objective(output, truth, structure, texture, structures)
    return method, terms, output, truth, structure, texture, structures


def test_l1_is_of_the_whole_photo_in_its_own_units():
    _, terms, output, truth, *_ = objective(TINY)
    assert terms["l1"].item() == pytest.approx((output - (truth * 2 - 1)).abs().mean().item())


@pytest.mark.parametrize("fixed", [True, False])
def test_perceptual_and_style_are_of_the_named_layers(fixed):
    """relu5_2 of the released code is pool4, conv5_1 and relu again; its VGG sees [-1, 1]."""
    _, terms, output, truth, *_ = objective(replace(RELEASED, fixes="vgg" if fixed else ""))
    vgg, photo = narrow_vgg(), (output + 1) / 2

    def relu(x):
        x, maps = pretrained.normalise(x) if fixed else x * 2 - 1, {}
        for i, layer in enumerate(vgg):
            x = maps[i] = layer(x.clone())
        maps["relu5_2"] = maps[27] if fixed else vgg[25](vgg[24](vgg[23](maps[25])))
        return maps

    (a, b), mean = (relu(photo), relu(truth)), lambda x: x.abs().mean().item()
    assert terms["perceptual"].item() == pytest.approx(sum(mean(a[i] - b[i]) for i in (1, 6, 11, 18, 25)), rel=1e-4)
    grams = sum(mean(losses.gram(a[i]) - losses.gram(b[i])) for i in (8, 15, 22, "relu5_2"))
    assert terms["style"].item() == pytest.approx(grams, rel=1e-4)


def test_conv1x1_compares_both_branches_by_one_convolution():
    method, terms, _, truth, structure, texture, structures = objective(TINY)
    for name, features, picture in (("structure", structure, structures), ("texture", texture, truth)):
        centre = torch.stack([picture[..., i::8, j::8] for i in (3, 4) for j in (3, 4)]).mean(0)  # bilinear by 8
        expected = (method.network.to_rgb(features).tanh() - (centre * 2 - 1)).abs().mean()
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cae_compares_each_branch_with_its_own_code():
    caes = codes()
    _, terms, _, truth, structure, texture, _ = objective(replace(TINY, constraint="cae"), codes=caes)
    for name, features, cae in (("texture", texture, caes[0]), ("structure", structure, caes[1])):
        assert terms[name].item() == pytest.approx((features - cae.encode(truth)).abs().mean().item(), rel=1e-5)


def test_none_compares_nothing():
    assert set(objective(replace(TINY, constraint="none"))[1]) == {"l1", "perceptual", "style"}


def test_total_is_the_weighted_sum():
    found = {name: value.item() for name, value in trainer(RELEASED).step(photos(), 0).items()}
    weights = {"l1": 1, "perceptual": 0.2, "style": 250, "adversarial": 0.2, "structure": 4, "texture": 4}
    assert RELEASED.weights == weights
    assert found["total"] == pytest.approx(sum(weight * found[name] for name, weight in weights.items()), rel=1e-5)


def test_multipliers_are_those_of_text_and_code():
    for kind, by_constraint in ((Settings, (1, 8)), (medfe_released.Settings, (4, 32))):
        assert tuple(kind(constraint=name).multiplier for name in ("conv1x1", "cae")) == by_constraint
        assert kind(loss_mult=3.0).weights["texture"] == 3


def test_with_every_fix_the_released_code_is_the_described_method():
    fixed = replace(RELEASED, fixes="+".join(FIXES), loss_mult=1.0)
    assert torch.equal(after(fixed, 2), after(TINY, 2))


@pytest.mark.parametrize(("pixel_lr", "first"), [(0.0, 1e-3), (1e-2, 1e-2)])
def test_pixels_have_a_learning_rate_of_their_own(pixel_lr, first):
    method = trainer(replace(TINY, pixel_kimg=0.002, lr=1e-3, pixel_lr=pixel_lr))
    for step, lr in ((0, first), (1, 1e-3)):
        before = [p.clone() for p in method.network.parameters()]
        method.step(photos(seed=step), step)
        moved = max((p - old).abs().max().item() for p, old in zip(method.network.parameters(), before, strict=True))
        if step == 0:  # Adam's first step is the learning rate, whatever the gradient
            assert moved == pytest.approx(lr, rel=1e-3)
        assert {group["lr"] for group in method.adam_g.param_groups} == {lr}


def test_pixels_come_first_and_alone():
    settings = replace(TINY, pixel_kimg=0.004)
    method = trainer(settings)
    judges = copy.deepcopy(method.discriminators.state_dict())
    found = [method.step(photos(seed=step), step) for step in range(3)]
    assert [{name for name, value in each.items() if value == 0} for each in found[:2]] == [
        {"perceptual", "style", "adversarial", "structure", "texture", "d_global", "d_local"}
    ] * 2
    assert all(value != 0 for value in found[2].values())
    assert [list(each) for each in found] == [list(found[0])] * 3  # a history's columns
    other = trainer(replace(settings, style_weight=9.0, constraint="none"))
    for step in range(2):
        other.step(photos(seed=step), step)
    assert all(
        torch.equal(a, b) for a, b in zip(judges.values(), other.discriminators.state_dict().values(), strict=True)
    )
    same = trainer(settings)
    for step in range(2):
        same.step(photos(seed=step), step)
    shared = dict(other.network.named_parameters())
    for name, weight in same.network.named_parameters():
        assert name.startswith("to_rgb") or torch.equal(weight, shared[name]), name


def test_zero_weight_switches_a_term_off():
    settings = replace(TINY, perceptual_weight=0, style_weight=0, adversarial_weight=0, loss_mult=0)
    method = trainer(settings)
    before = copy.deepcopy(method.discriminators.state_dict())
    assert set(method.step(photos(), 0)) == {"l1", "total"}
    assert all(torch.equal(before[name], value) for name, value in method.discriminators.state_dict().items())


# Crops


def test_crops_are_slices():
    x, corners = torch.rand(3, 3, 20, 24), torch.tensor([[0, 0], [4, 7], [12, 16]])
    expected = torch.stack([x[b, :, i : i + 8, j : j + 8] for b, (i, j) in enumerate(corners.tolist())])
    assert torch.equal(medfe.crops(x, corners, 8), expected)


def test_local_discriminator_looks_at_the_hole_or_anywhere():
    holes = torch.zeros(4000, 1, 64, 64, dtype=torch.bool)
    holes[..., 40:44, 50:54] = True
    draws = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    corners = medfe.corners_in_hole(holes, draws, 16)
    assert set(corners[:, 0].tolist()) == set(range(32, 36))
    assert set(corners[:, 1].tolist()) == set(range(42, 46))
    assert corners.float().mean(0).tolist() == pytest.approx([33.5, 43.5], abs=0.1)
    anywhere = medfe_released.corners_anywhere(holes, draws, 16)
    assert (anywhere.min(), anywhere.max()) == (0, 48)
    assert anywhere.float().mean(0).tolist() == pytest.approx([24, 24], abs=1)
    edge = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    edge[..., 63, 63] = True
    assert medfe.corners_in_hole(edge, draws[:1], 16).tolist() == [[48, 48]]  # pushed back inside


# Training


def test_structure_images_come_behind_the_photos():
    x = photos(channels=3)
    found = trainer(TINY).step(torch.cat([x, 255 - x], 1), 0)
    assert found["structure"].item() != found["texture"].item()
    with pytest.raises(BadInput, match=r"photos: constraint conv1x1 needs each photo's structure image behind it"):
        trainer(TINY).step(x, 0)
    assert trainer(replace(TINY, constraint="none")).step(x, 0)["total"].isfinite()


def test_half_precision_step_is_near_the_full_one():
    full, half = (MEDFE(TINY, device="cpu", precision=precision, vgg=narrow_vgg()).step(photos(), 0)
                  for precision in ("fp32", "bf16"))  # fmt: skip
    for name in full:
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.1), name


# Use


# Bad input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: None, "codes: constraint cae compares with two auto-encoders and none were given"),
        (lambda: codes(trained=(False, True)), "codes: the auto-encoder of texture is not trained"),
        (lambda: codes(trained=(True, False)), "codes: the auto-encoder of structure is not trained"),
        (lambda: codes()[::-1], "codes: the auto-encoder of texture is one of structure; give texture first"),
        (lambda: codes(width=2), "codes: .* is of 16 channels, where width 2 needs 8; give it half"),
    ],
)
def test_codes_that_are_missing_untrained_or_of_another_shape(given, words):
    with pytest.raises(BadInput, match=words):
        trainer(replace(TINY, constraint="cae"), codes=given())


def test_an_untrained_auto_encoder_may_be_asked_for_by_name():
    method = trainer(replace(TINY, constraint="cae_reinitialised"), codes=codes(trained=(False, False)))
    assert method.step(photos(), 0)["total"].isfinite()


def test_missing_vgg_weights_are_said_where_a_term_needs_them(monkeypatch):
    def missing(device):
        raise BadInput("vgg16.pt is missing")

    monkeypatch.setattr(pretrained, "vgg16", missing)
    with pytest.raises(BadInput, match=r"vgg16\.pt is missing"):
        trainer(TINY, vgg=None)
    assert trainer(replace(TINY, perceptual_weight=0, style_weight=0), vgg=None).features is None
