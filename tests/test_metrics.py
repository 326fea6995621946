"""Every metric against a closed form or a second implementation, and what ``evaluate`` refuses."""

import json
import math
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pytorch_fid.fid_score import calculate_frechet_distance
from skimage.metrics import structural_similarity
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.transforms.functional import pil_to_tensor

import inpaintlib
from inpaintlib import ROOT, BadInput, files, metrics, pretrained
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet

SIZE = 64


@pytest.fixture(scope="module")
def test_set() -> TestSet:
    """12 demo photos, half of them with a centre hole and half with a random block: holes of several sizes."""
    paths = sorted((ROOT / "data/demo/test").glob("*.jpg"))[:12]
    photos = torch.stack([pil_to_tensor(Image.open(p).convert("RGB").resize((SIZE, SIZE))) for p in paths])
    holes = torch.cat([masks.centre(6, SIZE), masks.random_block(6, SIZE, seed=1)])
    return TestSet.make("demo", photos, holes, [p.stem for p in paths])


@pytest.fixture(autouse=True)
def own_features(tmp_path, monkeypatch):
    (tmp_path / "weights").symlink_to(inpaintlib.DATA / "weights")
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path)
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    monkeypatch.setattr(pretrained, "classifier", lambda: None)


def some(test_set, n: int, pictures=None) -> TestSet:
    """Its first n photos."""
    return TestSet.make("", test_set.photos[:n], test_set.masks()[:n], test_set.ids[:n], pictures)


def truth_and_mask(test_set) -> tuple[torch.Tensor, torch.Tensor]:
    return test_set.photos / 255, test_set.masks()


def mean_fill(photos, mask):
    known = ~mask
    return torch.where(mask, (photos * known).sum((2, 3), True) / known.sum((2, 3), True), photos)


def perfect(photos, mask):
    return photos


def mid_grey_fill(photos, mask):
    return torch.where(mask, 0.5, photos)


def shifted(by):
    return lambda photos, mask: torch.where(mask, photos + by, photos)


# Errors


def test_constant_shift_has_its_closed_form(test_set):
    truth, mask = torch.full((12, 3, SIZE, SIZE), 0.4), test_set.masks()
    prediction = torch.where(mask, truth + 0.2, truth)
    ratio = masks.hole_ratio(mask)
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(metrics.l1(prediction, truth, mask), torch.full((12,), 0.2).double(), **close)
    torch.testing.assert_close(metrics.l1(prediction, truth), 0.2 * ratio, **close)
    torch.testing.assert_close(metrics.mse(prediction, truth), 0.04 * ratio, **close)
    expected = torch.full((12,), 20 * math.log10(5)).double()
    torch.testing.assert_close(metrics.psnr(prediction, truth, mask), expected, **close)


def test_composite_is_the_hole_diluted(test_set):
    """Known pixels untouched: mse = r mse_hole, so psnr = psnr_hole - 10 log10(r)."""
    row = metrics.evaluate(mean_fill, test_set, networks=()).per_image
    np.testing.assert_allclose(row.mse, row.hole_ratio * row.mse_hole, rtol=1e-6)
    np.testing.assert_allclose(row.psnr, row.psnr_hole - 10 * np.log10(row.hole_ratio), atol=1e-5)
    np.testing.assert_allclose(row.l1, row.hole_ratio * row.l1_hole, rtol=1e-6)
    assert row.hole_ratio.nunique() > 3


def test_psnr_pooled_is_torchmetrics_and_psnr_the_mean_of_photos(test_set):
    result = metrics.evaluate(mean_fill, test_set, networks=(), batch=5)
    truth, composites = test_set.photos / 255, result.composites / 255
    pooled = PeakSignalNoiseRatio(data_range=1.0)
    pooled.update(composites, truth)
    assert result["psnr_pooled"] == pytest.approx(pooled.compute().item(), abs=1e-4)
    single = [PeakSignalNoiseRatio(data_range=1.0)(c, t).item() for c, t in zip(composites, truth, strict=True)]
    assert result["psnr"] == pytest.approx(np.mean(single), abs=1e-4)
    assert result["psnr"] > result["psnr_pooled"] + 0.1
    hole = test_set.masks().expand_as(truth)
    in_hole = PeakSignalNoiseRatio(data_range=1.0)(composites[hole], truth[hole]).item()
    assert result["psnr_hole_pooled"] == pytest.approx(in_hole, abs=1e-4)


def test_a_perfect_photo_has_a_finite_psnr_above_every_other(test_set):
    result = metrics.evaluate(perfect, test_set, networks=())
    truth = test_set.photos / 255
    one_level = truth.clone()
    one_level[:, 0, 32, 32] = (test_set.photos[:, 0, 32, 32].int() ^ 1) / 255
    expected = 20 * math.log10(255) + 10 * math.log10(3 * SIZE**2)
    assert result["psnr"] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(metrics.psnr(one_level, truth), expected, atol=1e-3)
    assert result["psnr_pooled"] == pytest.approx(expected + 10 * math.log10(12), abs=1e-6)
    assert result["l1"] == result["l1_hole"] == 0
    json.dumps(result, allow_nan=False)


def test_ssim_agrees_with_torchmetrics_and_skimage(test_set):
    truth, mask = truth_and_mask(test_set)
    prediction = mean_fill(truth, mask)
    ours = metrics.ssim(prediction, truth)
    for i in range(4):
        theirs = structural_similarity_index_measure(prediction[i : i + 1], truth[i : i + 1], data_range=1.0)
        assert ours[i].item() == pytest.approx(theirs.item(), abs=1e-6)
        pair, gaussian = (prediction[i].double().numpy(), truth[i].double().numpy()), {"sigma": 1.5, "full": True}
        gaussian |= {"gaussian_weights": True, "use_sample_covariance": False}
        _, similarity = structural_similarity(*pair, channel_axis=0, data_range=1.0, **gaussian)
        in_hole = similarity[:, mask[i, 0].numpy()].mean()  # the hole is far from the frame, where paddings differ
        assert metrics.ssim(prediction, truth, mask)[i].item() == pytest.approx(in_hole, abs=1e-4)
    np.testing.assert_allclose(metrics.ssim(truth, truth), 1, atol=1e-6)


# Sharpness and seam


def test_sharpness_is_1_for_the_truth_0_for_a_flat_fill_and_linear_in_contrast(test_set):
    truth, mask = truth_and_mask(test_set)
    flat = torch.where(mask, 0.5, truth)
    np.testing.assert_allclose(metrics.sharpness(truth, truth, mask), 1)
    np.testing.assert_allclose(metrics.sharpness(flat, truth, mask), 0, atol=1e-6)
    half = torch.where(mask, 0.5 * truth + 0.25, truth)
    np.testing.assert_allclose(metrics.sharpness(half, truth, mask), 0.5, rtol=1e-4)
    assert metrics.sharpness(truth, flat, masks.random_pixels(12, SIZE, 0, fraction=0.1)).isnan().any()


def test_laplacian_of_a_parabola_over_the_inner_hole():
    """x^2 has the second difference 2 everywhere; an inner hole of 32 x 32 pixels is 30 x 30."""
    x = torch.arange(SIZE, dtype=torch.float64)
    parabola = (x.square() / SIZE**2).expand(1, 3, SIZE, SIZE)
    expected = 2 / SIZE**2 * 3 * 30 * 30
    assert metrics.laplacian(parabola, masks.centre(1, SIZE)).item() == pytest.approx(expected)


def test_seam_is_0_for_the_truth_and_the_step_of_a_constant_offset(test_set):
    truth, mask = truth_and_mask(test_set)
    assert (metrics.seam(truth, truth, mask) == 0).all()
    grey = torch.full_like(truth, 0.4)
    np.testing.assert_allclose(metrics.seam(torch.where(mask, 0.5, grey), grey, mask), 0.1, rtol=1e-5)
    smooth = mean_fill(truth, mask)
    ramp = torch.linspace(0, 1, SIZE).expand(12, 3, SIZE, SIZE)
    assert (metrics.seam(grey, ramp, mask) < 0).all()
    assert (metrics.seam(smooth, truth, mask) > 0).all()


def test_seam_counts_each_pair_across_the_edge_once():
    """One hole pixel, 0.3 above its left neighbour and 0.1 above the three others: the mean of four pairs."""
    truth, mask = torch.full((1, 3, 5, 5), 0.5), torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    mask[..., 2, 2] = True
    truth[..., 2, 1] = 0.3
    filled = torch.where(mask, 0.6, truth)
    assert metrics.seam(filled, truth, mask).item() == pytest.approx((0.3 + 3 * 0.1) / 4 - 0.2 / 4)


# FID and KID


def whitened(n: int, d: int) -> torch.Tensor:
    """Features (n, d) whose sample mean is 0 and whose sample covariance is the identity, exactly."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(x - x.mean(0)).Q * (n - 1) ** 0.5


@pytest.mark.parametrize("n", [50, 12])  # more photos than features, and fewer than twice as many
def test_fid_of_gaussians_has_its_closed_form(n):
    """Diagonal covariances: |mean1 - mean2|^2 + sum (deviation1 - deviation2)^2."""
    x, mean, deviation = whitened(n, 8), torch.arange(8.0), torch.linspace(0.5, 3, 8)
    expected = (mean.square().sum() + (deviation - 1).square().sum()).item()
    assert metrics.fid(x, x * deviation + mean) == pytest.approx(expected, rel=1e-6)
    assert metrics.fid(x, x) == pytest.approx(0, abs=1e-9)


def test_fid_agrees_with_pytorch_fid_also_where_the_covariance_is_singular():
    generator = torch.Generator().manual_seed(1)
    for n, d, tolerance in ((200, 16, 1e-8), (20, 32, 1e-4)):
        x = torch.rand(n, d, generator=generator, dtype=torch.float64)
        y = torch.rand(n + 5, d, generator=generator, dtype=torch.float64).square()
        moments = [m for f in (x, y) for m in (f.mean(0).numpy(), np.cov(f.numpy(), rowvar=False))]
        assert metrics.fid(x, y) == pytest.approx(calculate_frechet_distance(*moments), rel=tolerance)


def test_kid_agrees_with_torchmetrics():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(60, 24, generator=generator), torch.rand(60, 24, generator=generator).square()
    theirs = KernelInceptionDistance(feature=AsFeatures(24), subsets=1, subset_size=60)
    theirs.update(x.view(60, 3, 4, 2), real=True)
    theirs.update(y.view(60, 3, 4, 2), real=False)
    expected = theirs.compute()[0].item()
    assert expected > 0.01
    assert metrics.kid(x, y) == pytest.approx(expected, rel=1e-3)


def test_kid_is_unbiased_where_fid_is_not():
    """Two samples of one distribution: KID scatters about 0, FID is positive and grows as n falls."""
    generator = torch.Generator().manual_seed(3)
    kids, fids = [], {20: [], 200: []}
    for _ in range(40):
        for n, values in fids.items():
            x, y = torch.randn(2, n, 8, generator=generator)
            values.append(metrics.fid(x, y))
            if n == 20:
                kids.append(metrics.kid(x, y))
    assert abs(np.mean(kids)) < 3 * np.std(kids) / 40**0.5
    assert np.mean(fids[20]) > 5 * np.mean(fids[200]) > 0


def test_kid_by_hand():
    """k(x, y) = (x y + 1)^3 of the numbers 0, 1 and 2, 3."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert metrics.kid(x, y) == pytest.approx(1 + 7**3 - 2 * (1 + 1 + 3**3 + 4**3) / 4)


def test_paired_kid_leaves_each_photos_pair_with_itself_out():
    generator = torch.Generator().manual_seed(4)
    x, noise = torch.rand(2, 30, 5, generator=generator, dtype=torch.float64)
    assert metrics.kid(x, x, paired=True) == 0
    assert metrics.kid(x, x) < 0
    y, others = x + 0.1 * noise, ~torch.eye(30, dtype=torch.bool)
    within = (metrics.kernel(x, x) + metrics.kernel(y, y))[others].mean()
    expected = (within - 2 * metrics.kernel(x, y)[others].mean()).item()
    assert metrics.kid(x, y, paired=True) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(BadInput, match="paired sets have as many photos each, not 30 and 29"):
        metrics.kid(x, y[1:], paired=True)


def test_paired_kid_is_unbiased():
    """Pairs that are alike, x and x + independent noise: the MMD of d = 1 is known from the moments of both."""
    generator, kids = torch.Generator().manual_seed(5), []
    for _ in range(300):
        x = torch.randn(20, 1, generator=generator, dtype=torch.float64)
        y = x + torch.randn(20, 1, generator=generator, dtype=torch.float64)
        kids.append(metrics.kid(x, y, paired=True))
    # E k = 1 + 3 m1^2 + 3 m2^2 + m3^2 with the moments' differences: m1 = m3 = 0, m2 = 2 - 1
    assert abs(np.mean(kids) - 3) < 3 * np.std(kids) / 300**0.5


class AsFeatures(nn.Module):
    """Pixels are the features: torchmetrics' metrics without a network."""

    def __init__(self, d: int):
        super().__init__()
        self.num_features = d

    def forward(self, photos):
        return photos.flatten(1)


class MeanColour(nn.Module):
    """Photos to their mean colour (B, 3): a network whose FID is known."""

    calls = 0

    def forward(self, photos):
        MeanColour.calls += len(photos)
        return photos.mean((2, 3))


def test_fid_of_a_shifted_hole_through_a_network_that_is_known(test_set, monkeypatch):
    """Mean colours move by shift x hole_ratio in the composite and by the shift in the hole; covariances stay."""
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    centre = TestSet.make("centre", test_set.photos.clamp(50, 200), masks.centre(12, SIZE), test_set.ids)
    shift = 25 / 255
    result = metrics.evaluate(shifted(shift), centre, networks=("inception",))
    assert result["fid"] == pytest.approx(3 * (shift / 4) ** 2, rel=1e-3)
    assert result["fid_hole"] == pytest.approx(3 * shift**2, rel=1e-3)
    perfectly = metrics.evaluate(perfect, centre, networks=("inception",))
    assert perfectly["fid"] == pytest.approx(0, abs=1e-6)
    assert perfectly["kid"] == perfectly["kid_hole"] == 0


def test_inception_score_has_its_closed_forms():
    assert metrics.inception_score(torch.randn(1, 7).expand(5, 7)) == pytest.approx(1)  # all photos alike
    assert metrics.inception_score(100.0 * torch.eye(4).repeat(3, 1)) == pytest.approx(4)  # four classes, sure of each
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    by_hand = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert metrics.inception_score(torch.tensor(p).log() + 3) == pytest.approx(by_hand)


def test_inception_score_is_there_where_the_classifier_is(test_set, monkeypatch):
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    assert "inception_score" not in metrics.evaluate(mid_grey_fill, test_set, networks=("inception",))
    layer = torch.nn.Linear(3, 5).requires_grad_(False)
    monkeypatch.setattr(pretrained, "classifier", lambda: layer)
    result = metrics.evaluate(mid_grey_fill, test_set, networks=("inception",))
    expected = metrics.inception_score(layer((result.composites / 255).mean((2, 3))))
    assert result["inception_score"] == pytest.approx(expected, rel=1e-5)


def test_features_of_the_truth_are_computed_once(test_set, monkeypatch):
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    for calls in (2 * 24, 24, 24):  # composites and truth, each whole and hole; then the composites alone
        MeanColour.calls = 0
        result = metrics.evaluate(mean_fill, test_set, networks=("inception",), batch=5)
        assert MeanColour.calls == calls
    (inpaintlib.DATA / "prepared" / "features" / f"{test_set.hash}.pt").write_bytes(b"half a fi")
    assert metrics.evaluate(mean_fill, test_set, networks=("inception",))["fid"] == pytest.approx(result["fid"])


def test_fid_and_kid_of_photos_agree_with_pytorch_fid_and_torchmetrics(test_set):
    """FID does not change when features are rotated: pytorch-fid's own function, which needs a matrix root, measures
    them in the 12 directions that the 12 photos span."""
    try:
        network = pretrained.inception()
    except BadInput as error:
        pytest.skip(f"without network and weights: {error}")
    test_set = some(test_set, 6)
    result = metrics.evaluate(mean_fill, test_set)
    truth, composites = test_set.photos / 255, result.composites / 255
    with torch.no_grad():
        features = network(torch.cat([truth, composites])).double()
    rotated = (features @ torch.linalg.qr(features.T).Q).chunk(2)
    moments = [m for f in rotated for m in (f.mean(0).numpy(), np.cov(f.numpy(), rowvar=False))]
    assert result["fid"] == pytest.approx(calculate_frechet_distance(*moments), rel=1e-3)
    kid = KernelInceptionDistance(feature=AsFeatures(2048), subsets=1, subset_size=6)
    for part, real in zip(features.chunk(2), (True, False), strict=True):
        kid.update(part.view(6, 2, 32, 32), real=real)
    assert metrics.kid(*result.features[""]) == pytest.approx(kid.compute()[0].item(), rel=1e-3)
    assert result["kid"] == metrics.kid(*result.features[""], paired=True)
    assert result["fid_hole"] > result["fid"] > 0
    assert result["lpips"] == pytest.approx(pretrained.lpips()(composites, truth).mean().item(), rel=1e-4)


def test_hole_crops_are_the_bounding_squares():
    photos = torch.rand(3, 3, 40, 60)
    mask = torch.zeros(3, 1, 40, 60, dtype=torch.bool)
    mask[0, 0, 10:20, 20:26] = True  # 10 x 6 pixels, so the square reaches 2 pixels left and right
    mask[1, 0, 0:4, 50:60] = True  # in the corner: moved inside
    mask[2, 0, 5, 0:60] = True  # longer than the photo is high
    crops = metrics.hole_crops(photos, mask, size=10)
    assert torch.equal(crops[0], photos[0, :, 10:20, 18:28])
    assert torch.equal(crops[1], photos[1, :, 0:10, 50:60])
    whole = nn.functional.interpolate(photos[2:, :, :, 10:50], size=(10, 10), mode="bilinear", align_corners=False)
    assert torch.equal(crops[2:], whole)


# Evaluate


def test_metrics_have_the_names_of_the_format(test_set, monkeypatch):
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    monkeypatch.setattr(pretrained, "lpips", lambda net, device: lambda a, b: (a - b).abs().mean((1, 2, 3)))
    result = metrics.evaluate(mean_fill, test_set)
    names = """psnr psnr_hole psnr_pooled psnr_hole_pooled ssim ssim_hole l1 l1_hole lpips fid fid_hole kid kid_hole
        sharpness seam images_per_second seconds peak_memory_gb test_set n_photos n_pictures hole_ratio"""
    assert set(result) == set(names.split())
    assert result["test_set"] == test_set.hash
    assert result["n_photos"] == len(result.per_image) == len(result.composites) == 12
    assert list(result.per_image.id) == list(test_set.ids)
    assert result.composites.dtype == torch.uint8
    json.dumps(result, allow_nan=False)


def test_photos_are_quantised_before_they_are_measured(test_set):
    """A third of a grey level is rounded away; known pixels come back as they are stored."""
    grey = TestSet.make("grey", torch.full_like(test_set.photos, 100), test_set.masks(), test_set.ids)
    result = metrics.evaluate(shifted(0.33 / 255), grey, networks=())
    assert result["l1_hole"] == 0
    filled = metrics.evaluate(mean_fill, test_set, networks=())
    known = ~test_set.masks().expand_as(test_set.photos)
    assert torch.equal(filled.composites[known], test_set.photos[known])


def test_batches_do_not_change_the_numbers(test_set):
    one, many = (metrics.evaluate(mean_fill, test_set, networks=(), batch=b) for b in (12, 5))
    pd.testing.assert_frame_equal(one.per_image, many.per_image, atol=1e-6)


def test_an_inpainter_may_write_into_its_input_and_search_with_gradients(test_set):
    def in_place(photos, mask):
        photos[mask.expand_as(photos)] = 0.5
        return photos

    def search(photos, mask):
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            level = torch.zeros(1, requires_grad=True)
            (gradient,) = torch.autograd.grad((level - 0.5).square().sum(), level)
        return torch.where(mask, -gradient / 2, photos)

    expected = metrics.evaluate(mid_grey_fill, test_set, networks=())["l1_hole"]
    for inpainter in (in_place, search):
        found = metrics.evaluate(inpainter, test_set, networks=())
        assert found["l1_hole"] == pytest.approx(expected, abs=1e-3)
    assert expected > 0.05


@pytest.mark.parametrize(
    ("inpainter", "message"),
    [
        (lambda p, m: (p * 0.99).where(~m, p), r"changed known pixels of photo \S+ by up to 0\.0"),
        (lambda p, m: p[..., :32], r"returned shape \(12, 3, 64, 32\): return .* \(12, 3, 64, 64\)"),
        (lambda p, m: None, "returned NoneType"),
        (lambda p, m: p.where(~m, torch.nan), "not finite for photo "),
        (lambda p, m: p.where(~m, 2.0), r"values from 0 to 2: photos are in \[0, 1\], clamp them"),
        (lambda p, m: 2 * p - 1, r"values from -1 to 1: photos are in \[0, 1\]"),
    ],
    ids=["touches known pixels", "another shape", "nothing", "not finite", "too bright", "another range"],
)
def test_an_inpainter_that_breaks_the_contract_is_refused(test_set, inpainter, message):
    with pytest.raises(BadInput, match=message):
        metrics.evaluate(inpainter, test_set, networks=())


def test_the_photo_at_fault_is_named(test_set):
    def one_wrong(photos, mask):
        photos[7, :, 0, 0] = 1 - photos[7, :, 0, 0].round()
        return photos

    with pytest.raises(BadInput, match=f"photo {test_set.ids[7]} by"):
        metrics.evaluate(one_wrong, test_set, networks=())


def test_score_measures_what_evaluate_measures(test_set):
    whole = metrics.evaluate(mean_fill, test_set, networks=())
    scores = metrics.score(whole.composites, test_set, networks=(), batch=5)
    assert set(whole) - set(scores) == {"images_per_second", "seconds", "peak_memory_gb"}
    assert {name: scores[name] for name in scores} == {name: pytest.approx(whole[name], rel=1e-9) for name in scores}


def test_unknown_networks_and_single_photos_are_refused(test_set, monkeypatch):
    with pytest.raises(BadInput, match=r"networks=\['vgg'\] cannot measure: choose from lpips, inception"):
        metrics.evaluate(mean_fill, test_set, networks=("vgg",))
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    with pytest.raises(BadInput, match="at least 2 photos on each side, not 1 and 1"):
        metrics.evaluate(mean_fill, some(test_set, 1), networks=("inception",))


# Trivial fills


@pytest.fixture
def few(test_set) -> TestSet:
    """Four photos of two pictures."""
    return some(test_set, 4, pictures=["a", "a", "b", "b"])


def counted(monkeypatch) -> list:
    calls, evaluate = [], metrics.evaluate
    monkeypatch.setattr(metrics, "evaluate", lambda *args, **more: calls.append(args) or evaluate(*args, **more))
    return calls


def test_trivial_fills_are_what_evaluate_says_of_them(few):
    found = metrics.measure_trivial_fills(few)
    assert list(found) == ["mid-grey", "mean colour", "membrane", "Telea"]
    expected = metrics.evaluate(mean_fill, few, networks=())
    for name in ("psnr_hole", "psnr_hole_pooled", "ssim", "seam", "n_photos", "n_pictures", "test_set"):
        assert found["mean colour"][name] == pytest.approx(expected[name], rel=1e-4)
    assert not {"seconds", "images_per_second", "peak_memory_gb"} & set(found["mean colour"])
    rows = found["mean colour"].per_image
    pd.testing.assert_frame_equal(rows, expected.per_image, rtol=1e-4, check_dtype=False)
    assert list(rows.picture) == list("aabb")


def test_trivial_fills_are_measured_once_and_written_to_the_same_bytes(few, monkeypatch):
    calls = counted(monkeypatch)
    first = metrics.measure_trivial_fills(few)
    folder = inpaintlib.RESULTS / "trivial_fills" / few.hash[:16]
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(content) == ["metrics.json", "per_image.csv.gz"]
    assert metrics.measure_trivial_fills(few) == first
    assert len(calls) == 4
    for damage in (b"half a", b"[1]", b'{"mid-grey": 1}'):
        (folder / "metrics.json").write_bytes(damage)
        assert metrics.measure_trivial_fills(few) == first
    assert len(calls) == 16
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    table = pd.read_csv(folder / "per_image.csv.gz")
    assert list(table.columns[:3]) == ["arm", "id", "picture"]
    assert len(table) == 16


def test_kept_trivial_fills_do_not_wait_for_who_measures_them_with_more_networks(few):
    found = [metrics.measure_trivial_fills(few)]
    with files.lock(inpaintlib.RESULTS / "trivial_fills" / few.hash[:16]):
        reader = threading.Thread(target=lambda: found.append(metrics.measure_trivial_fills(few)), daemon=True)
        reader.start()
        reader.join(30)
        assert found[1:] == found[:1]


def test_trivial_fills_are_measured_again_for_more_networks_or_other_pictures(few, monkeypatch):
    monkeypatch.setattr(pretrained, "inception", lambda device: MeanColour())
    metrics.measure_trivial_fills(few)
    calls = counted(monkeypatch)
    assert metrics.measure_trivial_fills(few, ["inception"])["Telea"]["fid"] > 0
    assert len(calls) == 4
    assert "kid" in metrics.measure_trivial_fills(few)["Telea"]  # fewer networks: what is there is read
    assert len(calls) == 4
    others = metrics.measure_trivial_fills(some(few, 4, pictures=list("aabc")))
    assert len(calls) == 8
    assert others["Telea"]["n_pictures"] == 3


def test_networks_measure_in_fp32_not_tf32():
    assert not torch.backends.cudnn.allow_tf32
