"""The frozen photos and masks on which every method of a study is measured, and one hash that says which they are.

Two tables with the same hash were measured on the same pixels with the same holes; a table with another hash was not.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inpaintlib import BadInput
from inpaintlib.data import masks as masks_of

Which = slice | Sequence[int] | Tensor

_DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False, repr=False)
class TestSet:
    """Frozen photos with their masks: build it with `TestSet.make` or `TestSet.load`."""

    __test__ = False  # its name, to pytest, is that of a test class

    name: str
    photos: Tensor
    """uint8 (n, 3, H, W)"""
    packed: np.ndarray
    """The masks, eight pixels to a byte: uint8 (n, ceil(H·W / 8)), 1 = hole."""
    ids: tuple[str, ...]
    """What tells the photos apart, each its own."""

    @classmethod
    def make(cls, name: str, photos: Tensor, masks: Tensor, ids: Sequence[str]) -> "TestSet":
        """Copies uint8 photos (n, 3, H, W) and bool masks (n, 1, H, W), True = hole, to the CPU and freezes them.

        Raises BadInput for photos, masks or ids of another kind, shape or number, and for an id that occurs twice.
        """
        if photos.dtype != torch.uint8 or photos.ndim != 4 or photos.shape[1] != 3 or not len(photos):
            raise BadInput(f"photos are {photos.dtype} {tuple(photos.shape)}: give uint8 (n, 3, H, W) with n >= 1.")
        masks_of.check(masks, photos)
        ids = tuple(str(i) for i in ids)
        if len(ids) != len(photos):
            raise BadInput(f"{len(ids)} ids for {len(photos)} photos: give one id a photo.")
        if len(set(ids)) < len(ids):
            raise BadInput(f"the id {max(ids, key=ids.count)!r} occurs twice: give each photo its own.")
        packed = np.packbits(masks.cpu().numpy().reshape(len(photos), -1), axis=1)
        return cls(name, photos.cpu().clone(memory_format=torch.contiguous_format), packed, ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        height, width = self.photos.shape[-2:]
        return f"TestSet {self.name!r}: {len(self)} photos of {height}×{width} px, hash {self.short_hash}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hexadecimal) over shape, ids, photos and masks; the name does not enter."""
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
        bits = np.unpackbits(self.packed[_numpy(which)], axis=1, count=height * width)
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

    def subset(self, indices: Which) -> "TestSet":
        """The photos of these numbers, in this order, under the same name and with a hash of their own."""
        numbers = np.arange(len(self))[_numpy(indices)]
        ids = [self.ids[i] for i in numbers]
        return TestSet.make(self.name, self.photos[torch.from_numpy(numbers)], self.masks(numbers), ids)

    def save(self, path: str | Path) -> None:
        """Writes one .npz file, whole or not at all.

        Raises BadInput where the file can't be written (no folder, a full disk).
        """
        path = Path(path)
        header = json.dumps({"name": self.name, "ids": self.ids, "hash": self.hash})
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, header=np.array(header), photos=self.photos.numpy(), masks=self.packed)
            os.replace(unfinished, path)
        except OSError as error:
            raise BadInput(f"{path}: the test set could not be written ({error}).") from error
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "TestSet":
        """Reads what `save` wrote, and checks its hash.

        Raises BadInput for a missing, foreign or damaged file.
        """
        path = Path(path)
        if not path.is_file():
            raise BadInput(f"{path}: there is no such test set.")
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                photos, packed = torch.from_numpy(file["photos"]), file["masks"]
            test_set = cls(header["name"], photos, packed, tuple(header["ids"]))
            intact = test_set.hash == header["hash"]
        except _DAMAGE as error:
            raise BadInput(f"{path}: is no whole file that TestSet.save wrote ({error}): make it anew.") from error
        if not intact:
            raise BadInput(f"{path}: its content does not have the hash that was saved with it: make it anew.")
        return test_set


def _numpy(which: Which) -> slice | np.ndarray:
    return which if isinstance(which, slice) else np.asarray(which)
