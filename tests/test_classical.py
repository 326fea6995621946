"""Classical fills: what each restores, and that none of them sees the hole or touches what is known."""

import cv2
import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import classical

every_fill = pytest.mark.parametrize("fill", classical.FILLS.values(), ids=classical.FILLS)


def ramps(size=24):
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.stack([y, x, (x + y) / 2])[None]


@every_fill
def test_known_pixels_are_kept_and_the_hole_is_not_looked_at(fill):
    photos, mask = torch.rand(2, 3, 24, 24), masks.irregular(2, 24, 0, (0.1, 0.2))
    filled = fill(photos, mask)
    assert filled.dtype == photos.dtype
    assert torch.equal(filled[~mask.expand_as(photos)], photos[~mask.expand_as(photos)])
    assert torch.equal(filled, fill(torch.where(mask, 0.7, photos), mask))
    assert 0 <= filled.min() <= filled.max() <= 1


@pytest.mark.parametrize("fill", [fill for fill in classical.FILLS.values() if fill is not classical.grey])
def test_an_even_colour_is_restored_up_to_the_border(fill):
    photos = torch.tensor([51, 102, 204]).view(1, 3, 1, 1).expand(4, 3, 24, 24) / 255
    mask = masks.half(4, 24, 0)
    error = (fill(torch.where(mask, 0.0, photos), mask) - photos).abs().max().item()
    assert error < (4.5 / 255 if fill is classical.telea else 1e-5)  # OpenCV's Telea drifts by some levels of 255


def test_biharmonic_continues_a_ramp_exactly():
    photos, mask = ramps(), masks.centre(1, 24, hole=10)
    torch.testing.assert_close(classical.biharmonic(torch.where(mask, 0.0, photos), mask), photos, atol=1e-4, rtol=0)


def test_grey_is_one_half_and_mean_colour_the_mean_of_the_known_pixels():
    photos, mask = torch.rand(3, 3, 24, 24), masks.random_block(3, 24, 0)
    grey, mean = classical.grey(photos, mask), classical.mean_colour(photos, mask)
    for i in range(3):
        hole = mask[i, 0]
        assert (grey[i][:, hole] == 0.5).all()
        expected = photos[i][:, ~hole].mean(1, keepdim=True)
        torch.testing.assert_close(mean[i][:, hole], expected.expand(-1, hole.sum()))


def test_a_membrane_continues_a_ramp_and_each_of_its_pixels_is_the_mean_of_its_neighbours():
    photos, mask = torch.cat([ramps(), torch.rand(1, 3, 24, 24)]), masks.centre(2, 24)
    filled = classical.membrane(photos, mask)
    torch.testing.assert_close(filled[0], photos[0], atol=1e-6, rtol=0)
    neighbours = sum(filled.roll(shift, axis) for axis in (2, 3) for shift in (1, -1)) / 4
    hole = mask.expand_as(photos)  # the centre: no neighbour is outside
    torch.testing.assert_close(filled[hole], neighbours[hole], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("fill", "method"), [(classical.telea, cv2.INPAINT_TELEA), (classical.navier_stokes, cv2.INPAINT_NS)]
)
def test_opencv_fills_are_opencvs_whatever_the_order_of_channels(fill, method):
    photos, mask = ramps() * 0.7 + torch.rand(1, 3, 24, 24) * 0.3, masks.centre(1, 24)
    known = photos[..., ~mask[0, 0]].mean(-1)[..., None, None]  # OpenCV looks into the hole a little: nothing to see
    eight_bit = (torch.where(mask, known, photos) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    bgr = cv2.inpaint(np.ascontiguousarray(eight_bit[..., ::-1]), mask[0, 0].byte().numpy(), 5, method)
    ours = (fill(photos, mask, radius=5)[0].permute(1, 2, 0) * 255).numpy()
    hole = mask[0, 0].numpy()
    np.testing.assert_allclose(ours[hole], bgr[..., ::-1][hole], atol=1e-3)
    assert not torch.equal(fill(photos, mask, radius=5), fill(photos, mask, radius=1))


def test_bad_input_is_one_clear_sentence():
    photos = torch.rand(1, 3, 24, 24)
    with pytest.raises(BadInput, match=r"mask has shape \(1, 1, 12, 12\)"):
        classical.telea(photos, masks.centre(1, 12))
    with pytest.raises(BadInput, match="radius: 0 px will not do; it must be at least 1"):
        classical.navier_stokes(photos, masks.centre(1, 24), radius=0)
