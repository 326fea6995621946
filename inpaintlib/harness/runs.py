"""Runs: one execution of one notebook with one set of parameters, kept in one folder.

``results/<study>/runs/<run_id>/`` holds

====================  ===============================================================================
``params.json``       every parameter of the notebook, with defaults
``env.json``          what ran and where: notebook, Python, torch, device, threads, git commit, time
``history.csv``       the training's losses (written by training.py)
``per_image.csv.gz``  one row a test photo
``metrics.json``      one flat object, written last and atomically: the run is done
``running.lock``      locked by the process that executes the run for as long as that lives
``error.txt``         the traceback of the last attempt, where that failed
====================  ===============================================================================

The first five are tracked by git, and a folder with them counts as a run wherever it was made.
"""

import atexit
import contextlib
import functools
import gzip
import os
import platform
import re
import socket
import subprocess
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import read_json, reason, write_atomically, write_json
from inpaintlib.harness import parameters as declared
from inpaintlib.harness.parameters import ADDRESS, Scalar, check, cosmetics, digest, notebook_parameters, run_id, show

__all__ = ["Run", "environment", "find", "load_table", "name_run", "notebook_parameters"]

PATIENCE = 1.0  # seconds to wait for a run's lock: another process may just be looking whether it is held
_held: dict[Path, FileLock] = {}  # the folders that this process has claimed


class RunningElsewhere(BadInput):
    """Another process executes the run."""


class Run:
    """A run's folder, and what may be done with it.

    A notebook starts one with ``run = Run.start("10_context_encoder.ipynb", globals())`` and ends it with
    ``run.finish(metrics, per_image)``; a report finds them with ``find`` and ``load_table``.
    """

    def __init__(self, study: str, run_id: str):
        self.study = study
        self.id = run_id
        self.folder = inpaintlib.RESULTS / study / "runs" / run_id
        self._lock = self.folder / "running.lock"
        self._began = time.time(), time.process_time()

    def __repr__(self) -> str:
        return f"Run({self.study!r}, {self.id!r})"

    @classmethod
    def start(cls, notebook: str | Path, namespace: dict[str, Any]) -> "Run":
        """Check the notebook's parameters, as they stand in its ``globals()``, and claim the run's folder; what an
        earlier execution measured there goes.

        An empty ``run_id`` is made from the parameters that differ from their defaults. Raises BadInput when a
        parameter is wrong or missing, another process runs it, or the folder has other parameters or is read-only.
        """
        notebook = Path(notebook)
        if not notebook.exists():
            notebook = inpaintlib.ROOT / "notebooks" / notebook
        known = notebook_parameters(notebook)
        missing = [name for name in (*known, *ADDRESS) if name not in namespace]
        if missing:
            raise BadInput(f"{notebook.name}: {missing[0]} is not defined; execute the cell tagged parameters first.")
        parameters = check(notebook, {name: namespace[name] for name in known})
        study, identity = namespace["study"], namespace["run_id"]
        if not identity:
            changed = [n for n, p in known.items() if n not in ADDRESS and parameters[n] != p.default]
            identity = name_run(study, notebook, parameters, changed)
        run = cls(declared.check_folder_name("study", study), declared.check_folder_name("run_id", identity))
        run._refuse_other(notebook, parameters)
        run.claim()
        for name in ("metrics.json", "per_image.csv", "per_image.csv.gz", "error.txt"):
            (run.folder / name).unlink(missing_ok=True)
        for leftover in run.folder.glob(".*.tmp"):  # of a write that a kill cut off
            leftover.unlink(missing_ok=True)
        write_json(run.folder / "params.json", {n: v for n, v in parameters.items() if n not in ADDRESS})
        about = {"notebook": notebook.name, "cosmetic": cosmetics(notebook)}
        how = {name: parameters[name] for name in ("device", "precision") if name in parameters}
        write_json(run.folder / "env.json", about | environment(**how))
        return run

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The notebook's parameters, without the address. Raises BadInput when the run was never started."""
        return _mapping(self.folder / "params.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json. Raises BadInput when the run is not done."""
        return _mapping(self.folder / "metrics.json")

    @property
    def per_image(self) -> pd.DataFrame:
        """per_image.csv.gz (or .csv), one row a test photo. Raises BadInput where it is missing or damaged."""
        return _per_image(self.folder)

    @property
    def seconds(self) -> float:
        """What the last execution took, from start to finish; 0 where that is not known."""
        return float(mapping_or_empty(self.folder / "env.json").get("seconds", 0.0))

    @property
    def seconds_alone(self) -> float:
        """As ``seconds``; of a run on one thread what it computed, which is less where other work shared its core."""
        env = mapping_or_empty(self.folder / "env.json")
        one_core = env.get("threads") == 1 and env.get("device") == env.get("cpu")
        return min(self.seconds, env.get("cpu_seconds", self.seconds)) if one_core else self.seconds

    def settings(self, kind: type) -> Any:
        """The run's parameters as an instance of a method's settings: a dataclass whose fields are among them."""
        parameters = self.parameters
        return kind(**{field.name: parameters[field.name] for field in fields(kind)})

    @property
    def done(self) -> bool:
        """Nothing is left to do: metrics.json is there (its ``status`` may be "diverged"), and nothing is at fault."""
        return (self.folder / "metrics.json").exists() and not self.fault

    @property
    def fault(self) -> str:
        """Why a run with a metrics.json does not count as done, in one sentence; "" where it does or has none."""
        files = ("metrics.json", "params.json", "env.json", "per_image.csv.gz", "per_image.csv")
        stamps = [_stamp(self.folder / name) for name in files]
        return _fault(self.folder, *stamps) if stamps[0] else ""

    @property
    def held(self) -> bool:
        """Whether a process, this one or another, is executing the run."""
        if self.folder in _held or not self._lock.exists():
            return self.folder in _held
        try:
            with FileLock(self._lock, blocking=False, thread_local=False):
                if not self._lock.read_text():  # its holder has just let go, and this look has made it anew
                    self._lock.unlink()
                return False
        except Timeout:
            return True
        except OSError:  # a read-only folder: nobody runs there
            return False

    @property
    def outcome(self) -> tuple:
        """What the last attempt left, as stamps of its files; another attempt leaves others."""
        return tuple(_stamp(self.folder / name) for name in ("metrics.json", "error.txt"))

    def status(self) -> str:
        """``done``, ``diverged``, ``running``, ``damaged`` (see ``fault``), ``failed`` (error.txt has the traceback),
        ``stale`` (its process was killed) or ``unfinished`` (stopped in good order, or never started)."""
        if self.done:
            return "diverged" if self.metrics.get("status") == "diverged" else "done"
        if self.held:
            return "running"
        if self.fault:
            return "damaged"
        if (self.folder / "error.txt").exists():
            return "failed"
        return "stale" if self._lock.exists() else "unfinished"

    def picture(self, name: str) -> Path:
        """Where the run's picture ``name`` (.png where no suffix is given) belongs."""
        return self.folder / (name if Path(name).suffix else f"{name}.png")

    def finish(self, metrics: dict[str, Any], per_image: pd.DataFrame) -> None:
        """Write per_image.csv.gz, then metrics.json: from then on the run is done, and its checkpoint goes.

        Numbers have 5 digits, of more than 1,000 photos 4, which keeps a night's records small.

        Raises BadInput when a metric has a parameter's name and another value, or the disk is full.
        """
        parameters = self.parameters
        for name in metrics:
            if name in parameters and parameters[name] != metrics[name]:
                raise BadInput(f"the metric {name!r} of run {self.id} has the name of a parameter; rename one.")
        digits = "%.5g" if len(per_image) <= 1000 else "%.4g"
        text = per_image.to_csv(index=False, float_format=digits, lineterminator="\n")
        write_atomically(self.folder / "per_image.csv.gz", gzip.compress(text.encode(), mtime=0))
        wall, cpu = time.time() - self._began[0], time.process_time() - self._began[1]
        took = {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
        write_json(self.folder / "env.json", mapping_or_empty(self.folder / "env.json") | took)
        write_json(self.folder / "metrics.json", {**metrics, "status": "done"})
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        self.release()

    def diverged(self, step: int, checkpoint: str | Path | None, message: str) -> None:
        """End the run at a loss that is not finite: metrics.json gets ``status`` "diverged", the ``step`` (updates
        done), the file name of the last good ``checkpoint`` and the ``message``."""
        last, message = checkpoint and Path(checkpoint).name, message.replace(f"{self.folder}{os.sep}", "")
        found = {"status": "diverged", "step": step, "checkpoint": last, "message": message}
        write_json(self.folder / "metrics.json", found)
        self.release()

    def fail(self, traceback: str) -> None:
        """Keep the traceback of an attempt that failed. Raises RunningElsewhere while another process has the run."""
        self.claim()
        write_atomically(self.folder / "error.txt", traceback.rstrip() + "\n")
        self.release()

    def claim(self) -> None:
        """Make the run this process's own until ``release``, or until the process ends, however it does.

        Raises RunningElsewhere when it is another's, and BadInput where the folder cannot be written.
        """
        if self.folder in _held:
            return
        lock = FileLock(self._lock, timeout=PATIENCE, thread_local=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self._lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout as error:
            holder = self._lock.read_text() or "a process that has just started"
            raise RunningElsewhere(f"run {self.id} of {self.study} is running already ({holder}): wait for it, or stop "
                                   "it first.") from error  # fmt: skip
        except OSError as error:
            raise BadInput(f"cannot write {self.folder}: {reason(error)}; INPAINT_RESULTS names another folder."
                           ) from error  # fmt: skip
        _held[self.folder] = lock

    def release(self) -> None:
        """Say that this process does not execute the run any more; nothing where it did not."""
        if lock := _held.pop(self.folder, None):
            self._lock.unlink(missing_ok=True)
            lock.release()

    def _refuse_other(self, notebook: Path, parameters: dict[str, Scalar]) -> None:
        made = re.search("-([0-9a-f]{6})$", self.id)
        if made and made[1] != digest(notebook, parameters):
            raise BadInput(f"run_id {self.id!r} belongs to other parameters: choose another, or leave it empty.")
        try:
            there = {} if made else self.parameters
        except BadInput:  # never started, or damaged
            return
        for name, other in there.items():
            if name in parameters and name not in cosmetics(notebook) and other != parameters[name]:
                raise BadInput(f"{self.folder} holds a run with {name} = {show(other)}, not {show(parameters[name])}: "
                               "choose another run_id, or leave it empty.")  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A run to be made, with all parameters of its notebook; ``added``: its seed is one that decide.py added."""

    study: str
    run_id: str
    parameters: dict[str, Scalar]
    notebook: Path
    added: bool = False

    @property
    def run(self) -> Run:
        return Run(self.study, self.run_id)


def name_run(study: str, notebook: str | Path, parameters: dict[str, Scalar], swept: Iterable[str]) -> str:
    """The id under which the run with these parameters exists, or else a new ``run_id``."""
    existing = sorted(_runs_folder(study).glob(f"*-{digest(notebook, parameters)}"))
    return existing[0].name if existing else run_id(notebook, parameters, swept)


def find(study: str, **wanted: Any) -> list[Run]:
    """The study's started runs, by id, whose parameters have the ``wanted`` values (one, or a list of them).

    Runs whose params.json is damaged are left out. Raises BadInput when no run has a parameter of that name.
    """
    runs = [Run(study, path.parent.name) for path in sorted(_runs_folder(study).glob("*/params.json"))]
    there = {run: parameters for run in runs if (parameters := mapping_or_empty(run.folder / "params.json"))}
    known = {name for parameters in there.values() for name in parameters}
    for name in wanted:
        if there and name not in known:
            raise BadInput(f"the runs of {study} have no parameter {name!r}{declared.did_you_mean(name, known)}.")
    return [run for run, p in there.items() if all(_matches(p.get(name), value) for name, value in wanted.items())]


def load_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run with status "done": ``run_id``, its parameters, its metrics.

    Runs that diverged have no metrics and are not here: ask them for their ``status()``.
    """
    done = [run for run in runs if run.status() == "done"]
    return pd.DataFrame([{"run_id": run.id, **run.parameters, **run.metrics} for run in done])


def environment(device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """Where and how a run with these parameters computes: what env.json holds; no folder and no host is named."""
    import torch

    from inpaintlib.training import choose_device, native_bf16

    gpu = (where := choose_device(device)).type == "cuda"
    if precision == "auto":
        precision = "bf16" if gpu or native_bf16() else "fp32"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(where) if gpu else _cpu_name(),
        "precision": precision,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def mapping_or_empty(path: Path) -> dict[str, Any]:
    """A JSON file's names and values; none where it is missing or damaged."""
    try:
        return _mapping(path)
    except BadInput:
        return {}


def last_line(path: Path) -> str:
    """The last line of a text file that is not blank; "" where there is none."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        lock = _held.pop(folder)
        with contextlib.suppress(OSError):
            (folder / "running.lock").unlink(missing_ok=True)
            lock.release()


@functools.lru_cache(maxsize=4096)
def _fault(folder: Path, *stamps: Any) -> str:
    """``Run.fault`` of a folder whose files have these stamps."""
    try:
        parameters, metrics = _mapping(folder / "params.json"), _mapping(folder / "metrics.json")
        if metrics.get("status") != "diverged":
            if not metrics.keys() - {"status"}:
                return f"{folder / 'metrics.json'} holds no metric; the run has to be made again."
            if _per_image(folder).empty:
                return f"{folder / 'per_image.csv.gz'} has no rows; the run has to be made again."
    except BadInput as error:
        return str(error)
    made, env = re.search("-([0-9a-f]{6})$", folder.name), mapping_or_empty(folder / "env.json")
    known = made and {"notebook", "cosmetic"} <= set(env)
    if known and made[1] != declared.fingerprint(env["notebook"], parameters, env["cosmetic"]):
        return f"{folder / 'params.json'} does not belong to a folder of this name; the run has to be made again."
    return ""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _per_image(folder: Path) -> pd.DataFrame:
    plain = folder / "per_image.csv"
    path = plain if plain.exists() else folder / "per_image.csv.gz"
    try:
        return pd.read_csv(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({reason(error)}); delete it and sweep again.") from error


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} must hold names and values, not {str(content)[:40]}; delete it and sweep again.")
    return content


def _runs_folder(study: str) -> Path:
    return inpaintlib.RESULTS / study / "runs"


def _matches(value: Scalar | None, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple | set) else value == wanted


def _cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def git_commit() -> str:
    """The commit of the code, with "-dirty" where a tracked Python file or notebook differs from it; asked once."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=inpaintlib.ROOT, capture_output=True, text=True, timeout=10)

    try:
        commit, changes = git("rev-parse", "HEAD"), git("diff", "--quiet", "HEAD", "--", "*.py", "*.ipynb")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return "unknown" if commit.returncode else commit.stdout.strip() + "-dirty" * (changes.returncode == 1)
