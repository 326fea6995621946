"""Poisson blending: the facts that define it, and a second implementation written from its other definition."""

import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import poisson
from inpaintlib.methods.poisson import blend

KINDS = ("centre", "half", "random_pixels", "pattern", "strokes")


def photos(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def dense_blend(photo, source, hole):
    """The squared gradient differences over all pairs of neighbours, as dense least squares; one channel."""
    height, width = hole.shape
    index = {pixel: k for k, pixel in enumerate(zip(*np.nonzero(hole), strict=True))}
    rows, right = [], []
    for i in range(height):
        for j in range(width):
            for other in ((i + 1, j), (i, j + 1)):
                if other[0] >= height or other[1] >= width:
                    continue
                row, value = np.zeros(len(index)), source[other] - source[i, j]
                for pixel, sign in ((other, 1), ((i, j), -1)):
                    if pixel in index:
                        row[index[pixel]] = sign
                    else:
                        value -= sign * photo[pixel]
                rows.append(row)
                right.append(value)
    solved = photo.copy()
    solved[hole] = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    return solved.clip(0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_dense_least_squares(kind):
    y, g, hole = photos(2, 12).double(), photos(2, 12, seed=1).double(), masks.make(kind, 2, 12, 3)
    got = blend(y, g, hole).numpy()
    for b in range(2):
        for c in range(3):
            expected = dense_blend(y[b, c].numpy(), g[b, c].numpy(), hole[b, 0].numpy())
            np.testing.assert_allclose(got[b, c], expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.3, -2.0])
def test_truth_plus_a_constant_returns_the_truth(kind, constant):
    y, hole = photos(3), masks.make(kind, 3, 16, 0)
    torch.testing.assert_close(blend(y, y + constant, hole), y, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_known_pixels_stay_and_the_hole_has_no_say(kind):
    y, g, hole = photos(3), photos(3, seed=1), masks.make(kind, 3, 16, 0)
    filled = blend(y, g, hole)
    known = ~hole.expand_as(y)
    assert torch.equal(filled[known], y[known])
    assert not torch.equal(filled, y)
    assert torch.equal(filled, blend(torch.where(hole, torch.nan, y), g, hole))


def test_a_flat_source_makes_the_hole_harmonic():
    """Laplace's equation: a linear ramp at the hole's edge is continued through it."""
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16).contiguous()
    hole = masks.make("centre", 1, 16, 0)
    torch.testing.assert_close(blend(ramp, torch.zeros_like(ramp), hole), ramp, atol=1e-6, rtol=0)


def test_a_hole_at_the_border_takes_the_only_value_it_touches():
    """A free edge: with zero outside the image, or rows that wrap around, this would not be flat."""
    hole = masks.make("half", 1, 16, 0, side="left")
    photo = torch.where(hole, 0.0, torch.full((1, 3, 16, 16), 0.7))
    torch.testing.assert_close(blend(photo, torch.zeros_like(photo), hole), torch.full_like(photo, 0.7))


def test_clips_once_at_the_end():
    """A source steeper than [0, 1] allows is cut, and only where it leaves the range."""
    y = torch.full((1, 1, 1, 5), 0.5)
    hole = torch.tensor([False, True, True, True, False]).view(1, 1, 1, 5)
    source = torch.tensor([0.0, 1.0, 0.25, -1.0, 0.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(blend(y, source, hole).flatten(), torch.tensor([0.5, 1.0, 0.75, 0.0, 0.5]))


def test_one_factorisation_a_mask(monkeypatch):
    calls, factorise = [], poisson.factorise
    monkeypatch.setattr(poisson, "factorise", lambda hole: calls.append(1) or factorise(hole))
    hole = masks.make("pattern", 2, 16, 0)[[0, 1, 0, 1, 0]]
    y, g = photos(5), photos(5, seed=1)
    together = blend(y, g, hole)
    assert len(calls) == 2
    apart = torch.cat([blend(y[i : i + 1], g[i : i + 1], hole[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)


def test_one_photo_and_shared_masks():
    y, g, hole = photos(2), photos(2, seed=1), masks.make("centre", 2, 16, 0)
    expected = blend(y, g, hole)
    for shared in (hole[:1], hole[0], hole[0, 0]):
        assert torch.equal(blend(y, g, shared), expected)
    single = blend(y[0], g[0], hole[0])
    assert single.shape == (3, 16, 16)
    torch.testing.assert_close(single, expected[0], atol=1e-7, rtol=0)


def test_bad_input():
    y, hole = photos(2), masks.make("centre", 2, 16, 0)
    with pytest.raises(BadInput, match="source has shape"):
        blend(y, y[:, :, :8], hole)
    for photo, source in ((y.mul(255).byte(), y), (y, y.mul(255).byte())):
        with pytest.raises(BadInput, match=r"give floats, the photo's in \[0, 1\]"):
            blend(photo, source, hole)
    with pytest.raises(BadInput, match="all hole"):
        blend(y, y, torch.ones_like(hole))
    with pytest.raises(BadInput, match="no hole"):
        blend(y, y, torch.zeros_like(hole))
    with pytest.raises(BadInput, match="not finite"):
        blend(y, torch.where(hole, torch.inf, y), hole)
