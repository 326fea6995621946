"""Runs: one execution of one notebook with one set of parameters, kept in one folder.

``results/<study>/runs/<run_id>/`` holds

=================  ==================================================================================
``params.json``    every parameter of the notebook, with defaults
``env.json``       what ran and where: notebook, Python, torch, device, threads, git commit, time
``history.csv``    the training's losses (written by training.py)
``per_image.csv``  one row a test photo
``metrics.json``   one flat object, written last and atomically: it exists = the run is done
``running.json``   who is running it; touched every few seconds while that process lives
``error.txt``      the traceback of the last attempt, where that failed
=================  ==================================================================================

A notebook declares its parameters in the cell tagged ``parameters``, one annotated scalar a line. The comment gives
the unit or meaning, and may end in what is allowed::

    ratio: float = 1000.0  # lambda_rec / lambda_adv [0, inf]
    lr: float = 0.0002  # learning rate of the generator (0, 1)
    norm: str = "l2"  # reconstruction loss {l1, l2}
    tensorboard: bool = True  # write logs to watch (cosmetic)

A square bracket includes the bound and a round one excludes it; braces list the choices; ``(cosmetic)`` marks what
cannot change the result and so stays out of the run's identity, as do ``study`` and ``run_id``, its address.
"""

import ast
import atexit
import contextlib
import difflib
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import socket
import subprocess
import threading
import time
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import read_json, write_atomically, write_json

Scalar = bool | int | float | str

ADDRESS = ("study", "run_id")  # parameters that say where a run is kept, not what it is
HEARTBEAT = 5.0  # seconds between two touches of running.json
STALE_AFTER = 60.0  # seconds without a touch
TYPES = {"bool": bool, "int": int, "float": float, "str": str}
BOUND = r"\s*-?(?:inf|\.?\d[\d.e+-]*)\s*"
RANGE = re.compile(rf"[\[(]{BOUND},{BOUND}[\])]")
CHOICES = re.compile(r"\{([^{}]+)\}")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell. ``range`` is the text "[0, inf]", ``choices`` empty for any."""

    name: str
    type: type
    default: Scalar
    help: str = ""
    range: str = ""
    choices: tuple[str, ...] = ()
    cosmetic: bool = False

    def check(self, value: Any) -> Scalar:
        """``value`` in the parameter's type (an int becomes a float where one is due; "inf" is infinity).

        Raises BadInput for another type, NaN, a value outside the range or not among the choices.
        """
        if self.type is float:
            value = _as_float(value)
        if type(value) is not self.type:
            hint = ""
            if self.type is float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.I):
                hint = f" (YAML reads {value} as text; write {re.sub('(?i)e', '.0e', value)})"
            raise BadInput(f"{self.name} must be {WORDS[self.type]}, not {value!r}{hint}.")
        if self.type is float and math.isnan(value):
            raise BadInput(f"{self.name} must be a number, not NaN.")
        if self.range and not _within(value, self.range):
            raise BadInput(f"{self.name} must be in {self.range}, not {show(value)}.")
        if self.choices and show(value) not in self.choices:
            raise BadInput(f"{self.name} must be one of {', '.join(self.choices)}, not {show(value)!r}.")
        return value


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name and in order.

    Raises BadInput when the file is missing or not a notebook, has no cell tagged ``parameters``, or that cell holds
    anything but annotated scalars.
    """
    notebook = Path(notebook)
    try:
        changed = notebook.stat().st_mtime_ns
    except OSError as error:
        raise BadInput(f"there is no notebook {notebook}.") from error
    return dict(_declared(notebook, changed))


def check(notebook: str | Path, parameters: dict[str, Any]) -> dict[str, Scalar]:
    """All of the notebook's parameters: those given, checked against its declarations, and the others' defaults.

    Raises BadInput for a name that the notebook does not declare (with the nearest that it does), a wrong type
    (a bool is not an int) and a value outside the declared range or choices.
    """
    declared = notebook_parameters(notebook)
    for name in parameters:
        if name not in declared:
            raise BadInput(f"{Path(notebook).name} has no parameter {name!r}{did_you_mean(name, declared)}.")
    return {
        name: parameter.check(parameters[name]) if name in parameters else parameter.default
        for name, parameter in declared.items()
    }


def run_id(notebook: str | Path, parameters: dict[str, Scalar], swept: Iterable[str]) -> str:
    """A readable, file-name-safe name such as ``ratio=100,seed=0-3fa2c1``.

    It shows the ``swept`` parameters in order; its end is the ``digest`` of all.
    """
    shown = ",".join(f"{name}={show(parameters[name])}" for name in swept) or "defaults"
    return f"{re.sub('[^A-Za-z0-9.,=+_-]', '_', shown)[:120]}-{digest(notebook, parameters)}"


def digest(notebook: str | Path, parameters: dict[str, Scalar]) -> str:
    """Six hexadecimal digits that identify a run: SHA-256 over the notebook's name and the parameters (complete, as
    ``check`` returns them) that determine the result, as canonical JSON."""
    cosmetic = [parameter.name for parameter in notebook_parameters(notebook).values() if parameter.cosmetic]
    what = {
        name: value if value not in (math.inf, -math.inf) else str(value)
        for name, value in parameters.items()
        if name not in (*ADDRESS, *cosmetic)
    }
    canonical = json.dumps(
        {"notebook": Path(notebook).name, "parameters": what}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:6]


def name_run(study: str, notebook: str | Path, parameters: dict[str, Scalar], swept: Iterable[str]) -> str:
    """The id of the run with these parameters: the one under which it exists (a sweep that grew may show other
    parameters), or else a new ``run_id``."""
    existing = sorted(_runs_folder(study).glob(f"*-{digest(notebook, parameters)}"))
    return existing[0].name if existing else run_id(notebook, parameters, swept)


class Run:
    """A run's folder, and what may be done with it.

    A notebook starts one with ``run = Run.start("10_context_encoder.ipynb", globals())`` and ends it with
    ``run.finish(metrics, per_image)``; a report finds them with ``find`` and ``load_table``.
    """

    def __init__(self, study: str, run_id: str):
        self.study = study
        self.id = run_id
        self.folder = _runs_folder(study) / run_id
        self._stop = threading.Event()

    def __repr__(self) -> str:
        return f"Run({self.study!r}, {self.id!r})"

    @classmethod
    def start(cls, notebook: str | Path, namespace: dict[str, Any]) -> "Run":
        """Check the notebook's parameters, as they stand in its ``globals()``, and claim the run's folder.

        ``study`` and ``run_id`` are parameters like the others; an empty ``run_id`` is made from the parameters that
        differ from their defaults. Raises BadInput when a parameter is wrong or missing, when another process is
        running this run, and when the folder holds a run with other parameters.
        """
        notebook = Path(notebook)
        if not notebook.exists():
            notebook = inpaintlib.ROOT / "notebooks" / notebook
        declared = notebook_parameters(notebook)
        missing = [name for name in (*declared, *ADDRESS) if name not in namespace]
        if missing:
            raise BadInput(f"{notebook.name}: {missing[0]} is not defined; execute the cell tagged parameters first.")
        parameters = check(notebook, {name: namespace[name] for name in declared})
        study, identity = namespace["study"], namespace["run_id"]
        if not identity:
            changed = [n for n, p in declared.items() if n not in ADDRESS and parameters[n] != p.default]
            identity = name_run(study, notebook, parameters, changed)
        run = cls(check_folder_name("study", study), check_folder_name("run_id", identity))
        run._claim(notebook, {n: v for n, v in parameters.items() if n not in ADDRESS})
        return run

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The notebook's parameters, without the address. Raises BadInput when the run was never started."""
        return read_json(self.folder / "params.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json. Raises BadInput when the run is not done."""
        return read_json(self.folder / "metrics.json")

    @property
    def per_image(self) -> pd.DataFrame:
        """per_image.csv, one row a test photo."""
        return pd.read_csv(self.folder / "per_image.csv")

    def settings(self, kind: type) -> Any:
        """The run's parameters as an instance of a method's settings: a dataclass whose fields are among them."""
        parameters = self.parameters
        return kind(**{field.name: parameters[field.name] for field in fields(kind)})

    @property
    def done(self) -> bool:
        """Nothing is left to do: metrics.json exists (its ``status`` may be "diverged")."""
        return (self.folder / "metrics.json").exists()

    def status(self) -> str:
        """``done``, ``diverged``, ``running``, ``failed`` (error.txt has the traceback), ``stale`` (its process died
        or went silent for a minute) or ``unfinished`` (stopped in good order, or never started)."""
        if self.done:
            return self.metrics.get("status", "done")
        if self._holder_lives():
            return "running"
        if (self.folder / "error.txt").exists():
            return "failed"
        return "stale" if self._lock.exists() else "unfinished"

    def picture(self, name: str) -> Path:
        """Where the run's picture ``name`` (.png where no suffix is given) belongs."""
        return self.folder / (name if Path(name).suffix else f"{name}.png")

    def finish(self, metrics: dict[str, Any], per_image: pd.DataFrame) -> None:
        """Write per_image.csv, then metrics.json with ``status`` "done": from then on the run is done.

        Raises BadInput when a metric has a parameter's name and another value, or the disk is full.
        """
        parameters = self.parameters
        for name in metrics:
            if name in parameters and parameters[name] != metrics[name]:
                raise BadInput(f"the metric {name!r} of run {self.id} has the name of a parameter; rename one.")
        write_atomically(self.folder / "per_image.csv", per_image.to_csv(index=False))
        write_json(self.folder / "metrics.json", {**metrics, "status": "done"})
        self.release()

    def diverged(self, step: int, checkpoint: str | Path | None, message: str) -> None:
        """End the run at a loss that is not finite: metrics.json gets ``status`` "diverged", the ``step`` (updates
        done), the last good ``checkpoint`` and the ``message``."""
        write_json(
            self.folder / "metrics.json",
            {"status": "diverged", "step": step, "checkpoint": checkpoint and str(checkpoint), "message": message},
        )
        self.release()

    def fail(self, traceback: str) -> None:
        """Keep the traceback of an attempt that failed."""
        write_atomically(self.folder / "error.txt", traceback.rstrip() + "\n")
        self.release()

    def release(self) -> None:
        """Say that nobody is running this run any more."""
        self._stop.set()
        self._lock.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.folder / "running.json"

    def _claim(self, notebook: Path, parameters: dict[str, Scalar]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "params.json").exists():
            self._refuse_other(notebook, parameters)
        self._take_lock()
        (self.folder / "error.txt").unlink(missing_ok=True)
        write_json(self.folder / "params.json", parameters)
        write_json(self.folder / "env.json", {"notebook": notebook.name, **environment()})
        atexit.register(self._leave)
        threading.Thread(target=self._beat, daemon=True).start()

    def _leave(self) -> None:
        if self._holder().get("pid") == os.getpid():
            self.release()

    def _refuse_other(self, notebook: Path, parameters: dict[str, Scalar]) -> None:
        there = self.parameters
        for name, value in parameters.items():
            other = there.get(name)
            if other != value and not notebook_parameters(notebook)[name].cosmetic:
                raise BadInput(
                    f"{self.folder} holds a run with {name} = {show(other)}, not {show(value)}: "
                    "choose another run_id, or leave it empty."
                )

    def _take_lock(self) -> None:
        me = psutil.Process()
        if self._holder_lives():
            if self._holder().get("pid") == me.pid:
                return
            raise BadInput(
                f"run {self.id} of {self.study} is running already (process {self._holder().get('pid')} on "
                f"{self._holder().get('host')}): wait for it, or stop it first."
            )
        self._lock.unlink(missing_ok=True)
        try:
            with open(self._lock, "x") as file:
                json.dump({"pid": me.pid, "created": me.create_time(), "host": socket.gethostname()}, file)
        except FileExistsError as error:
            raise BadInput(f"run {self.id} of {self.study} has just been started by another process.") from error

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._lock.read_text())
        except (OSError, ValueError):
            return {}

    def _holder_lives(self) -> bool:
        try:
            fresh = time.time() - self._lock.stat().st_mtime < STALE_AFTER
        except OSError:
            return False
        holder = self._holder()
        if not fresh or not holder or holder["host"] != socket.gethostname():
            return fresh
        try:
            process = psutil.Process(holder["pid"])
            return process.create_time() == holder["created"] and alive(process)
        except psutil.Error:
            return False

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stop.wait(HEARTBEAT):
                os.utime(self._lock)


def find(study: str, **wanted: Any) -> list[Run]:
    """The study's started runs, by id, whose parameters have the ``wanted`` values (one, or a list of them).

    Raises BadInput when no run has a parameter of that name.
    """
    runs = [Run(study, path.parent.name) for path in sorted(_runs_folder(study).glob("*/params.json"))]
    known = {name for run in runs for name in run.parameters}
    for name in wanted:
        if runs and name not in known:
            raise BadInput(f"the runs of {study} have no parameter {name!r}{did_you_mean(name, known)}.")
    return [run for run in runs if all(_matches(run.parameters.get(name), value) for name, value in wanted.items())]


def load_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run with status "done": ``run_id``, its parameters, its metrics.

    Runs that diverged have no metrics and are not here: ask them for their ``status()``.
    """
    done = [run for run in runs if run.status() == "done"]
    return pd.DataFrame([{"run_id": run.id, **run.parameters, **run.metrics} for run in done])


def environment() -> dict[str, Any]:
    """Where this process runs: what env.json holds."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def alive(process: psutil.Process) -> bool:
    """Whether the process runs, and is not just an entry that its parent has not collected."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def show(value: Scalar) -> str:
    """A value as a reader writes it: 100 for 100.0, inf, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def check_folder_name(what: str, name: str) -> str:
    """``name``; raises BadInput where it could not name a folder everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9=+_-][A-Za-z0-9.,=+_-]*", name):
        raise BadInput(f"{what} must be made of letters, digits and . , = + _ - to name a folder, not {name!r}.")
    return name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known) or 'none'})"


def _runs_folder(study: str) -> Path:
    return inpaintlib.RESULTS / study / "runs"


def _matches(value: Scalar | None, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple | set) else value == wanted


def _as_float(value: Any) -> Any:
    if value in ("inf", "-inf") or (isinstance(value, int) and not isinstance(value, bool)):
        return float(value)
    return value


def _within(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


@functools.lru_cache
def _declared(notebook: Path, changed: int) -> dict[str, Parameter]:
    """``notebook_parameters`` of a notebook last ``changed`` then; a sweep asks many times."""
    source = _parameters_cell(notebook)
    try:
        statements, comments = ast.parse(source).body, _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise BadInput(f"{notebook}: the cell tagged parameters is not valid Python ({error}).") from error
    parameters = [_parameter(notebook, node, comments.get(node.end_lineno, "")) for node in statements]
    return {parameter.name: parameter for parameter in parameters}


def _parameters_cell(notebook: Path) -> str:
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{notebook} is not a Jupyter notebook (JSON with cells).") from error
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return "".join(cell["source"])
    raise BadInput(f"{notebook} has no cell tagged parameters.")


def _comments(source: str) -> dict[int, str]:
    """The comment on each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _parameter(notebook: Path, node: ast.stmt, comment: str) -> Parameter:
    simple = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    kind = TYPES.get(ast.unparse(node.annotation)) if simple else None
    if kind is None:
        raise BadInput(
            f"{notebook}: {ast.unparse(node).splitlines()[0]!r} in the cell tagged parameters must read "
            "'name: type = value  # meaning', with type one of bool, int, float, str."
        )
    try:
        text = ast.unparse(node.value)
        default = float("inf") if text in ("float('inf')", "math.inf") else ast.literal_eval(node.value)
    except ValueError as error:
        raise BadInput(f"{notebook}: the default of {node.target.id} must be a plain value, not {text}.") from error
    interval, choices = RANGE.search(comment), CHOICES.search(comment)
    parameter = Parameter(
        name=node.target.id,
        type=kind,
        default=default,
        help=comment,
        range=interval[0] if interval else "",
        choices=tuple(choice.strip() for choice in choices[1].split(",")) if choices else (),
        cosmetic="(cosmetic)" in comment,
    )
    try:
        parameter = Parameter(**{**parameter.__dict__, "default": parameter.check(default)})
    except BadInput as error:
        raise BadInput(f"{notebook}: the default of {error}") from error
    return parameter


def _cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=inpaintlib.ROOT, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
