"""TestSet: what goes in comes out, and the hash knows every pixel, hole and id."""

import hashlib
import json

import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.data.test_set import TestSet


@pytest.fixture
def parts():
    photos = torch.randint(0, 256, (7, 3, 9, 13), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    holes = torch.rand(7, 1, 9, 13, generator=torch.Generator().manual_seed(1)) < 0.3
    return photos, holes, [f"photo {i}.jpg" for i in range(7)]


@pytest.fixture
def test_set(parts):
    return TestSet.make("demo", *parts)


def test_photos_and_masks_come_back(test_set, parts):
    photos, holes, ids = parts
    assert len(test_set) == 7
    assert test_set.ids == tuple(ids)
    assert torch.equal(test_set.photos, photos)
    assert torch.equal(test_set.masks(), holes)
    assert test_set.packed.nbytes == 7 * 15  # 117 px in 15 bytes
    assert torch.equal(test_set.masks([5, 2]), holes[[5, 2]])
    assert torch.equal(test_set.photos01(slice(1, 3)), photos[1:3] / 255)
    assert repr(test_set) == f"TestSet 'demo': 7 photos of 9×13 px from 7 pictures, hash {test_set.short_hash}"


def test_batches_are_in_order_and_complete(test_set, parts):
    photos, holes, _ = parts
    batches = list(test_set.batches(3))
    assert [len(p) for p, _ in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([p for p, _ in batches]), photos.float() / 255)
    assert torch.equal(torch.cat([m for _, m in batches]), holes)
    with pytest.raises(BadInput, match="batch=0 holds no photo"):
        next(test_set.batches(0))


def test_the_set_is_frozen(test_set, parts):
    photos, holes, ids = parts
    before = test_set.hash
    photos.zero_()
    holes.zero_()
    ids[0] = "another"
    for batch, mask in test_set.batches():
        batch.zero_()
        mask.zero_()
    assert TestSet(test_set.name, test_set.photos, test_set.packed, test_set.ids, test_set.pictures).hash == before
    with pytest.raises(AttributeError):
        test_set.name = "other"


def test_hash_is_sha256_of_what_the_docstring_says(test_set, parts):
    photos, holes, ids = parts
    content = json.dumps([[7, 3, 9, 13], ids]).encode() + photos.numpy().tobytes()
    content += b"".join(np.packbits(hole.numpy().ravel()).tobytes() for hole in holes)
    assert test_set.hash == hashlib.sha256(content).hexdigest()


def test_hash_changes_with_a_pixel_a_mask_bit_an_id_or_the_shape_but_not_with_the_name(test_set, parts):
    photos, holes, ids = parts
    assert TestSet.make("another name", photos, holes, ids).hash == test_set.hash
    assert TestSet.make("demo", photos.contiguous(memory_format=torch.channels_last), holes, ids).hash == test_set.hash
    pixel, bit = photos.clone(), holes.clone()
    pixel[6, 2, 8, 12] ^= 1
    bit[6, 0, 8, 12] ^= True
    others = [
        TestSet.make("demo", pixel, holes, ids),
        TestSet.make("demo", photos, bit, ids),
        TestSet.make("demo", photos, holes, ids[:-1] + ["photo 6.JPG"]),
        TestSet.make("demo", photos.view(7, 3, 13, 9), holes.view(7, 1, 13, 9), ids),
        TestSet.make("demo", photos.flip(0), holes.flip(0), ids[::-1]),
    ]
    assert len({test_set.hash, *(other.hash for other in others)}) == 6


def test_pictures_are_the_ids_unless_told_and_do_not_enter_the_hash(test_set, parts):
    assert test_set.pictures == test_set.ids
    cut = TestSet.make("demo", *parts, pictures=list("aabbbcc"))
    assert cut.pictures == tuple("aabbbcc")
    assert cut.hash == test_set.hash
    assert "7 photos of 9×13 px from 3 pictures" in repr(cut)


def test_make_says_what_is_wrong(parts):
    photos, holes, ids = parts
    for given, message in [
        ((photos.float(), holes, ids), r"photos are torch\.float32 \(7, 3, 9, 13\): give uint8"),
        ((photos[:, :1], holes, ids), r"photos are torch\.uint8 \(7, 1, 9, 13\): give"),
        ((photos, masks.centre(7, 9), ids), r"the photos need \(7, 1, 9, 13\)"),
        ((photos, holes, ids[1:]), "6 ids for 7 photos: give one of them for each photo"),
        ((photos, holes, ids, ["a"]), "1 pictures for 7 photos: give one of them for each photo"),
        ((photos, holes, ids[:-1] + ids[:1]), r"the id 'photo 0\.jpg' occurs twice"),
        ((photos, torch.zeros_like(holes), ids), "has no hole"),
    ]:
        with pytest.raises(BadInput, match=message):
            TestSet.make("demo", *given)
