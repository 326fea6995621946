"""Files: atomic writes, strict JSON, checksums, and downloads from a server that misbehaves in every known way."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from inpaintlib import BadInput, files

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``mode`` says how badly, ``requests`` collects the Range header of each request."""

    mode = "good"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        if server.mode == "missing":
            return self.answer(404, b"")
        if server.mode == "busy" and len(server.requests) < 3:
            return self.answer(503, b"")
        if server.mode == "ignores range" or not wanted:
            start, status = 0, 200
        elif start >= len(CONTENT):
            return self.answer(416, b"", f"bytes */{len(CONTENT)}")
        else:
            status = 206
            if server.mode == "wrong range":
                start = start // 2
        body = CONTENT[start:]
        cut = len(body)
        if server.mode in ("cuts", "ignores range") and len(server.requests) < 3:
            cut = 100_000
        if server.mode == "always cuts":
            cut = 100_000 if start == 0 else 0
        self.answer(status, body, f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}" if status == 206 else None, cut)

    def answer(self, status, body, content_range=None, cut=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body[:cut])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(files, "RETRY_WAIT", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_download_is_verified_and_happens_once(server, tmp_path):
    path = tmp_path / "deep" / "archive.zip"
    assert files.download(server.url, path, MD5) == path
    assert path.read_bytes() == CONTENT
    files.download(server.url, path, MD5)
    assert server.requests == [None]
    assert os.listdir(path.parent) == ["archive.zip"]


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.mode = "cuts"
    files.download(server.url, tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]


def test_a_part_of_an_earlier_process_is_continued(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1234])
    files.download(server.url, tmp_path / "a.zip", MD5)
    assert server.requests == ["bytes=1234-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("mode", ["ignores range", "wrong range", "busy"])
def test_unhelpful_servers(server, tmp_path, mode):
    server.mode = mode
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    files.download(server.url, tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(("extra", "requests"), [(0, 1), (7, 2)], ids=["a complete part", "too long a part"])
def test_range_not_satisfiable(server, tmp_path, extra, requests):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"x" * extra)
    files.download(server.url, tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(server.requests) == requests


def test_a_server_that_always_cuts_is_given_up_and_the_part_kept(server, tmp_path):
    server.mode = "always cuts"
    with pytest.raises(BadInput, match=r"cut.*by hand"):
        files.download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:100_000]
    assert len(server.requests) == 2 + files.RETRIES


def test_wrong_checksum_names_both_and_deletes_the_part(server, tmp_path):
    with pytest.raises(BadInput, match=f"md5: expected {'0' * 32}, got {MD5}"):
        files.download(server.url, tmp_path / "a.zip", md5="0" * 32)
    assert os.listdir(tmp_path) == []


def test_a_wrong_file_that_is_there_is_refused_but_not_deleted(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(BadInput, match="delete it and fetch it again"):
        files.download(server.url, tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
    assert server.requests == []


def test_missing_file_on_the_server(server, tmp_path):
    server.mode = "missing"
    with pytest.raises(BadInput, match=f"404.*by hand and put it at {tmp_path / 'a.zip'}"):
        files.download(server.url, tmp_path / "a.zip")
    assert len(server.requests) == 1


def test_no_network(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(BadInput, match=f"refused.*download {url} by hand and put it at {tmp_path / 'a.zip'}"):
        files.download(url, tmp_path / "a.zip")


class FullDisk:
    """A file on a disk that is full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_download_to_a_full_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "open", lambda *args: FullDisk(open(*args)), raising=False)  # noqa: SIM115
    with pytest.raises(BadInput, match="No space left on device; what was fetched is kept"):
        files.download(server.url, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, where):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "metrics.json"
    files.write_atomically(path, "old")
    if where == "write":
        monkeypatch.setattr(files, "open", lambda *args: FullDisk(open(*args)), raising=False)  # noqa: SIM115
    else:
        monkeypatch.setattr(os, where, full)
    with pytest.raises(BadInput, match=f"cannot write {path}: No space left on device"):
        files.write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    files.write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_writer_leaves_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path):
    script = (
        "import os, sys; from inpaintlib import files; os.fsync = lambda file: os.kill(os.getpid(), 9);"
        "files.write_json(sys.argv[1], {})"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "metrics.json")], check=False)
    assert len(os.listdir(tmp_path)) == 1
    nobody = "4194305-01234567.tmp"  # a process that cannot be
    kept = {
        f".metrics.json.{files.HOST}.{os.getpid()}-01234567.tmp",
        f".metrics.json.elsewhere.{nobody}",  # whose processes cannot be seen from here
        f".params.json.{files.HOST}.{nobody}",
    }
    for name in (*kept, f".metrics.json.{files.HOST}.{nobody}"):
        (tmp_path / name).touch()
    files.write_json(tmp_path / "metrics.json", {"psnr": 1})
    assert set(os.listdir(tmp_path)) == {"metrics.json", *kept}


def test_json_is_strict_and_keeps_infinities(tmp_path):
    path = tmp_path / "a.json"
    values = {"ratio": float("inf"), "low": -np.inf, "n": np.int64(3), "x": torch.tensor(0.5), "s": "ü", "p": tmp_path}
    files.write_json(path, values | {"list": (1, np.float32("nan")), "array": np.arange(2), "yes": np.bool_(True)})
    assert '"ratio": "inf"' in path.read_text(encoding="utf-8")
    assert "Infinity" not in path.read_text(encoding="utf-8")
    back = files.read_json(path)
    assert np.isnan(back["list"].pop())
    assert back == {
        **{"ratio": np.inf, "low": -np.inf, "n": 3, "x": 0.5, "s": "ü", "p": str(tmp_path)},
        **{"list": [1], "array": [0, 1], "yes": True},
    }


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1', "", '{"a": Infinity}'])
def test_what_is_not_strict_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match=f"{tmp_path / 'a.json'} is not strict JSON"):
        files.read_json(tmp_path / "a.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nope\.json: No such file"):
        files.read_json(tmp_path / "nope.json")


def test_checksums_of_nothing(tmp_path):
    """The digest of the empty message, from FIPS 180-4."""
    (tmp_path / "empty").touch()
    assert files.sha256(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_lock_admits_one_at_a_time(tmp_path):
    inside, most = 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most
        for _ in range(20):
            with files.lock(tmp_path / "thing"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                threading.Event().wait(0.001)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []
