"""Files that are whole or absent: atomic writes, strict JSON, checksums, and downloads that resume.

A reader never meets half a file: everything is written under a temporary name beside its destination and renamed
when complete. What goes wrong on the way (a full disk, a cut, a wrong checksum) is one ``BadInput`` sentence.
"""

import contextlib
import hashlib
import http.client
import json
import math
import os
import re
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from filelock import FileLock
from tqdm.auto import tqdm

import inpaintlib
from inpaintlib import BadInput

CHUNK = 1 << 20  # bytes
RETRIES = 4  # reconnections in a row that bring nothing new
RETRY_WAIT = 2.0  # seconds
TIMEOUT = 30.0  # seconds without a byte
HOST = socket.gethostname()


def weights_file(name: str) -> Path:
    """Where the weights of a pretrained network are kept."""
    return inpaintlib.DATA / "weights" / f"{name}.pt"


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8), as `replacing` does."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str | Path, note: str = "what was there before is unchanged") -> Iterator[BinaryIO]:
    """An open file that becomes ``path`` when the block ends: that holds the old content or the new, never a part.

    Missing parent folders are made. Raises BadInput, with the note, when the disk is full or the file cannot be
    written; the old file is then still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _writing(path, f"; {note}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _writing(path: Path, note: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {path}: {reason(error)}{note}.") from error


def _remove_leftovers(path: Path) -> None:
    """The temporary files of this machine's processes that were killed while they wrote ``path``."""
    for entry in os.scandir(path.parent):
        leftover = re.fullmatch(rf"\.{re.escape(f'{path.name}.{HOST}')}\.(\d+)-[0-9a-f]{{8}}\.tmp", entry.name)
        if leftover and not psutil.pid_exists(int(leftover[1])):
            with contextlib.suppress(OSError):
                os.unlink(entry)


def write_json(path: str | Path, obj: Any) -> None:
    """Write ``obj`` as strict JSON, atomically.

    Floats that JSON lacks become the strings "inf", "-inf" and "nan"; numpy and torch scalars and arrays become
    numbers and lists, tuples lists, and paths strings.
    """
    write_atomically(path, json.dumps(_to_json(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read what ``write_json`` wrote: the strings "inf", "-inf" and "nan" come back as floats.

    Raises BadInput when the file is missing or is not strict JSON.
    """
    try:
        return _from_json(json.loads(Path(path).read_bytes(), parse_constant=_not_json))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {reason(error)}.") from error
    except ValueError as error:
        raise BadInput(f"{path} is not strict JSON ({error}); delete it or write it again.") from error


def _to_json(obj: Any) -> Any:
    if isinstance(obj, float) and not math.isfinite(obj):
        return "nan" if math.isnan(obj) else "inf" if obj > 0 else "-inf"
    if isinstance(obj, dict):
        return {str(key): _to_json(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_to_json(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if hasattr(obj, "tolist"):  # numpy and torch
        return _to_json(obj.tolist())
    return obj


def _from_json(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {key: _from_json(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [_from_json(value) for value in obj]
    return float(obj) if obj in ("inf", "-inf", "nan") else obj


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Let one process or thread at a time do what makes ``path``; the others wait. A process that dies lets go.

    Raises BadInput where the folder cannot be written to.
    """
    path = Path(path)
    file = path.with_name(f".{path.name}.lock")
    one_at_a_time = FileLock(file)
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        one_at_a_time.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: who waits for it notices and makes another
        one_at_a_time.release()


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: str | Path, md5: str | None = None) -> Path:
    """Fetch ``url`` to ``path`` unless it is there, with a progress bar; return the path.

    The bytes collect in ``path`` + ".part", which a later call continues with a Range request; a connection that is
    cut is taken up again. ``md5`` (hexadecimal) is verified before the file gets its name.

    Raises BadInput when the server cannot be reached or refuses (saying which file to put where by hand), when the
    disk is full (the part is kept), and when the checksum is wrong (the part is deleted).
    """
    path = Path(path)
    with lock(path):
        there = path.exists()
        file = path if there else _fetch(url, path)
        if md5:
            with open(file, "rb") as content:
                got = hashlib.file_digest(content, "md5").hexdigest()
            if got != md5:
                if not there:
                    file.unlink()
                advice = "delete it" if there else "the download was deleted"
                raise BadInput(f"{path} has the wrong md5: expected {md5}, got {got}; {advice} and fetch it again.")
        os.replace(file, path)
    return path


def _fetch(url: str, path: Path) -> Path:
    """The complete part."""
    part, by_hand = path.with_name(path.name + ".part"), f"download {url} by hand and put it at {path}"
    furthest, failures = _size(part), 0
    while failures <= RETRIES:
        try:
            if _continue(url, part, path):
                return part
            error = "the connection was cut"
        except urllib.error.HTTPError as refusal:
            error = f"HTTP status {refusal.code}"
            if refusal.code < 500 and refusal.code not in (408, 429):
                raise BadInput(f"{url} was refused ({error}): {by_hand}.") from refusal
        except (OSError, http.client.HTTPException) as trouble:
            error = reason(trouble)
        failures = 0 if _size(part) > furthest else failures + 1
        furthest = max(furthest, _size(part))
        time.sleep(RETRY_WAIT)
    raise BadInput(f"cannot fetch {url} ({error}): check the network, or {by_hand}.")


def _continue(url: str, part: Path, path: Path) -> bool:
    """Append what the server still has to ``part``; True when the part is the whole file."""
    have, writing = _size(part), partial(_writing, path, "; what was fetched is kept and a rerun continues it")
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as refusal:
        if refusal.code != 416:
            raise
        whole = refusal.headers.get("Content-Range") == f"bytes */{have}"
        if not whole:
            part.unlink()  # not a part of this file
        return whole
    with response:
        if response.status != 206:  # the server ignores Range and starts over
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            return False
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with writing():
            file = open(part, "ab" if have else "wb")  # noqa: SIM115
        with file, tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := response.read(CHUNK):
                with writing():
                    file.write(chunk)
                    file.flush()
                bar.update(len(chunk))
    return total is None or _size(part) == total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def reason(error: BaseException) -> str:
    """An error's cause in words: "No space left on device", "Connection refused", "timed out"."""
    cause = getattr(error, "reason", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
