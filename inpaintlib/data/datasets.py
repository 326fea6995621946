"""Where photos come from: the datasets by name, how each is fetched, and reading their photos in place.

A dataset is a folder or a zip archive of photos; both are read as they are, nothing is unpacked. ``fetch`` makes one
available (a download, or a copy that the user has), ``locate`` finds it, ``members`` lists its photos with the official
train/test split where there is one, ``read`` gives one photo's bytes. ``data/README.md`` describes each dataset.
"""

import difflib
import functools
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from csv import DictReader
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath

import inpaintlib
from inpaintlib import ROOT, BadInput
from inpaintlib.files import download, lock, read_json, reason, sha256, write_json

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PARTITION = "list_eval_partition.txt"  # CelebA's official split: 0 train, 1 validation, 2 test


@dataclass(frozen=True)
class Dataset:
    """One row of the registry; without arguments, the user's own folder or zip."""

    about: str = ""
    how: str = ""  # what a user without a copy has to do
    names: tuple[str, ...] = ()  # official files or folders, relative to DATA, used when they are there
    inside: str = ""  # a piece of path that tells the right archive from another one
    url: str | None = None
    md5: str | None = None
    folders: Mapping[str, str] = field(default_factory=lambda: FOLDERS)  # which folder is which split
    resize: str = "crop"  # the rule that `photos.prepare` takes by default


REGISTRY = {
    "demo": Dataset(
        about="102 photos under free licences, in the repository",
        how="in the repository (git checkout -- data/demo)",
        names=("demo",),
        resize="multiscale",
    ),
    "tiny_imagenet": Dataset(
        about="Tiny ImageNet, 200 classes, 64 px: 100,000 train and 10,000 test photos",
        how="downloaded (237 MB)",
        names=("tiny-imagenet-200.zip", "tiny-imagenet-200"),
        inside="/images/",
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
    ),
    "celeba": Dataset(
        about="CelebA, aligned and cropped: 202,599 faces, 178×218 px",
        how="downloaded by torchvision (1.4 GB, needs pip install gdown); or get img_align_celeba.zip and "
        f"{PARTITION} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        names=tuple(f"{folder}img_align_celeba{end}" for folder in ("celeba/", "") for end in (".zip", "")),
    ),
    "imagenet": Dataset(
        about="ImageNet-1k (ILSVRC 2012): 1,281,167 train and 50,000 validation photos",
        how="your own copy: ask at https://image-net.org/download and unpack the tars into train/<wnid>/ and val/",
        names=("imagenet", "imagenet.zip", "ILSVRC"),
        inside="train/",
    ),
    "places2": Dataset(
        about="Places2 (Places365-Standard): 1.8 million train and 36,500 validation photos of scenes",
        how="your own copy: ask at http://places2.csail.mit.edu/download.html and unpack the tars",
        names=("places2", "places2.zip", "places365_standard", "places365standard_easyformat"),
    ),
    "paris_streetview": Dataset(
        about="Paris StreetView: 14,900 train and 100 test photos of facades",
        how="your own copy: ask the Context Encoder's authors, https://github.com/pathak22/context-encoder",
        names=("paris_streetview", "paris_streetview.zip"),
        folders=FOLDERS
        | {"paris_train_original": "train", "paris_eval_gt": "test", "paris_eval_corrupted": "corrupted"},
    ),
    "utkface": Dataset(
        about="UTKFace, aligned and cropped: 23,708 faces, 200 px",
        how="your own copy: see https://susanqq.github.io/UTKFace/",
        names=("UTKFace", "UTKFace.zip"),
    ),
    "nvidia_masks_test": Dataset(
        about="NVIDIA's irregular test masks: 12,000, 512 px",
        how="your own copy of test_mask.zip: see https://nv-adlr.github.io/publication/partialconv-inpainting",
        names=("test_mask.zip", "testing_mask_dataset", "mask/testing_mask_dataset"),
        inside="testing_mask_dataset/",
    ),
    "nvidia_masks_train": Dataset(
        about="NVIDIA's irregular training masks: 55,116, 512 px",
        how="your own copy of irregular_mask.zip: see https://nv-adlr.github.io/publication/partialconv-inpainting",
        names=("irregular_mask.zip", "irregular_mask", "disocclusion_img_mask"),
        inside="disocclusion_img_mask/",
    ),
}


def fetch(name: str, source: str | Path | None = None) -> Path:
    """Make dataset ``name`` available and verified; return its folder or archive.

    With ``source``, a folder or zip that is already somewhere, that copy is used in place and remembered in
    DATA/sources.json. Otherwise a copy that is there already is verified, and a missing one downloaded where that is
    possible. Raises BadInput for an unknown name, a damaged or wrong archive, no network, or a dataset that only its
    owners give out (saying where to ask and how to point here).
    """
    dataset = _dataset(name)
    walked.cache_clear()
    if source is not None:
        if name == "demo":
            raise BadInput("demo is the repository's own data/demo: give another folder of photos by its path.")
        path = Path(source).expanduser().resolve()
        verify(path, name)
        with lock(inpaintlib.DATA / "sources.json"):
            write_json(inpaintlib.DATA / "sources.json", _sources() | {name: str(path)})
        return path
    path = _find(name)
    if path is None and name == "celeba":
        _download_celeba(inpaintlib.DATA / "celeba")
    elif dataset.url and path in (None, inpaintlib.DATA / dataset.names[0]):  # what lies there may be another file
        download(dataset.url, inpaintlib.DATA / dataset.names[0], md5=dataset.md5)
    path = locate(name)
    verify(path, name)
    return path


def check(name: str, size: int | None = None, limit: int | None = None) -> None:
    """Raises BadInput as `locate` does, unless photos of that dataset have been prepared, which outlive their source:
    of this ``size`` (None: of any) by the dataset's own rule, at most ``limit`` of each split (None: all)."""
    folder = f"{name}-{size or '*'}-{REGISTRY.get(name, Dataset()).resize}{f'-{limit}' if limit else ''}"
    if name not in REGISTRY or not any((inpaintlib.DATA / "prepared").glob(f"{folder}/meta.json")):
        locate(name)


def locate(name: str) -> Path:
    """The folder or zip of dataset ``name``, which may also be the path of any folder or zip of photos.

    Raises BadInput for an unknown name (with the nearest right one) or a dataset that is not here yet (with the
    command that fetches it).
    """
    path = _find(name)
    if path is None:
        dataset, command = REGISTRY[name], f"python -m inpaintlib fetch {name}"
        if dataset.url is None and name != "celeba":
            raise BadInput(f"{name} is not here ({dataset.how}), then: {command} --source FOLDER_OR_ZIP.")
        raise BadInput(f"{name} is not here: {command} gets it, or uses your copy with --source FOLDER_OR_ZIP.")
    return path


def listing() -> list[dict]:
    """One dict a dataset: name, about, state ("here", "not fetched" or what is wrong), photos (count or None), size
    (bytes or None), path (or None), how (to get it)."""
    rows = []
    for name, dataset in REGISTRY.items():
        row = {"name": name, "about": dataset.about, "state": "not fetched", "photos": None, "size": None, "path": None}
        try:
            if path := _find(name):
                verify(path, name)
                sizes = [size for size, _ in _photos(path).values()]
                row |= {"state": "here", "photos": len(sizes), "size": sum(sizes), "path": str(path)}
        except BadInput as error:
            row["state"] = str(error)
        rows.append(row | {"how": dataset.how})
    return rows


def verify(path: Path, name: str) -> None:
    """Check that ``path`` opens and holds what dataset ``name`` should: BadInput if not.

    A truncated archive does not open (its table of contents is at its end); each photo's own checksum is checked when
    it is read. The demo photos are compared with the SHA-256 in their manifest.
    """
    ids = _photos(path)
    if not ids:
        raise BadInput(f"{path} holds no photos ({', '.join(sorted(EXTENSIONS))}).")
    inside = REGISTRY.get(name, Dataset()).inside
    if not any(inside in f"{path.name}/{id}" for id in ids):
        raise BadInput(f"{path} is not {name}: no photo in it has {inside!r} in its path.")
    if name == "demo":
        rows = manifest(path)
        for row in rows:
            file = path / row["file"]
            if not file.exists() or sha256(file) != row["sha256"]:
                raise BadInput(f"{file} is missing or is not the photo of manifest.csv: git checkout -- data/demo.")
        if extra := set(ids) - {row["file"] for row in rows}:
            raise BadInput(f"{path / min(extra)} is not in manifest.csv: your own photos go into another folder.")


def manifest(path: Path) -> list[dict[str, str]]:
    """The rows of the demo photos' manifest.csv: file, series, sha256, licence and source."""
    return list(DictReader(StringIO(read(path, "manifest.csv").decode())))


def members(path: Path, folders: Mapping[str, str] = FOLDERS) -> list[tuple[str | None, str]]:
    """Every photo of a folder or zip as (split, id), sorted by id; the id is its path inside, with "/".

    Official splits count where there are both train and test: CelebA's partition file in or beside ``path``, or else
    the outermost of ``folders`` (validation serves as test where there is no test folder; photos outside them are
    "other"). Without, the split is None: ``split_by_content`` decides. Raises BadInput when the folder or archive
    cannot be read.
    """
    ids, official = sorted(_photos(path)), _partition(path)
    parts = {id: PurePosixPath(id).parts for id in ids}
    if official:
        splits = [official.get(parts[id][-1]) for id in ids]
    else:
        splits = [next((folders[part] for part in parts[id][:-1] if part in folders), None) for id in ids]
    if "test" not in splits:
        splits = ["test" if split == "validation" else split for split in splits]
    if not {"train", "test"} <= set(splits):
        return [(None, id) for id in ids]
    return [(split or "other", id) for split, id in zip(splits, ids, strict=True)]


def split_by_content(data: bytes) -> str:
    """The split of a photo that has no official one: "test" for one file in ten, by the SHA-256 of its bytes, so that
    equal files always fall on the same side."""
    return "test" if int.from_bytes(hashlib.sha256(data).digest()[:8]) % 10 == 0 else "train"


def read(path: Path, id: str) -> bytes:
    """The bytes of one file of a folder or zip; safe from many threads and processes at once.

    Raises OSError, KeyError or zipfile.BadZipFile when the file is missing or its checksum in the archive is wrong.
    """
    return (path / id).read_bytes() if path.is_dir() else _zip(path).read(id)


def fingerprint(path: Path) -> str:
    """Changes when the source does: a hash over names, sizes and modification times (of the archive, or of each photo
    and partition file)."""
    states = [(path / id, *state) for id, state in sorted(_photos(path).items())] if path.is_dir() else []
    for file in filter(Path.is_file, (path, path / PARTITION, path.parent / PARTITION)):
        states.append((file, file.stat().st_size, file.stat().st_mtime_ns))
    digest = hashlib.sha256()
    for file, size, changed in states:
        digest.update(f"{file.relative_to(path.parent)}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _dataset(name: str) -> Dataset:
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, REGISTRY, n=1)
    guess = f"did you mean {near[0]!r}? Or " if near else ""
    raise BadInput(f"no dataset {name!r}: {guess}choose one of {', '.join(REGISTRY)}, or a folder or zip of photos.")


def _find(name: str) -> Path | None:
    """Where the dataset is, or None when it is not here yet."""
    if name not in REGISTRY:
        path = Path(name).expanduser()
        if path.exists():
            return path.resolve()
        if len(path.parts) > 1 or path.suffix:
            raise BadInput(f"there is no folder or zip of photos at {path}.")
    dataset = _dataset(name)
    if name == "demo":
        return ROOT / "data" / "demo"
    if source := _sources().get(name):
        if not Path(source).exists():
            raise BadInput(
                f"{name} was at {source}, which is gone: python -m inpaintlib fetch {name} --source FOLDER_OR_ZIP "
                f"points at another copy (or remove its line from {inpaintlib.DATA / 'sources.json'})."
            )
        return Path(source)
    return next(filter(Path.exists, (inpaintlib.DATA / official for official in dataset.names)), None)


def _sources() -> dict[str, str]:
    path = inpaintlib.DATA / "sources.json"
    sources = read_json(path) if path.exists() else {}
    if not isinstance(sources, dict) or not all(isinstance(source, str) for source in sources.values()):
        raise BadInput(f"{path} is no object of names and paths: delete it, then fetch what you have with --source.")
    return sources


def _download_celeba(folder: Path) -> None:
    """The aligned photos and the official partition from torchvision's list, left in their zip."""
    from torchvision.datasets import CelebA, utils  # takes seconds

    for file_id, md5, filename in CelebA.file_list:
        if filename in (PARTITION, "img_align_celeba.zip"):
            try:
                utils.download_file_from_google_drive(file_id, str(folder), filename, md5)
            except Exception as error:  # gdown is missing, the quota is spent, no network: one remedy for all
                why = str(error).strip().partition("\n")[0].rstrip(".")
                raise BadInput(
                    f"cannot download CelebA's {filename} ({why}): get it by hand from "
                    f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put it at {folder / filename}."
                ) from error


def _partition(path: Path) -> dict[str, str]:
    """CelebA's official split by file name, from the partition file in or beside ``path``; empty without one."""
    inside = path.is_file() and next((id for id in _zip(path).namelist() if id.endswith(PARTITION)), None)
    beside = next((file for file in (path / PARTITION, path.parent / PARTITION) if file.is_file()), None)
    if not inside and not beside:
        return {}
    text = read(path, inside).decode() if inside else beside.read_text()
    splits = {"0": "train", "1": "validation", "2": "test"}
    try:
        return {name: splits[split] for name, split in map(str.split, text.splitlines())}
    except (ValueError, LookupError) as error:
        raise BadInput(f"{inside or beside} has lines other than NAME.jpg and 0, 1 or 2: fetch it again.") from error


def _photos(path: Path) -> dict[str, tuple[int, int]]:
    """Every photo of a folder or zip: its size in bytes, and in a folder when it was changed. Raises BadInput for a
    name that cannot be an id."""
    if path.is_dir():
        found = walked(path)
    else:
        found = {info.filename: (info.file_size, 0) for info in _zip(path).infolist() if _is_photo(info.filename)}
    for id in found:
        if id.splitlines() != [id] or any("\ud800" <= character <= "\udfff" for character in id):
            raise BadInput(f"{path}: the file name {id!r} has a line break or is not UTF-8: rename it.")
    return found


@functools.cache
def walked(folder: Path) -> dict[str, tuple[int, int]]:
    """Every photo below a folder, as it was when the process first looked; ``walked.cache_clear()``: look again."""
    return dict(_walk(folder, ""))


def _walk(folder: Path, prefix: str, above: frozenset = frozenset()) -> Iterable[tuple[str, tuple[int, int]]]:
    """Every photo below a folder with its size and when it was changed. Raises BadInput for what cannot be read or
    leads in a circle."""
    path = folder
    try:
        state = folder.stat()
        here = (state.st_dev, state.st_ino)
        if here in above:
            raise BadInput(f"{folder} is a link to a folder that it lies in: remove it.")
        for entry in os.scandir(folder):
            path, id = Path(entry.path), prefix + entry.name
            if entry.is_dir():
                yield from _walk(path, f"{id}/", above | {here})
            elif _is_photo(id):
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):
                    raise BadInput(f"{path} is a pipe or a device, not a photo: remove it.")
                yield id, (found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({reason(error)}): repair it or move it away.") from error


def _is_photo(id: str) -> bool:
    file = PurePosixPath(id)
    hidden = any(part.startswith((".", "__MACOSX")) for part in file.parts)
    return file.suffix.lower() in EXTENSIONS and not hidden


def _zip(path: Path) -> zipfile.ZipFile:
    """The opened archive, shared by the threads of this process (a ZipFile locks its reads)."""
    if not path.is_file():
        raise BadInput(f"there is no folder or zip of photos at {path}.")
    state = path.stat()
    return _open_zip(path, os.getpid(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _open_zip(path: Path, process: int, size: int, modified: int) -> zipfile.ZipFile:
    if path.name.endswith((".tar", ".tar.gz", ".tgz", ".7z", ".rar")):
        raise BadInput(f"{path} is not a zip: unpack it and point at the folder.")
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path} is truncated or is not a zip archive ({error}): fetch it again.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({reason(error)}): change its permissions or copy it.") from error
