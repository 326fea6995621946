"""Relative total variation: the system it solves, and a dense second implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.methods import rtv
from inpaintlib.methods.rtv import MEDFE, Settings, structure

XU = Settings(lam=0.01, eps_s=0.02, iterations=4)  # defaults of the filter's own code


def photos(n=2, high=16, wide=None, seed=0):
    """Blocks of colour with noise on them."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.rand(n, 3, -(-high // 4), -(-(wide or high) // 4), generator=random)
    x = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :high, : wide or high]
    return (x * 0.8 + torch.rand(x.shape, generator=random) * 0.2).double()


def total_variation(x):
    return (x.diff(dim=-1).abs().sum() + x.diff(dim=-2).abs().sum()).item()


def dense(image, settings):
    """The filter written a second time, of one photo (3,H,W): loops, np.convolve and a dense matrix."""
    _, high, wide = image.shape
    x, sigma, n = image.copy(), settings.sigma, high * wide
    for _ in range(settings.iterations):
        reach = (int(5 * sigma + 0.5) | 1) // 2
        kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        kernel /= kernel.sum()
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
        rows = np.apply_along_axis(np.convolve, 2, padded, kernel, "valid")
        smooth = np.apply_along_axis(np.convolve, 1, rows, kernel, "valid")
        matrix = np.eye(n)
        for i in range(high):
            for j in range(wide):
                gx = x[:, i, j + 1] - x[:, i, j] if j + 1 < wide else np.zeros(3)
                gy = x[:, i + 1, j] - x[:, i, j] if i + 1 < high else np.zeros(3)
                u = 1 / max(np.hypot(gx, gy).mean(), settings.eps_s)
                for k, l in ((i, j + 1), (i + 1, j)):  # noqa: E741
                    if k < high and l < wide:
                        w = u / max(np.abs(smooth[:, k, l] - smooth[:, i, j]).mean(), 1e-3)
                        a, b, w = i * wide + j, k * wide + l, settings.lam / 2 * w
                        matrix[[a, b], [a, b]] += w
                        matrix[[a, b], [b, a]] -= w
        x, sigma = np.linalg.solve(matrix, image.reshape(3, n).T).T.reshape(image.shape), max(sigma / 2, 0.5)
    return x


@pytest.mark.parametrize("settings", [MEDFE, XU, Settings(lam=0.1, sigma=1.5, eps_s=0.05, iterations=2)])
@pytest.mark.parametrize(("high", "wide"), [(12, 12), (9, 14), (1, 9), (7, 1), (1, 1)])
def test_agrees_with_the_dense_second_implementation(settings, high, wide):
    x = photos(2, high, wide)
    expected = torch.stack([torch.from_numpy(dense(each.numpy(), settings)) for each in x])
    torch.testing.assert_close(structure(x, settings), expected, atol=1e-9, rtol=0)


def test_a_constant_photo_is_unchanged():
    x = torch.tensor([0.0, 0.3, 1.0]).view(1, 3, 1, 1).expand(1, 3, 20, 20)
    torch.testing.assert_close(structure(x), x, atol=1e-6, rtol=0)


def test_texture_goes_and_the_edge_stays():
    edge = torch.full((1, 3, 48, 48), 0.25, dtype=torch.double)
    edge[..., 24:] = 0.75
    stripes = torch.tensor([0.05, -0.05]).repeat(24)
    got = structure(edge + stripes)
    assert total_variation(got) < 0.15 * total_variation(edge + stripes)
    inside = got[..., 8:-8, 4:-4]  # the blur sees black outside
    assert (inside - edge[..., 8:-8, 4:-4]).abs().max() < 0.05
    assert (inside[..., 20] - inside[..., 19]).min() > 0.45


@pytest.mark.parametrize("settings", [MEDFE, XU])
def test_more_lambda_is_less_variation(settings):
    x = photos(1, 32)
    variations = [total_variation(structure(x, replace(settings, lam=lam))) for lam in (0, 0.003, 0.015, 0.1)]
    assert variations == sorted(variations, reverse=True)
    assert variations[0] == pytest.approx(total_variation(x))


def test_symmetries():
    x, row = photos(2, 20, 24), photos(2, 1, 40)  # of more rows, u prefers a side: its differences are forward ones
    got = structure(x)
    torch.testing.assert_close(structure(x.mT), got.mT, atol=1e-9, rtol=0)
    torch.testing.assert_close(structure(x[:, [2, 0, 1]]), got[:, [2, 0, 1]], atol=1e-9, rtol=0)
    torch.testing.assert_close(structure(row.flip(-1)), structure(row).flip(-1), atol=1e-9, rtol=0)


def test_a_photo_depends_neither_on_its_batch_nor_on_the_threads():
    x = torch.cat([photos(3, 24), torch.full((1, 3, 24, 24), 0.5), torch.zeros(1, 3, 24, 24)]).float()
    got, threads = structure(x), torch.get_num_threads()
    torch.set_num_threads(3)
    assert torch.equal(structure(x), got)
    torch.set_num_threads(threads)
    alone = torch.cat([structure(each[None]) for each in x])
    torch.testing.assert_close(alone, got, atol=1e-6, rtol=0)


def test_blur_is_a_gaussian_that_sees_zero_outside():
    x = torch.ones(1, 1, 41, 41, dtype=torch.double)
    smooth = rtv.blur(x, 3.0)
    torch.testing.assert_close(smooth[..., 7:-7, 7:-7], x[..., 7:-7, 7:-7])
    assert smooth[0, 0, 20, 0].item() == pytest.approx((1 + 1 / np.exp(-(np.arange(-7, 8) ** 2) / 18).sum()) / 2)
    peak = torch.zeros_like(x)
    peak[..., 20, 20] = 1
    smooth = rtv.blur(peak, 3.0)[0, 0, 20]
    assert (smooth[23] / smooth[20]).item() == pytest.approx(np.exp(-0.5))
    assert smooth.nonzero().flatten().tolist() == list(range(13, 28))  # 5 sigma, odd: 15 px


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_type_and_the_photos_themselves_stay(dtype):
    x = photos(1, 16).to(dtype)
    before, got = x.clone(), structure(x)
    assert got.dtype == dtype
    assert 0 <= got.min() <= got.max() <= 1
    assert torch.equal(x, before)


def test_a_solution_stays_between_the_photos_extremes_and_keeps_its_mean():
    image = photos(1, 24)
    right, down = (MEDFE.lam / 2 * w[0, 0] for w in rtv.weights(image, MEDFE.sigma, MEDFE.eps_s))
    x = rtv.solve(image[0], right, down)
    assert (x.amax((-1, -2)) <= image[0].amax((-1, -2))).all()
    assert (x.amin((-1, -2)) >= image[0].amin((-1, -2))).all()
    torch.testing.assert_close(x.mean((-1, -2)), image[0].mean((-1, -2)))  # columns of 1 + L_w sum to one


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lam": -0.1}, "lam: -0.1 will not do; it must be a number from 0"),
        ({"lam": float("nan")}, "lam: nan will not do"),
        ({"sigma": 0}, "sigma: 0 will not do; it must be above 0 px"),
        ({"eps_s": 0.0}, "eps_s: 0.0 will not do; it must be above 0"),
        ({"iterations": 0}, "iterations: 0 will not do; it must be a whole number"),
        ({"iterations": 2.5}, "iterations: 2.5 will not do"),
    ],
)
def test_bad_settings(change, words):
    with pytest.raises(BadInput, match=words):
        Settings(**change)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3, 8, 8), r"photos: have shape \(3, 8, 8\), but must be \(B, 3, H, W\)"),
        (torch.zeros(1, 1, 8, 8), r"photos: have shape \(1, 1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 0), r"photos: have shape \(1, 3, 8, 0\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"photos: are torch.uint8, but must be float in \[0, 1\]; divide"),
        (torch.full((1, 3, 8, 8), 1.5), r"photos: have values from 1.5 to 1.5, but must lie in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), "photos: have values from nan to nan"),
    ],
)
def test_bad_photos(x, words):
    with pytest.raises(BadInput, match=words):
        structure(x)
