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
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from tqdm.auto import tqdm

from inpaintlib import BadInput

CHUNK = 1 << 20  # bytes
RETRIES = 4  # reconnections in a row that bring nothing new
RETRY_WAIT = 2.0  # seconds
TIMEOUT = 30.0  # seconds without a byte


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) so that ``path`` holds the old content or the new, never a part of it.

    Missing parent folders are made. Raises BadInput when the disk is full or the file cannot be written; the old
    file is then still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {reason(error)}; what was there before is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_leftovers(path: Path) -> None:
    """The temporary files of processes that were killed while they wrote ``path``."""
    for entry in os.scandir(path.parent):
        leftover = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)-[0-9a-f]{{8}}\.tmp", entry.name)
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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        one_at_a_time.acquire()
    except OSError as error:
        raise BadInput(f"cannot write {file}: {reason(error)}.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: who waits for it notices and makes another
        one_at_a_time.release()


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    return _digest(path, "sha256")


def _digest(path: str | Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def download(
    url: str, path: str | Path, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> Path:
    """Fetch ``url`` to ``path`` unless it is there, with a progress bar; return the path.

    The bytes collect in ``path`` + ".part", which a later call continues with a Range request; a connection that is
    cut is taken up again. ``sha256``, ``md5`` (hexadecimal) and ``size`` (bytes) are verified before the file gets
    its name.

    Raises BadInput when the server cannot be reached or refuses (saying which file to put where by hand), when the
    disk is full (the part is kept), and when a checksum or the size is wrong (the part is deleted).
    """
    path = Path(path)
    with lock(path):
        if not path.exists():
            _download(url, path, sha256, md5, size)
        else:
            _verify(path, path, sha256, md5, size)
    return path


def _download(url: str, path: Path, sha256: str | None, md5: str | None, size: int | None) -> None:
    part = path.with_name(path.name + ".part")
    by_hand = f"download {url} by hand and put it at {path}"
    furthest, failures, done = _size(part), 0, False
    while not done:
        try:
            done = _continue(url, part, path)
            error = "the connection was cut"
        except urllib.error.HTTPError as refusal:
            error = f"HTTP status {refusal.code}"
            if refusal.code < 500 and refusal.code not in (408, 429):
                raise BadInput(f"{url} was refused ({error}): {by_hand}.") from refusal
        except (OSError, http.client.HTTPException) as trouble:
            error = reason(trouble)
        if _size(part) > furthest:
            furthest, failures = _size(part), 0
        elif not done:
            failures += 1
        if failures > RETRIES:
            raise BadInput(f"cannot fetch {url} ({error}): check the network, or {by_hand}.")
        if not done:
            time.sleep(RETRY_WAIT)
    _verify(part, path, sha256, md5, size)
    os.replace(part, path)


def _continue(url: str, part: Path, path: Path) -> bool:
    """Append what the server still has to ``part``; True when the part is the whole file."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as refusal:
        if refusal.code != 416:
            raise
        total = _total(refusal.headers.get("Content-Range"))
        if total == have:
            return True
        part.unlink()  # not a part of this file
        return False
    with response:
        if response.status == 206:
            content_range = response.headers.get("Content-Range", "")
            total = _total(content_range)
            if not content_range.startswith(f"bytes {have}-"):
                part.unlink()
                return False
        else:  # the server ignores Range and starts over
            have, length = 0, response.headers.get("Content-Length")
            total = int(length) if length else None
        with (
            _open_to_write(part, "ab" if have else "wb", path) as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=path.name) as bar,
        ):
            while chunk := response.read(CHUNK):
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise _cannot_write(path, error) from error
                bar.update(len(chunk))
    return total is None or _size(part) == total


def _open_to_write(part: Path, mode: str, path: Path):
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return open(part, mode)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {path}: {reason(error)}; what was fetched is kept and a rerun continues it.")


def _total(content_range: str | None) -> int | None:
    """The file's size in bytes from "bytes 5-9/10" or "bytes */10"."""
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _verify(file: Path, path: Path, sha256: str | None, md5: str | None, size: int | None) -> None:
    """Compare ``file`` (``path`` itself, or its part, which is deleted when wrong) with what is expected."""
    expected = {"size": size, "sha256": sha256, "md5": md5}
    for what, right in expected.items():
        if right is None:
            continue
        got = _size(file) if what == "size" else _digest(file, what)
        if str(got) != str(right).lower():
            advice = "delete it" if file == path else "the download was deleted"
            if file != path:
                file.unlink()
            raise BadInput(f"{path} has the wrong {what}: expected {right}, got {got}; {advice} and fetch it again.")


def reason(error: BaseException) -> str:
    """An error's cause in words: "No space left on device", "Connection refused", "timed out"."""
    cause = getattr(error, "reason", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
