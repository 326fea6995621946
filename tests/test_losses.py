"""Loss terms: closed forms, a second implementation of the total variation, and one pass through VGG."""

import pytest
import torch
from conftest import narrow_vgg

from inpaintlib import BadInput, losses


def hole_of(size, *pixels):
    hole = torch.zeros(1, 1, size, size, dtype=torch.bool)
    for y, x in pixels:
        hole[..., y, x] = True
    return hole


def test_pixel_terms_are_the_error_times_the_fraction_of_the_region():
    truth, hole = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    hole[:, :, :2] = True  # a quarter
    output = torch.where(hole, truth + 0.2, truth - 0.4)
    assert losses.hole_l1(output, truth, hole).item() == pytest.approx(0.2 / 4)
    assert losses.valid_l1(output, truth, hole).item() == pytest.approx(0.4 * 3 / 4)


def test_perceptual_is_the_sum_over_layers_of_mean_differences():
    truth = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)]
    features = [truth[0] + 0.5, truth[1] - 0.25]
    assert losses.perceptual(features, truth).item() == pytest.approx(0.75)


def test_gram_of_constant_features_and_its_symmetry():
    assert losses.gram(torch.full((1, 5, 4, 6), 3.0)) == pytest.approx(9 / 5)  # 9 H W / (C H W)
    features = torch.randn(2, 5, 4, 6)
    expected = torch.einsum("bchw,bdhw->bcd", features, features) / (5 * 4 * 6)
    torch.testing.assert_close(losses.gram(features), expected)


def test_style_of_constant_features():
    a, b = ([torch.full((2, c, s, s), v) for c, s in ((4, 8), (10, 4))] for v in (3.0, 1.0))
    assert losses.style(a, b).item() == pytest.approx((9 - 1) / 4 + (9 - 1) / 10)


def test_style_does_not_see_where_things_are_and_perceptual_does():
    truth = torch.rand(1, 4, 6, 6)
    moved = truth.flatten(2)[..., torch.randperm(36)].view_as(truth)
    assert losses.style([moved], [truth]).item() == pytest.approx(0, abs=1e-6)
    assert losses.perceptual([moved], [truth]).item() > 0.1


def test_total_variation_of_one_bright_hole_pixel_is_its_four_edges():
    photo = torch.zeros(1, 3, 7, 7)
    photo[..., 3, 3] = 0.5
    assert losses.total_variation(photo, hole_of(7, (3, 3))).item() == pytest.approx(4 * 0.5 * 3 / (3 * 49))


def test_total_variation_counts_pairs_inside_the_dilated_hole_only():
    ramp = torch.arange(9.0).expand(1, 3, 9, 9) / 10
    hole = hole_of(9, *((y, x) for y in (3, 4) for x in (3, 4)))  # dilated: 4 x 4, so 4 rows of 3 pairs
    assert losses.total_variation(ramp, hole).item() == pytest.approx(12 * 0.1 / 81)
    outside = ramp.clone()
    outside[..., :2, :] = 7
    assert losses.total_variation(outside, hole).item() == losses.total_variation(ramp, hole).item()
    corner = hole_of(9, (0, 0))  # dilated: 2 x 2
    assert losses.total_variation(ramp, corner).item() == pytest.approx(2 * 0.1 / 81)


def test_total_variation_equals_a_sum_over_pairs():
    photos, hole = torch.rand(2, 3, 6, 6), torch.rand(2, 1, 6, 6) < 0.15
    total = 0.0
    for photo, (each,) in zip(photos, hole, strict=True):
        near = {(y + dy, x + dx) for y, x in each.nonzero().tolist() for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        region = {(y, x) for y, x in near if 0 <= y < 6 and 0 <= x < 6}
        for y, x in region:
            for other in {(y + 1, x), (y, x + 1)} & region:
                total += (photo[:, y, x] - photo[:, other[0], other[1]]).abs().sum().item()
    assert total > 0
    assert losses.total_variation(photos, hole).item() == pytest.approx(total / photos.numel(), rel=1e-5)


def test_terms_are_fp32_and_finite_on_half_precision():
    hole = torch.rand(1, 1, 16, 16) < 0.3
    output, truth = (torch.rand(1, 3, 16, 16, dtype=torch.half) for _ in range(2))
    features, true = ([torch.full((1, 64, 16, 16), value, dtype=torch.half)] for value in (200.0, 100.0))
    for term in (losses.hole_l1(output, truth, hole), losses.total_variation(output, hole),
                 losses.perceptual(features, true), losses.style(features, true)):  # fmt: skip
        assert term.dtype == torch.float
        assert term.isfinite()
    assert losses.style(features, true).item() == pytest.approx(30000 / 64)  # 200^2 256 is no half


def test_features_of_several_batches_are_those_of_each_alone_after_one_pass():
    vgg, passes = narrow_vgg(), []
    vgg[0].register_forward_hook(lambda *_: passes.append(1))
    photos, others = torch.rand(2, 3, 16, 16), torch.rand(3, 3, 16, 16)
    both = losses.Features(vgg)(photos, others)
    assert len(passes) == 1
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    for batch, features in zip((photos, others), both, strict=True):
        for end, found in zip((5, 10, 17), features, strict=True):
            torch.testing.assert_close(found, vgg[:end]((batch - mean) / deviation))


def test_features_take_other_layers_and_scalings():
    vgg, photos = narrow_vgg(), torch.rand(1, 3, 16, 16)
    (unit,) = losses.Features(vgg, (1, 8), "unit")(photos)
    torch.testing.assert_close(unit[0], vgg[:2](photos))
    torch.testing.assert_close(unit[1], vgg[:9](photos))
    (symmetric,) = losses.Features(vgg, (4,), "symmetric")(photos)
    torch.testing.assert_close(symmetric[0], vgg[:5](photos * 2 - 1))
    with pytest.raises(BadInput, match="scaling: 'caffe' will not do; it must be one of imagenet, unit, symmetric"):
        losses.Features(vgg, scaling="caffe")


def test_features_give_gradients_to_photos_and_none_to_vgg():
    features, photos = losses.Features(narrow_vgg()), torch.rand(1, 3, 16, 16, requires_grad=True)
    losses.style(*features(photos, torch.rand(1, 3, 16, 16))).backward()
    assert photos.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in features.parameters())


def test_adversarial_loss_and_its_gradients():
    """-log D has the gradient D - 1 by the logit, -log(1 - D) has D."""
    logits = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.double, requires_grad=True)
    d = torch.sigmoid(logits).detach()
    for real, gradient in ((True, d - 1), (False, d)):
        (got,) = torch.autograd.grad(losses.adversarial(logits, real) * len(logits), logits)
        torch.testing.assert_close(got, gradient, atol=1e-6, rtol=0)
    assert losses.adversarial(torch.zeros(3), True).item() == pytest.approx(0.6931472)
