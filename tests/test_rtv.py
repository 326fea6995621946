"""Relative total variation: the system it solves, a dense second implementation, and two solvers that agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.methods import rtv
from inpaintlib.methods.rtv import MEDFE, TOLERANCE, Settings, structure

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


def system(x, settings=MEDFE):
    return [settings.lam / 2 * w for w in rtv.weights(x, settings.sigma, settings.eps_s)]


class TestFilter:
    @pytest.mark.parametrize("settings", [MEDFE, XU, Settings(lam=0.1, sigma=1.5, eps_s=0.05, iterations=2)])
    @pytest.mark.parametrize(("high", "wide"), [(12, 12), (9, 14)])
    def test_both_solvers_agree_with_the_dense_second_implementation(self, settings, high, wide):
        x = photos(2, high, wide)
        expected = torch.stack([torch.from_numpy(dense(each.numpy(), settings)) for each in x])
        torch.testing.assert_close(structure(x, settings, "direct"), expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(structure(x, settings, "cg"), expected, atol=TOLERANCE / 4, rtol=0)

    @pytest.mark.parametrize("solver", ["direct", "cg"])
    def test_a_constant_photo_is_unchanged(self, solver):
        x = torch.tensor([0.0, 0.3, 1.0]).view(1, 3, 1, 1).expand(1, 3, 20, 20)
        torch.testing.assert_close(structure(x, solver=solver), x, atol=1e-6, rtol=0)

    def test_texture_goes_and_the_edge_stays(self):
        edge = torch.full((1, 3, 48, 48), 0.25, dtype=torch.double)
        edge[..., 24:] = 0.75
        stripes = torch.tensor([0.05, -0.05]).repeat(24)
        got = structure(edge + stripes, solver="direct")
        assert total_variation(got) < 0.15 * total_variation(edge + stripes)
        inside = got[..., 8:-8, 4:-4]  # the blur sees black outside
        assert (inside - edge[..., 8:-8, 4:-4]).abs().max() < 0.05
        assert (inside[..., 20] - inside[..., 19]).min() > 0.45

    @pytest.mark.parametrize("settings", [MEDFE, XU])
    def test_more_lambda_is_less_variation(self, settings):
        x = photos(1, 32)
        variations = [total_variation(structure(x, replace(settings, lam=lam))) for lam in (0, 0.003, 0.015, 0.1)]
        assert variations == sorted(variations, reverse=True)
        assert variations[0] == pytest.approx(total_variation(x))

    def test_symmetries(self):
        x = photos(2, 20, 24)
        got = structure(x, solver="direct")
        torch.testing.assert_close(structure(x.mT, solver="direct"), got.mT, atol=1e-9, rtol=0)
        torch.testing.assert_close(structure(x[:, [2, 0, 1]], solver="direct"), got[:, [2, 0, 1]], atol=1e-9, rtol=0)

    def test_mirroring_a_photo_of_one_row(self):
        x = photos(2, 1, 40)  # of more rows, u prefers a side: its differences are forward ones
        got = structure(x, solver="direct")
        torch.testing.assert_close(structure(x.flip(-1), solver="direct"), got.flip(-1), atol=1e-9, rtol=0)

    @pytest.mark.parametrize("solver", ["direct", "cg"])
    def test_a_photo_does_not_depend_on_its_batch_nor_the_result_on_the_run(self, solver):
        x = torch.cat([photos(3, 24), torch.full((1, 3, 24, 24), 0.5), torch.zeros(1, 3, 24, 24)]).float()
        got = structure(x, solver=solver)
        assert torch.equal(got, structure(x, solver=solver))
        alone = torch.cat([structure(each[None], solver=solver) for each in x])
        torch.testing.assert_close(alone, got, atol=1e-6, rtol=0)

    def test_blur_is_a_gaussian_that_sees_zero_outside(self):
        x = torch.ones(1, 1, 41, 41, dtype=torch.double)
        smooth = rtv.blur(x, 3.0)
        torch.testing.assert_close(smooth[..., 7:-7, 7:-7], x[..., 7:-7, 7:-7])
        assert smooth[0, 0, 20, 0].item() == pytest.approx((1 + 1 / np.exp(-(np.arange(-7, 8) ** 2) / 18).sum()) / 2)
        peak = torch.zeros_like(x)
        peak[..., 20, 20] = 1
        smooth = rtv.blur(peak, 3.0)[0, 0, 20]
        assert (smooth[23] / smooth[20]).item() == pytest.approx(np.exp(-0.5))
        assert smooth.nonzero().flatten().tolist() == list(range(13, 28))  # 5 sigma, odd: 15 px

    def test_type_and_the_photos_themselves_stay(self):
        for dtype in (torch.float16, torch.float32, torch.float64):
            x = photos(1, 16).to(dtype)
            before = x.clone()
            for solver in ("auto", "cg", "direct"):
                got = structure(x, solver=solver)
                assert got.dtype == dtype
                assert 0 <= got.min() <= got.max() <= 1
            assert torch.equal(x, before)


class TestSystem:
    @pytest.mark.parametrize("solve", [rtv.solve_direct, rtv.solve_cg])
    @pytest.mark.parametrize("size", [(16, 16), (15, 22), (1, 9), (7, 1), (1, 1)])
    def test_solution_satisfies_the_equation(self, solve, size):
        image = photos(2, *size)
        right, down = system(image)
        x = solve(image, right, down)
        residual = (rtv.apply(x, right, down) - image).square().sum((-1, -2)).sqrt()
        limit = 1e-9 if solve is rtv.solve_direct else 1.01 * rtv.RESIDUAL
        assert (residual <= limit * image.square().sum((-1, -2)).sqrt()).all()

    def test_solution_stays_between_the_photos_extremes(self):
        image = photos(3, 24)
        x = rtv.solve_direct(image, *system(image))
        assert (x.amax((-1, -2)) <= image.amax((-1, -2))).all()
        assert (x.amin((-1, -2)) >= image.amin((-1, -2))).all()
        torch.testing.assert_close(x.mean((-1, -2)), image.mean((-1, -2)))  # columns of 1 + L_w sum to one

    def test_operator_is_the_matrix_of_its_weights(self):
        image = photos(1, 4, 6)
        right, down = system(image)
        units = torch.eye(24, dtype=torch.double).view(24, 1, 4, 6)
        matrix = rtv.apply(units, right, down).flatten(1)
        torch.testing.assert_close(matrix, matrix.T)
        torch.testing.assert_close(matrix.sum(0), torch.ones(24, dtype=torch.double), atol=1e-9, rtol=0)
        torch.testing.assert_close(matrix.diagonal(), rtv.diagonal_of(right, down).flatten())
        assert matrix[0, 1] == -right[0, 0, 0, 0]
        assert matrix[0, 6] == -down[0, 0, 0, 0]

    def test_giving_up_is_said(self, monkeypatch):
        monkeypatch.setattr(rtv, "ITERATIONS", 3)
        with pytest.raises(BadInput, match="the system was not solved after 3 iterations; use a smaller lam"):
            structure(photos(1, 24), solver="cg")


@pytest.mark.parametrize("settings", [MEDFE, XU])
def test_fast_solver_keeps_its_tolerance_on_photographs(settings):
    from PIL import Image

    files = sorted((inpaintlib.ROOT / "data" / "demo" / "test").glob("*.jpg"))[:3]
    rows = [np.asarray(Image.open(file).convert("RGB").resize((96, 72))) for file in files]
    x = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
    error = (structure(x, settings, "cg") - structure(x, settings, "direct")).abs().max().item()
    assert error < TOLERANCE


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


def test_unknown_solver():
    with pytest.raises(BadInput, match="solver: 'jacobi' will not do; it must be auto, cg or direct"):
        structure(photos(1), solver="jacobi")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", [MEDFE, XU])
def test_gpu_agrees_with_the_reference(settings):
    x = photos(8, 128).float()
    error = (structure(x.cuda(), settings).cpu() - structure(x, settings, "direct")).abs().max().item()
    assert error < TOLERANCE
