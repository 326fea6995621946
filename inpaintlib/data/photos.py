"""Photos as arrays: ``prepare`` decodes a dataset once into memory-mapped uint8, ``Batches`` serves it.

Training then touches no files and decodes nothing: a batch is one gather and one flip on the training device.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

import inpaintlib
from inpaintlib import ROOT, BadInput
from inpaintlib.data import datasets
from inpaintlib.files import lock, read_json, reason, write_atomically, write_json

RULES = ("squash", "crop", "multiscale")
CROPS = {"train": 40, "test": 8}  # multiscale crops of a photo, fewer of one of a series
LARGEST_SERIES = 1 / 4  # of the train crops
SMALLEST = 1 / 3  # side of the smallest multiscale crop, relative to the photo's short side
CROP_BOX = re.compile(r"#\d+,\d+,\d+,\d+$")  # at the end of a multiscale crop's id
FORMAT = 1  # raised when a change here makes the arrays on disk stale
GPU_FRACTION = 0.5  # of the free device memory that photos may fill; above it they stream
RAM_LIMIT = 2 << 30  # bytes; the same on a CPU

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Photos:
    """Prepared photos of one split: ``array`` (n, 3, S, S) uint8, read-only and memory-mapped, and their n ``ids``.

    ``pictures`` names the file that each photo was cut from: its id without the crop box.
    Further channels, such as structure images, are served and mirrored with the photos that they lie behind.
    """

    array: np.ndarray
    ids: list[str]
    name: str

    def __len__(self) -> int:
        return len(self.array)

    @property
    def pictures(self) -> list[str]:
        return [CROP_BOX.sub("", id) for id in self.ids]

    def spread(self, n: int = 0) -> tuple[Tensor, list[str], list[str]]:
        """n photos (0: all) in their order: uint8 (n, 3, S, S) in memory of their own, their ids and their pictures.

        Each picture gives as many photos as any other, or one more; those of one picture are evenly spaced in it.
        """
        rows = _even_rows(self.pictures, n)
        ids, pictures = ([names[row] for row in rows] for names in (self.ids, self.pictures))
        return torch.from_numpy(self.array[rows]), ids, pictures


def _even_rows(pictures: Sequence[str], n: int) -> list[int]:
    """n rows (0: all) in ascending order: one of each picture before a second one of any."""
    rows = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows[picture].append(row)
    ranked = [
        (turn, order, row)
        for order, own in zip(_scattered(len(rows)), rows.values(), strict=True)
        for turn, row in zip(_scattered(len(own)), own, strict=True)
    ]
    return sorted(row for _, _, row in sorted(ranked)[: n or None])


def _scattered(n: int) -> list[int]:
    """A rank for each of n things in a row, such that those of the lowest ranks, however many, are evenly spaced.

    The numbers i of which the fractional part of i times the golden ratio is below a bound have gaps of at most three
    lengths (Steinhaus's theorem).
    """
    return np.argsort(np.argsort(np.arange(n) * 0.6180339887498949 % 1)).tolist()


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: ``folder`` holds {train,test}.npy, {train,test}.txt and meta.json, read as ``meta``."""

    folder: Path
    meta: dict

    def photos(self, split: str) -> Photos:
        """The photos of "train" or "test". Raises BadInput when there are none."""
        if split not in CROPS:
            raise BadInput(f"split is {split!r}: it is one of train, test.")
        if not self.meta[split]:
            raise BadInput(
                f"{self.meta['dataset']} has no {split} photos: a small set needs folders train/ and test/ "
                "(without them about one photo in ten is a test photo)."
            )
        array = np.load(self.folder / f"{split}.npy", mmap_mode="r")
        ids = (self.folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        return Photos(array, ids, self.meta["dataset"])


def load(dataset: str, size: int, split: str, resize: str | None = None, limit: int | None = None) -> Photos:
    """The photos of a split ("train" or "test"), prepared now if they are not yet; arguments as in ``prepare``.

    Prepared photos outlive their source, which a process looks at once. Raises BadInput when the dataset is not here or
    cannot be prepared.
    """
    task = _Task.check(dataset, size, resize, limit)
    done = task.done()
    if task.source:
        done = _prepare(task, skip_bad=bool(done and done.meta["bad"]))
    return done.photos(split)


def prepare(dataset: str, size: int, resize: str | None = None, *, limit: int | None = None,
            skip_bad: bool = False) -> Prepared:  # fmt: skip
    """Decode a dataset once, in parallel, into DATA/prepared/<dataset>-<size>-<resize>/.

    ``dataset`` is a name of the registry or the path of a folder or zip. ``size`` is the side in pixels. ``resize`` is
    "squash" (the whole photo, its shape distorted to a square: Meneust & Pinto 2024's rule), "crop" (the central
    square) or "multiscale" (40 square crops of each train photo and 8 of each test photo, from its short side down to
    a third of it, never enlarged; so many fewer of the train photos of a series that it gives at most a quarter of the
    train crops); None takes the dataset's default. Every resampling is bilinear and antialiased. ``limit`` is the most
    photos taken from each split, drawn evenly.

    Photos become RGB: greyscale and palettes exactly, CMYK by Pillow's conversion, 16 bits rounded to 8, transparency
    over white; EXIF orientation is applied. A train photo that equals a test photo, decoded or prepared, is dropped
    and counted. What is prepared already is reused as long as the source is unchanged; meta.json is written last, so
    what an interruption or a full disk leaves never counts.

    Raises BadInput for unreadable photos, which it names and counts, unless ``skip_bad``; for a bad parameter, a
    source that is not here, and a full disk.
    """
    datasets.walked.cache_clear()
    task = _Task.check(dataset, size, resize, limit)
    if task.source is None:
        datasets.locate(dataset)  # says what is missing
    return _prepare(task, skip_bad)


class _Task(NamedTuple):
    """What is to be prepared, of a dataset that was located once."""

    dataset: str
    source: Path | None  # None: gone since it was prepared
    folder: Path  # of the arrays
    size: int
    rule: str
    limit: int | None

    @classmethod
    def check(cls, dataset: str, size: int, resize: str | None, limit: int | None) -> "_Task":
        """Raises BadInput for a wrong parameter, and for a dataset that is unknown, or neither here nor prepared."""
        rule = resize or datasets.REGISTRY.get(dataset, datasets.Dataset()).resize
        if rule not in RULES:
            raise BadInput(f"resize is {rule!r}: it is one of {', '.join(RULES)}.")
        if not isinstance(size, int) or size < 1:
            raise BadInput(f"size is {size!r}: it is the side of the prepared photos in pixels, 1 or more.")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise BadInput(f"limit is {limit!r}: it is the most photos of each split, 1 or more, or None for all.")
        name, source, missing = dataset, None, None
        try:
            source = datasets.locate(dataset)
        except BadInput as error:
            missing = error
        if source and dataset not in datasets.REGISTRY:
            name = f"{source.stem}-{hashlib.sha256(str(source).encode()).hexdigest()[:6]}"
        folder = inpaintlib.DATA / "prepared" / f"{name}-{size}-{rule}{f'-{limit}' if limit else ''}"
        task = cls(dataset, source, folder, size, rule, limit)
        if missing and not task.done():
            raise missing
        return task

    def done(self) -> Prepared | None:
        meta = self.folder / "meta.json"
        return Prepared(self.folder, read_json(meta)) if meta.exists() else None


def _prepare(task: _Task, skip_bad: bool) -> Prepared:
    dataset, source, folder, size, rule, limit = task
    datasets.verify(source, dataset)
    state = {"format": FORMAT, "fingerprint": datasets.fingerprint(source)}
    with lock(folder):
        done = task.done()
        if done is None or any(done.meta.get(key) != value for key, value in state.items()):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True)
                meta = {"dataset": dataset, "size": size, "resize": rule, "limit": limit, "source": source} | state
                write_json(folder / "meta.json", meta | _build(task, skip_bad))
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError):
                    raise BadInput(f"cannot prepare {dataset} in {folder}: {reason(error)}.") from error
                raise
            done = task.done()
    if done.meta["bad"] and not skip_bad:
        raise _bad_photos(source, done.meta["bad"])
    return done


def _build(task: _Task, skip_bad: bool) -> dict:
    """Write arrays and ids of both splits; return what meta.json says about them."""
    dataset, source, folder, size, rule, limit = task
    started = time.monotonic()
    test_keys, bad, duplicates, small, counts = set(), {}, 0, 0, {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        splits = _splits(pool, source, dataset)
        prefix = _common_folder([id for ids in splits.values() for id in ids])
        series = {row["file"]: row["series"] for row in datasets.manifest(source)} if dataset == "demo" else {}
        fewer = _crops_of_series(splits["train"], {id: name for id, name in series.items() if name})
        for split in ("test", "train"):  # test first: train photos are compared with them
            rows, known = [], test_keys if split == "train" else ()
            with open(folder / f"{split}.npy", "wb") as file:
                _write_header(file, 0, size)
                decode = partial(_decode, source, size, rule, CROPS[split], fewer)
                chosen = _even_subset(splits[split], prefix, limit)
                for photo in _mapped(pool, decode, chosen, f"{dataset} {size} px {split}"):
                    if photo.error:
                        bad[photo.id] = photo.error
                        continue
                    small += not photo.crops
                    if photo.key in known:
                        duplicates += 1
                        continue
                    for pixels, key, box in photo.crops:
                        if key in known:
                            duplicates += 1
                            continue
                        file.write(pixels.tobytes())
                        where = "#" + ",".join(map(str, box)) if rule == "multiscale" else ""
                        rows.append(photo.id.removeprefix(prefix) + where)
                    if split == "test":
                        test_keys.update((photo.key, *(key for _, key, _ in photo.crops)))
                file.seek(0)
                _write_header(file, len(rows), size)
                file.flush()
                os.fsync(file.fileno())
            write_atomically(folder / f"{split}.txt", "".join(f"{row}\n" for row in rows))
            counts[split] = len(rows)
    if bad and not skip_bad:
        raise _bad_photos(source, bad)
    if not any(counts.values()):
        raise BadInput(f"{source} gives no photos of {size} px: {len(bad)} are unreadable and {small} too small.")
    seconds = round(time.monotonic() - started, 2)
    return counts | {"duplicates": duplicates, "small": small, "bad": bad, "seconds": seconds}


def _crops_of_series(ids: list[str], series: dict[str, str]) -> dict[str, int]:
    """How many crops each photo of a series gives, such that none of them exceeds LARGEST_SERIES of all crops."""
    sizes = Counter(series[id] for id in ids if id in series)
    others = CROPS["train"] * (len(ids) - sizes.total())
    most = {name: int(LARGEST_SERIES / (1 - LARGEST_SERIES) * others) // n for name, n in sizes.items()}
    return {id: min(CROPS["train"], most[series[id]]) for id in ids if id in series}


def _bad_photos(source: Path, bad: dict[str, str]) -> BadInput:
    named = "; ".join(f"{id} ({why})" for id, why in list(bad.items())[:5]) + ("; ..." if len(bad) > 5 else "")
    count = "1 photo" if len(bad) == 1 else f"{len(bad)} photos"
    advice = "repair or remove them, or leave them out (--skip-bad)"
    return BadInput(f"{count} of {source} cannot be read: {named}: {advice}.")


def _splits(pool: ThreadPoolExecutor, source: Path, dataset: str) -> dict[str, list[str]]:
    """The ids of each split: the official ones, or by the content of each file."""
    splits = {"train": [], "test": []}
    pairs = datasets.members(source, datasets.REGISTRY.get(dataset, datasets.Dataset()).folders)
    if pairs[0][0] is None:  # then all are
        ids = [id for _, id in pairs]
        pairs = zip(_mapped(pool, partial(_split_of, source), ids, f"{dataset} split"), ids, strict=True)
    for split, id in pairs:
        splits.setdefault(split, []).append(id)
    return splits


def _split_of(source: Path, id: str) -> str:
    try:
        return datasets.split_by_content(datasets.read(source, id))
    except Exception:  # decoding will name it
        return "train"


def _even_subset(ids: list[str], prefix: str, limit: int | None) -> list[str]:
    """At most ``limit`` ids, drawn by a hash of their names (so from all classes alike), in their order."""
    if limit is None or len(ids) <= limit:
        return ids
    return sorted(sorted(ids, key=lambda id: hashlib.sha256(id.removeprefix(prefix).encode()).digest())[:limit])


def _common_folder(ids: list[str]) -> str:
    """The folders that all ids begin with, so that a zip and its unpacked folder give the same ids."""
    parts = os.path.commonprefix([PurePosixPath(id).parts[:-1] for id in ids]) if ids else ()
    return "".join(f"{part}/" for part in parts)


def _mapped(pool: ThreadPoolExecutor, function: Callable, ids: list[str], what: str) -> Iterator:
    """``pool.map`` with a bar, a window of photos at a time, so that results do not pile up."""
    window = 32 * os.cpu_count()
    with tqdm(total=len(ids), unit="photo", desc=what, smoothing=0) as bar:
        for start in range(0, len(ids), window):
            for result in pool.map(function, ids[start : start + window]):
                yield result
                bar.update()


def _write_header(file: io.BufferedWriter, n: int, size: int) -> None:
    """A .npy header whose length does not depend on ``n``: numpy pads it so that the first axis may grow."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)})


FACES = {"kodim04": (0, 84, 512, 596), "kodim15": (256, 0, 768, 512)}
"""Squares of two portraits. Half-way down an aligned CelebA photo's central square lie the eyes, .22 of its side apart;
here .24 apart and half-way down (kodim04), and .32 apart and .3 down, because that photo ends above the forehead."""


def examples(size: int, n: int = 12, faces: bool = False) -> tuple[Tensor, list[str]]:
    """The photos that figures show: the centres of n demo test photos, float (n, 3, size, size) in [0, 1], and names.

    Each is of another picture. ``faces`` gives the faces of ``FACES`` instead, of which there are two. Fewer come where
    there are not n. Raises BadInput for a size or an n below 1.
    """
    if size < 1 or n < 1:
        raise BadInput(f"size={size}, n={n}: examples need both to be at least 1.")
    folder = ROOT / "data" / "demo" / "test"
    names = sorted(FACES) if faces else sorted(path.stem for path in folder.glob("*.jpg"))
    names = [names[row] for row in _even_rows(names, n)]
    pixels = []
    for name in names:
        photo = to_rgb((folder / f"{name}.jpg").read_bytes())
        box = FACES[name] if faces else crop_boxes(*photo.size, size, "crop", 1, b"")[0]
        pixels.append(_resized(photo, size, box))
    return torch.from_numpy(np.stack(pixels)).float() / 255, names


class _Decoded(NamedTuple):
    id: str
    error: str
    key: bytes = b""  # of the whole photo
    crops: Sequence[tuple[np.ndarray, bytes, Box]] = ()  # pixels (3, S, S), their key, and where they are


def _decode(source: Path, size: int, rule: str, crops: int, fewer: dict[str, int], id: str) -> _Decoded:
    try:
        data = datasets.read(source, id)
        photo = to_rgb(data)
    except Exception as error:  # whatever a damaged file makes a decoder raise
        return _Decoded(id, reason(error))
    boxes = crop_boxes(photo.width, photo.height, size, rule, fewer.get(id, crops), hashlib.sha256(data).digest())
    pixels = [_resized(photo, size, box) for box in boxes]
    return _Decoded(id, "", _key(np.asarray(photo)), [(p, _key(p), box) for p, box in zip(pixels, boxes, strict=True)])


def to_rgb(data: bytes) -> Image.Image:
    """Decode one photo to 8-bit RGB, upright. Raises what Pillow raises for a damaged file (OSError mostly)."""
    try:
        photo = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # it would name the bytes' place in memory
        raise ValueError("a picture of no known format") from None
    photo.load()
    if photo.mode == "F" or (photo.mode == "I" and photo.format == "TIFF"):
        raise ValueError("floating-point or 32-bit pixels, of which the white level is unknown")
    with contextlib.suppress(Exception):  # a damaged EXIF block does not make the pixels bad
        photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):
        deep = np.asarray(photo).astype(np.float64) / 257  # 65535 is white
        photo = Image.fromarray(deep.clip(0, 255).round().astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo.convert("RGB")


def crop_boxes(width: int, height: int, size: int, rule: str, crops: int, seed: bytes) -> list[Box]:
    """The parts of a photo that ``rule`` takes, each to be scaled to size x size.

    multiscale: sides fall geometrically from the short side to SMALLEST of it, or to ``size`` if that is larger;
    positions follow the R2 low-discrepancy sequence (Roberts 2018) from an offset given by ``seed``, so that few crops
    cover the photo evenly. No box where the photo is smaller than ``size``.
    """
    short = min(width, height)
    if rule == "squash":
        return [(0, 0, width, height)]
    if rule == "crop":
        left, top = (width - short) // 2, (height - short) // 2
        return [(left, top, left + short, top + short)]
    if short < size:
        return []
    k = np.arange(crops)
    sides = short * (max(size, SMALLEST * short) / short) ** (k / max(crops - 1, 1))
    sides = sides.round().astype(int).clip(size, short)
    offset = np.frombuffer(seed[:16], dtype="<u8") / 2**64
    u, v = ((offset[:, None] + np.outer((0.7548776662466927, 0.5698402909980532), k)) % 1.0)[:2]
    lefts, tops = (u * (width - sides + 1)).astype(int), (v * (height - sides + 1)).astype(int)
    boxes = zip(lefts.tolist(), tops.tolist(), (lefts + sides).tolist(), (tops + sides).tolist(), strict=True)
    return list(dict.fromkeys(boxes))


def _resized(photo: Image.Image, size: int, box: Box) -> np.ndarray:
    pixels = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _key(pixels: np.ndarray) -> bytes:
    shape = np.asarray(pixels.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=shape).digest()


def enlarged(photos: Photos, source: int) -> Photos:
    """The same photos with only the detail of ``source`` px: reduced to it and enlarged again, bilinear, antialiased.

    What happens to 64 px photos in a study at 128 px. Raises BadInput when ``source`` is not below the photos' side.
    """
    side = photos.array.shape[-1]
    if not 1 <= source < side:
        raise BadInput(f"source_size is {source}: it must be below the photos' side, {side} px.")
    result = np.empty(photos.array.shape, np.uint8)
    for start in range(0, len(photos), 512):
        some = torch.from_numpy(np.array(photos.array[start : start + 512])).float()
        for side in (source, photos.array.shape[-1]):
            some = F.interpolate(some, (side, side), mode="bilinear", antialias=True)
        result[start : start + 512] = some.round().clamp(0, 255).byte().numpy()
    return Photos(result, photos.ids, f"{photos.name} from {source} px")


class Batches:
    """Endless batches of photos, a function of (seed, step) alone, so that resuming needs nothing but the step.

    The stream is one permutation of the photos after another, one an epoch, drawn from (seed, epoch); a batch that
    an epoch cannot fill goes on into the next. With ``flip`` each photo is mirrored with probability 1/2, drawn anew
    every epoch. Batch ``step`` is the stream's positions step * batch to (step + 1) * batch.

    The photos stay on ``device`` as uint8 where they fit (``GPU_FRACTION`` of the free memory of a GPU, ``RAM_LIMIT``
    on a CPU); otherwise, or with ``stream=True``, a thread reads the next batch from the memory map into pinned memory
    while this one is used. Both give the same batches. Raises BadInput for a batch below 1.
    """

    def __init__(self, photos: Photos, batch: int, device: str | torch.device, seed: int, flip: bool = True, *,
                 stream: bool | None = None):  # fmt: skip
        if batch < 1:
            raise BadInput(f"batch is {batch}: it is the number of photos in a batch, 1 or more.")
        self.photos, self.batch, self.seed, self.flip = photos, batch, seed, flip
        self.device, array = torch.device(device), photos.array
        gpu = self.device.type == "cuda"
        limit = GPU_FRACTION * torch.cuda.mem_get_info(self.device)[0] if gpu else RAM_LIMIT
        self.stream = array.nbytes > limit if stream is None else stream
        self._epochs: dict[int, tuple[Tensor, Tensor]] = {}
        if self.stream:
            self._reader, self._ahead = ThreadPoolExecutor(1), {}
        else:
            self._data = torch.empty(array.shape, dtype=torch.uint8, device=self.device)
            for start in range(0, len(array), 4096):
                self._data[start : start + 4096] = torch.from_numpy(np.array(array[start : start + 4096]))

    def at(self, step: int) -> Tensor:
        """Batch ``step`` (0, 1, ...): uint8 (batch, 3, S, S) on the device, free to be written to."""
        if self.stream:
            reading = self._ahead.pop(step, None) or self._reader.submit(self._read, step)
            self._ahead = {step + 1: self._ahead.get(step + 1) or self._reader.submit(self._read, step + 1)}
            photos, flips = (part.to(self.device, non_blocking=True) for part in reading.result())
        else:
            order, flips = self._positions(step, self.device)
            photos = self._data[order]
        return torch.where(flips[:, None, None, None], photos.flip(3), photos)

    def _positions(self, step: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Which photos (batch,) int64 and which of them mirrored (batch,) bool."""
        n, start, stop = len(self.photos), step * self.batch, (step + 1) * self.batch
        parts = []
        for epoch in range(start // n, (stop - 1) // n + 1):
            inside = slice(max(start - epoch * n, 0), stop - epoch * n)
            parts.append([part[inside] for part in self._epoch(epoch, device)])
        orders, flips = zip(*parts, strict=True)
        return torch.cat(orders), torch.cat(flips)

    def _epoch(self, epoch: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.clear()
            random = np.random.default_rng((self.seed, epoch))
            order = random.permutation(len(self.photos))
            flips = random.random(len(self.photos)) < (0.5 if self.flip else 0.0)
            self._epochs[epoch] = torch.from_numpy(order).to(device), torch.from_numpy(flips).to(device)
        return self._epochs[epoch]

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        """The photos of a batch, not yet mirrored, in host memory."""
        order, flips = self._positions(step, "cpu")
        pinned = self.device.type == "cuda"
        photos = torch.empty((self.batch, *self.photos.array.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        np.take(self.photos.array, order.numpy(), axis=0, out=photos.numpy(), mode="clip")
        return photos, flips
