"""What the runs of a preset read, as parts of at most 50 MB: prepared photos, pretrained networks, masks, the plan.

``manifest.json`` beside the parts names each with its size and SHA-256. The parts are one compressed tar, cut.
"""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.data import datasets, photos
from inpaintlib.files import read_json, reason, sha256, write_json
from inpaintlib.harness import sweep

PART = 50 * 10**6  # bytes


class _Parts(io.RawIOBase):
    """A file to write to that is cut into parts, which ``made`` lists; and one to read from, of the parts given."""

    def __init__(self, folder: Path, made: list[dict] | None = None):
        self.folder, self.made, self.file, self.left = folder, made or [], None, 0
        self.paths = iter([folder / part["name"] for part in self.made])

    def write(self, data) -> int:
        rest = memoryview(data)
        while rest:
            if not self.left:
                self.close_part()
                self.made.append({"name": f"part-{len(self.made):03}.tar.gz", "bytes": 0})
                self.file, self.left = (self.folder / self.made[-1]["name"]).open("wb"), PART
                self.hash = hashlib.sha256()
            piece, rest = rest[: self.left], rest[self.left :]
            self.file.write(piece)
            self.hash.update(piece)
            self.left -= len(piece)
            self.made[-1]["bytes"] += len(piece)
        return len(data)

    def close_part(self) -> None:
        if self.file:
            self.file.close()
            self.made[-1]["sha256"] = self.hash.hexdigest()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            if self.file and (n := self.file.readinto(buffer)):
                return n
            if self.file:
                self.file.close()
            if not (path := next(self.paths, None)):
                self.file = None
                return 0
            self.file = path.open("rb")


def contents(preset: str, studies: list[str]) -> dict[str, Path]:
    """The files that the preset's runs read, by their name under data/; photos are prepared where they are not yet."""
    data, found = inpaintlib.DATA, {}
    chosen = sweep.names() if studies == ["all"] else studies
    planned = [item for one in sweep.in_order(chosen) if preset in one.presets for item in sweep.plan(one, preset)]
    if not planned:
        raise BadInput(f"pack: no study has a preset {preset!r}; choose smoke, quick, night, full or exact")
    wanted = {(p["dataset"], p.get("size", 64), p.get("photos_limit") or None) for p in (i.parameters for i in planned)}
    for dataset, size, limit in sorted(wanted, key=str):
        if dataset in datasets.REGISTRY and dataset != "demo":  # those are in the repository
            folder = photos.prepare(dataset, size, limit=limit).folder
            names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            for name in sorted(names, key="meta.json".__eq__):  # last: then the folder is complete
                found[f"prepared/{folder.name}/{name}"] = folder / name
    for folder in ("weights", "prepared/structure"):
        found |= {f"{folder}/{path.name}": path for path in sorted((data / folder).glob("[!.]*")) if path.is_file()}
    masks = {value for item in planned for name, value in item.parameters.items() if name.endswith("_masks")}
    here = [name for name in ("nvidia_masks_test", "nvidia_masks_train") if datasets._find(name)]
    if "nvidia" in masks and not here:
        datasets.locate("nvidia_masks_test")
    for name in here if {"nvidia", "auto"} & masks else ():
        source, dataset = datasets.locate(name), datasets.REGISTRY[name]
        if source.is_file():
            found[dataset.names[0]] = source
            continue
        under = next(each for each in dataset.names if f"{each}/".endswith(dataset.inside))
        found |= {f"{under}/{path.relative_to(source)}": path for path in sorted(source.rglob("*")) if path.is_file()}
    return found


def pack(preset: str, folder: str | Path, studies: list[str]) -> str:
    """Write the parts and their manifest into the folder; returns a sentence. Raises BadInput where that cannot be."""
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"pack: {folder} is not empty; name a folder that is new or empty")
    files, plan = contents(preset, studies), inpaintlib.ROOT / "notebooks" / "sweeps" / "full.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = _Parts(folder)
        with gzip.GzipFile(fileobj=parts, mode="wb", compresslevel=1, mtime=0) as packed, \
                tarfile.open(fileobj=packed, mode="w|", dereference=True) as tar:  # fmt: skip
            for name, path in files.items():
                tar.add(path, name, filter=_anonymous)
        parts.close_part()
        shutil.copy(plan, folder / "plan.md")
    except OSError as error:
        raise BadInput(f"pack: {folder} cannot be written ({reason(error)}); name a folder with room") from error
    write_json(folder / "manifest.json", {"preset": preset, "parts": parts.made})
    total = sum(part["bytes"] for part in parts.made) / 1e6
    networks = " Pretrained networks are not among them: fetch pretrained, and pack again." * (
        not any(name.startswith("weights/") for name in files)
    )
    return f"{len(files)} files in {len(parts.made)} parts, {total:.1f} MB, in {folder}.{networks}"


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uname = info.gname = ""
    info.uid = info.gid = 0
    return info


def unpack(folder: str | Path) -> str:
    """Check every part, then put the files in place under data/; returns a sentence.

    Raises BadInput, naming the part, where one is missing or damaged; nothing has been put in place then.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    if not isinstance(parts, list) or not all(isinstance(p, dict) and {"name", "sha256"} <= set(p) for p in parts):
        raise BadInput(f"{folder / 'manifest.json'} lists no parts; copy it again from where they were packed")
    if missing := [part["name"] for part in parts if not (folder / part["name"]).is_file()]:
        raise BadInput(f"unpack: of {len(parts)} parts {len(missing)} are missing in {folder} "
                       f"({', '.join(missing[:3])}); copy them again")  # fmt: skip
    for part in parts:
        if sha256(folder / part["name"]) != part["sha256"]:
            raise BadInput(f"unpack: {folder / part['name']} is damaged (another SHA-256 than manifest.json has); "
                           "copy it again")  # fmt: skip
    inpaintlib.DATA.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=inpaintlib.DATA, prefix=".unpack-") as new:
            with gzip.GzipFile(fileobj=io.BufferedReader(_Parts(folder, parts))) as packed, \
                    tarfile.open(fileobj=packed, mode="r|") as tar:  # fmt: skip
                tar.extractall(new, filter="data")
                names = tar.getnames()
            for name in names:
                place = inpaintlib.DATA / name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(new) / name, place)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise BadInput(f"unpack: cannot put the files into {inpaintlib.DATA} ({reason(error)}); make room, start again"
                       ) from error  # fmt: skip
    preset = manifest.get("preset", "full")
    start = "make full" if preset == "full" else f"python -m inpaintlib sweep all --preset {preset}"
    return f"{len(names)} files are in {inpaintlib.DATA}; start the runs with {start}"
