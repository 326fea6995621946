"""The frozen photos and masks on which every method of a study is measured, and one hash that says which they are.

Two tables with the same hash were measured on the same pixels with the same holes; a table with another hash was not.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inpaintlib import BadInput
from inpaintlib.data import masks as masks_of

Which = slice | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class TestSet:
    """Frozen photos with their masks: build it with `TestSet.make`."""

    __test__ = False  # its name, to pytest, is that of a test class

    name: str
    photos: Tensor  # uint8 (n, 3, H, W)
    packed: np.ndarray  # the masks, eight pixels to a byte: uint8 (n, ceil(H·W / 8)), 1 = hole
    ids: tuple[str, ...]  # of the photos, each its own
    pictures: tuple[str, ...]  # that each photo was cut from: photos of one picture are no independent samples

    @classmethod
    def make(
        cls, name: str, photos: Tensor, masks: Tensor, ids: Sequence[str], pictures: Sequence[str] | None = None
    ) -> "TestSet":
        """Copies uint8 photos (n, 3, H, W) and bool masks (n, 1, H, W), True = hole, to the CPU and freezes them.

        Without ``pictures`` each photo is a picture of its own, named by its id. Raises BadInput for photos, masks, ids
        or pictures of another kind, shape or number, and for an id that occurs twice.
        """
        if photos.dtype != torch.uint8 or photos.ndim != 4 or photos.shape[1] != 3 or not len(photos):
            raise BadInput(f"photos are {photos.dtype} {tuple(photos.shape)}: give uint8 (n, 3, H, W) with n >= 1.")
        masks_of.check(masks, photos)
        ids = tuple(str(i) for i in ids)
        pictures = ids if pictures is None else tuple(str(picture) for picture in pictures)
        for what, names in (("ids", ids), ("pictures", pictures)):
            if len(names) != len(photos):
                raise BadInput(f"{len(names)} {what} for {len(photos)} photos: give one of them for each photo.")
        if len(set(ids)) < len(ids):
            raise BadInput(f"the id {max(ids, key=ids.count)!r} occurs twice: give each photo its own.")
        packed = np.packbits(masks.cpu().numpy().reshape(len(photos), -1), axis=1)
        return cls(name, photos.cpu().clone(memory_format=torch.contiguous_format), packed, ids, pictures)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        height, width = self.photos.shape[-2:]
        count = f"{len(self)} photos of {height}×{width} px from {len(set(self.pictures))} pictures"
        return f"TestSet {self.name!r}: {count}, hash {self.short_hash}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hexadecimal) over shape, ids, photos and masks; name and pictures do not enter."""
        digest = hashlib.sha256(json.dumps([list(self.photos.shape), list(self.ids)]).encode())
        digest.update(self.photos.numpy())
        digest.update(np.ascontiguousarray(self.packed))
        return digest.hexdigest()

    @property
    def short_hash(self) -> str:
        """The first 8 digits of the hash, for tables."""
        return self.hash[:8]

    def masks(self, which: Which = slice(None)) -> Tensor:
        """The masks, or those of a slice or of some numbers: bool (n, 1, H, W), True = hole."""
        height, width = self.photos.shape[-2:]
        rows = which if isinstance(which, slice) else np.asarray(which)
        bits = np.unpackbits(self.packed[rows], axis=1, count=height * width)
        return torch.from_numpy(bits).bool().view(-1, 1, height, width)

    def photos01(self, which: Which = slice(None)) -> Tensor:
        """The photos, or those of a slice or of some numbers: float (n, 3, H, W) in [0, 1]."""
        return self.photos[which].float() / 255

    def batches(self, batch: int = 64, device: str | torch.device = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """All (photos float [0, 1], masks bool) in order, ``batch`` at a time, the last ones fewer, on ``device``."""
        if batch < 1:
            raise BadInput(f"batch={batch} holds no photo: give at least 1.")
        for start in range(0, len(self), batch):
            which = slice(start, start + batch)
            yield self.photos[which].to(device).float() / 255, self.masks(which).to(device)
