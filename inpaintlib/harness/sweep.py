"""Sweeps: many runs of one notebook, in spawned processes, through papermill.

A sweep file, ``notebooks/sweeps/<study>.yaml``, reads::

    study: context_encoder_ratios
    notebook: 10_context_encoder.ipynb
    report: 11_context_encoder_ratios.ipynb   # optional: what to execute when all is done
    needs: [dcgan]                            # optional: studies whose runs of the same preset must be done before
    parameters: {dataset: demo}               # the same in every run
    presets:
      quick:
        parameters: {kimg: 10}
        workers: 2                            # optional
        runs:
          - {ratio: [1, 100, .inf], seed: [0, 1]}
          - {ratio: 100, seed: [0, 1, 2]}

    claims: [...]                             # optional: see claims.py

Each entry of ``runs`` is a grid, the product of its lists; the sweep is the union of its grids in order, equal runs
merged. Everything is checked against the notebook's declarations (see runs.py) before anything starts.

A run that fails keeps its notebook and traceback and does not stop the others. Interrupt a sweep anywhere and start
it again: finished runs are skipped, and unfinished ones resume from what their notebook saved.
"""

import contextlib
import csv
import graphlib
import itertools
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml
from tqdm import tqdm

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness import runs
from inpaintlib.harness.parameters import Scalar, did_you_mean
from inpaintlib.harness.runs import Run

OK, FAILED, INTERRUPTED = 0, 1, 130  # exit statuses
MARK = "INPAINT_WORKER"  # environment variable by which a worker's kernel is known


@dataclass(frozen=True)
class Preset:
    """One size of a sweep: parameters over the sweep's own, grids of parameter name to values, default workers."""

    parameters: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, list]] = field(default_factory=list)
    workers: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep file's content; ``notebook`` and ``report`` as paths."""

    path: Path
    study: str
    notebook: Path
    report: Path | None
    parameters: dict[str, Any]
    presets: dict[str, Preset]
    claims: list[dict] = field(default_factory=list)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A run to be made, with all parameters of its notebook."""

    study: str
    run_id: str
    parameters: dict[str, Scalar]

    @property
    def run(self) -> Run:
        return Run(self.study, self.run_id)


def load(study: str | Path) -> Sweep:
    """Read the sweep of that name, or the sweep file at that path.

    Raises BadInput, naming file and key, when there is no such sweep, the YAML is broken, a key is unknown, repeated
    or missing, or a value has the wrong form.
    """
    path = Path(study)
    if path.suffix not in (".yaml", ".yml"):
        folder = inpaintlib.ROOT / "notebooks" / "sweeps"
        path = folder / f"{study}.yaml"
        if not path.exists():
            known = [file.stem for file in folder.glob("*.yaml")]
            raise BadInput(f"there is no sweep named {str(study)!r}{did_you_mean(str(study), known)}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise BadInput(f"there is no sweep file {path}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    content = _mapping(
        path, "the file", content, ("study", "notebook", "presets"), ("report", "needs", "parameters", "claims")
    )
    if content["study"] != runs.check_folder_name(f"the name of {path}", path.stem):
        raise BadInput(f"{path}: study must be the file's name, {path.stem!r}, not {content['study']!r}.")
    presets = _mapping(path, "presets", content["presets"])
    return Sweep(
        path=path,
        study=content["study"],
        notebook=_notebook(path, "notebook", content["notebook"]),
        report=_notebook(path, "report", content["report"]) if "report" in content else None,
        parameters=_mapping(path, "parameters", content.get("parameters", {})),
        presets={name: _preset(path, f"presets.{name}", preset) for name, preset in presets.items()},
        claims=content.get("claims") or [],
        needs=_needs(path, content.get("needs", [])),
    )


def in_order(studies: Iterable[str | Path]) -> list[Sweep]:
    """The sweeps of these studies and of all that they need, each after what it needs.

    Raises BadInput where a needed study is missing, and where studies need each other in a circle.
    """
    found, after, waiting = {}, {}, list(studies)
    while waiting:
        one = load(waiting.pop(0))
        if one.study not in found:
            found[one.study], after[one.study] = one, one.needs
            waiting += one.needs
    try:
        return [found[study] for study in graphlib.TopologicalSorter(after).static_order()]
    except graphlib.CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise BadInput(f"the sweeps need each other in a circle: {circle}; take one of these needs away.") from error


def plan(sweep: Sweep | str | Path, preset: str, overrides: dict[str, Any] | None = None) -> list[Planned]:
    """The runs of a preset in order, every parameter checked; ``overrides`` go over all that the file says.

    A notebook's ``preset`` parameter, its label for reports, becomes the preset's name; with overrides it names them
    too, ``quick+kimg=20``, so that such runs never enter the preset's own tables.

    Raises BadInput, naming file and key, for an unknown preset or parameter, a wrong type or a value out of range.
    """
    sweep = sweep if isinstance(sweep, Sweep) else load(sweep)
    if preset not in sweep.presets:
        raise BadInput(f"{sweep.path}: there is no preset {preset!r}{did_you_mean(preset, sweep.presets)}.")
    chosen, overrides = sweep.presets[preset], overrides or {}
    where = f"presets.{preset}"
    _check(sweep, "parameters", sweep.parameters)
    _check(sweep, f"{where}.parameters", chosen.parameters)
    _check(sweep, "the overrides", overrides)
    name = "+".join([preset, *(f"{key}={runs.show(value)}" for key, value in overrides.items())])
    label = {"preset": name} if "preset" in runs.notebook_parameters(sweep.notebook) else {}
    planned = {}
    for i, grid in enumerate(chosen.runs):
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            _check(sweep, f"{where}.runs[{i}]", point)
            given = {**sweep.parameters, **chosen.parameters, **point, **overrides, **label}
            parameters = {n: v for n, v in runs.check(sweep.notebook, given).items() if n not in runs.ADDRESS}
            key = runs.digest(sweep.notebook, parameters)
            if key not in planned:
                name = runs.name_run(sweep.study, sweep.notebook, parameters, {**point, **overrides})
                planned[key] = Planned(sweep.study, name, parameters)
    return list(planned.values())


def planned_ids(study: str, preset: str) -> set[str]:
    """The ids of a preset's runs as its sweep file stands now; none where there is no such sweep or preset."""
    if not (inpaintlib.ROOT / "notebooks" / "sweeps" / f"{study}.yaml").exists() or preset not in load(study).presets:
        return set()
    return {item.run_id for item in plan(study, preset)}


def of_preset(study: str, preset: str, **wanted: Any) -> list[Run]:
    """The runs of a preset as its sweep file stands now, where it has any; else all that carry the preset's name.

    Runs that an earlier version of the file asked for stay in their folders and out of the tables.
    """
    there, planned = runs.find(study, preset=preset, **wanted), planned_ids(study, preset)
    return [run for run in there if run.id in planned] or there


def reported(study: str, preset: str = "auto") -> str:
    """The preset, or, for ``auto``, the last in the sweep file that has a finished run (the first where none has)."""
    if preset != "auto":
        return preset
    there = {run.parameters.get("preset") for run in runs.find(study) if run.done}
    presets = list(load(study).presets)
    return next((name for name in reversed(presets) if name in there), presets[0])


def finished(study: str, preset: str, **wanted: Any) -> Run:
    """The one finished run of a preset with these parameters, for a run that builds on it.

    Raises BadInput, naming the command that makes it, where there is none, and where there are several.
    """
    there = [run for run in of_preset(study, preset, **wanted) if run.status() == "done"]
    which = ", ".join(f"{name} = {runs.show(value)}" for name, value in wanted.items())
    if not there:
        raise BadInput(f"{study}: no run of the preset {preset!r} with {which} is done; make it with "
                       f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
    if len(there) > 1:
        raise BadInput(f"{study}: {len(there)} runs of the preset {preset!r} have {which}; name one arm of them.")
    return there[0]


def run(
    study: str | Path, preset: str = "quick", workers: int | None = None, overrides: dict[str, Any] | None = None
) -> int:
    """Make the runs of a preset that are not done; return the exit status: 0 when all are done, 1 when some are not,
    130 when interrupted.

    ``workers`` processes each execute one notebook at a time and share the CPU's cores: the preset's number where not
    given, else one on a CUDA device and one for every two cores on a CPU. A run that diverged is done. Raises
    BadInput before anything starts.
    """
    sweep = load(study)
    planned = plan(sweep, preset, overrides)
    if workers is not None and workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}.")
    elsewhere = [item for item in planned if item.run.status() == "running"]
    todo = [item for item in planned if not item.run.done and item not in elsewhere]
    workers = min(workers or sweep.presets[preset].workers or _default_workers(), max(1, len(todo)))
    for item in elsewhere:
        tqdm.write(f"skipped   {item.run_id}  another process is running it")
    bar = tqdm(total=len(planned), initial=len(planned) - len(todo), unit="run", desc=sweep.study, disable=None)
    if len(planned) > len(todo):
        tqdm.write(f"{len(planned) - len(todo) - len(elsewhere)} of {len(planned)} runs were done before")
    with bar:
        interrupted = _run_all(sweep.notebook, todo, workers, bar)
    done = sum(item.run.done for item in planned)
    if interrupted:
        tqdm.write(f"Interrupted: {done} of {len(planned)} runs are done; start again to do the rest.")
        return INTERRUPTED
    return OK if done == len(planned) else FAILED


def status(study: str | None = None) -> pd.DataFrame:
    """All runs of a study (or of all studies): ``study``, ``run_id``, ``status`` (see ``Run.status``), ``kimg`` shown
    so far (from history.csv) of ``kimg_total``, and ``error``, the last line of a failed run's traceback."""
    if study is not None and not (inpaintlib.RESULTS / study).exists():
        load(study)
    folders = sorted(inpaintlib.RESULTS.glob(f"{study or '*'}/runs/*/"))
    rows = [_status_row(Run(folder.parents[1].name, folder.name)) for folder in folders]
    return pd.DataFrame(rows, columns=["study", "run_id", "status", "kimg", "kimg_total", "error"])


# Executing ------------------------------------------------------------------------------------------------------------


class _Worker:
    """A spawned process that executes one notebook after another, and its end of the pipe."""

    def __init__(self, notebook: Path, threads: int):
        context = multiprocessing.get_context("spawn")
        self.mark = uuid.uuid4().hex
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, notebook, _environment(self.mark, threads))
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        with _ignoring(signal.SIGINT):  # the child inherits it: Ctrl-C is for this process to handle
            self.process.start()
        theirs.close()

    def stop(self) -> None:
        """Kill the process and its kernel."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        _kill_kernel(self.mark)


def _run_all(notebook: Path, todo: list[Planned], workers: int, bar: tqdm) -> bool:
    """Execute the runs on so many workers; return whether that was interrupted."""
    threads = max(1, _cores() // workers)
    queue, busy, idle = list(todo), {}, []
    try:
        with _interruptible():
            while queue or busy:
                while queue and len(busy) < workers:
                    worker = idle.pop() if idle else _Worker(notebook, threads)
                    busy[worker.pipe] = (worker, queue[0], time.monotonic())
                    worker.pipe.send(queue.pop(0))
                for pipe in wait(list(busy), timeout=1.0):
                    worker, item, start = busy[pipe]
                    if _finished(worker, item):
                        idle.append(worker)
                    del busy[pipe]
                    _report(item, time.monotonic() - start, bar)
                bar.refresh()
    except KeyboardInterrupt:
        return True
    finally:
        with _ignoring(signal.SIGINT, signal.SIGTERM):
            for worker in idle + [worker for worker, _, _ in busy.values()]:
                worker.stop()
            for _, item, _ in busy.values():
                item.run.release()
    return False


def _finished(worker: _Worker, item: Planned) -> bool:
    """Take the worker's word that it finished; a worker that died instead leaves a failed run."""
    try:
        worker.pipe.recv()
        return True
    except (EOFError, OSError):
        worker.process.join(5.0)
        code = worker.process.exitcode or 0
        worker.stop()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        hint = " (was memory short?)" if how == "SIGKILL" else ""
        if not item.run.done:
            item.run.fail(f"WorkerDied: the process that executed this run ended with {how}{hint}.")
        return False


def _report(item: Planned, seconds: float, bar: tqdm) -> None:
    state = item.run.status()
    why = f"  {_last_line(item.run.folder / 'error.txt')} (see {item.run.folder})" if state == "failed" else ""
    tqdm.write(f"{state:9} {item.run_id}  {seconds:.0f} s{why}")
    bar.update()


def _work(pipe: Connection, notebook: Path, environment: dict[str, str]) -> None:
    """The worker process: execute what comes through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    inpaintlib.RESULTS = Path(environment["INPAINT_RESULTS"])
    threading.Thread(target=_end_with_parent, args=(environment[MARK],), daemon=True).start()
    os.chdir(notebook.parent)
    with contextlib.suppress(EOFError):
        while True:
            _execute(notebook, pipe.recv())
            pipe.send("finished")


def _end_with_parent(mark: str) -> None:
    multiprocessing.parent_process().join()
    _kill_kernel(mark)
    os._exit(1)


def _execute(notebook: Path, item: Planned) -> None:
    """Execute the notebook in a kernel of its own; what it prints to no cell goes to log.txt."""
    import papermill

    folder, error = item.run.folder, ""
    folder.mkdir(parents=True, exist_ok=True)
    _redirect_output(folder / "log.txt")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(folder / "notebook.ipynb"),
            parameters={**item.parameters, "study": item.study, "run_id": item.run_id},
            kernel_name="python3",
            language="python",
            progress_bar=False,
        )
        if not item.run.done:
            error = f"Unfinished: {notebook.name} came to its end without run.finish(metrics, per_image)."
    except papermill.PapermillExecutionError as failure:
        error = "\n".join(failure.traceback) or str(failure)
    except Exception:
        error = traceback.format_exc()
    if error:
        item.run.fail(re.sub(r"\x1b\[[0-9;]*m", "", error))
    else:
        (folder / "log.txt").unlink()


def _redirect_output(path: Path) -> None:
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _environment(mark: str, threads: int) -> dict[str, str]:
    """What a worker and its kernels find in their environment."""
    paths = [str(Path(inpaintlib.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        MARK: mark,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "INPAINT_RESULTS": str(inpaintlib.RESULTS.resolve()),
        "INPAINT_DATA": str(inpaintlib.DATA.resolve()),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the kernel's debugger warns about frozen modules
    }


def _kill_kernel(mark: str) -> None:
    """Kill all processes that carry the mark: a worker's kernel and what that started, whoever their parent is now."""
    marked = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get(MARK) == mark]
    for process in marked:
        with contextlib.suppress(psutil.Error):
            process.kill()
    end = time.monotonic() + 5.0
    while any(map(_alive, marked)) and time.monotonic() < end:
        time.sleep(0.01)


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def _ignoring(*signals: signal.Signals) -> Iterator[None]:
    with _handling(dict.fromkeys(signals, signal.SIG_IGN)):
        yield


def _interruptible() -> contextlib.AbstractContextManager[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    return _handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.default_int_handler))


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_workers() -> int:
    import torch

    return 1 if torch.cuda.is_available() else max(1, _cores() // 2)


# Reading --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _mapping(path: Path, where: str, value: Any, required: tuple = (), optional: tuple | None = None) -> dict:
    """``value``, which must be a mapping with text keys: the required and the optional ones, or any."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadInput(f"{path}: {where} must be a mapping of names to values, not {value!r}.")
    for key in value if optional is not None else ():
        if key not in (*required, *optional):
            raise BadInput(f"{path}: {where} has an unknown key {key!r}{did_you_mean(key, (*required, *optional))}.")
    for key in required:
        if key not in value:
            raise BadInput(f"{path}: {where} lacks the key {key!r}.")
    return value


def _needs(path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise BadInput(f"{path}: needs must be a list of studies, not {value!r}.")
    return tuple(value)


def _preset(path: Path, where: str, value: Any) -> Preset:
    value = _mapping(path, where, value, ("runs",), ("parameters", "workers"))
    workers = value.get("workers")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise BadInput(f"{path}: {where}.workers must be a whole number of at least 1, not {workers!r}.")
    if not isinstance(value["runs"], list) or not value["runs"]:
        raise BadInput(f"{path}: {where}.runs must be a list of grids, not {value['runs']!r}.")
    grids = [_grid(path, f"{where}.runs[{i}]", grid) for i, grid in enumerate(value["runs"])]
    return Preset(_mapping(path, f"{where}.parameters", value.get("parameters", {})), grids, workers)


def _grid(path: Path, where: str, value: Any) -> dict[str, list]:
    grid = {name: v if isinstance(v, list) else [v] for name, v in _mapping(path, where, value).items()}
    for name, values in grid.items():
        if not values:
            raise BadInput(f"{path}: {where}.{name} is an empty list; give it at least one value.")
    return grid


def _notebook(path: Path, key: str, name: Any) -> Path:
    """The notebook of that name, beside the sweep file's folder or in it."""
    for folder in (path.parent.parent, path.parent):
        if isinstance(name, str) and (folder / name).is_file():
            return (folder / name).resolve()
    raise BadInput(f"{path}: {key} must name a notebook in {path.parent.parent}, and {name!r} is not there.")


def _check(sweep: Sweep, where: str, parameters: dict[str, Any]) -> None:
    for name in runs.ADDRESS:
        if name in parameters:
            raise BadInput(f"{sweep.path}: {where} gives {name}, which the sweep itself sets; leave it out.")
    try:
        runs.check(sweep.notebook, parameters)
    except BadInput as error:
        raise BadInput(f"{sweep.path}: {where}: {error}") from error


def _status_row(run: Run) -> dict[str, Any]:
    parameters = run.parameters if (run.folder / "params.json").exists() else {}
    state = run.status()
    return {
        "study": run.study,
        "run_id": run.id,
        "status": state,
        "kimg": _last_kimg(run.folder / "history.csv"),
        "kimg_total": parameters.get("kimg", float("nan")),
        "error": _last_line(run.folder / "error.txt") if state == "failed" else "",
    }


def _last_kimg(history: Path) -> float:
    """The last ``kimg`` in history.csv; NaN where there is none (its last line may be half written)."""
    try:
        rows = list(csv.DictReader(history.read_text().rpartition("\n")[0].splitlines()))
        return float(rows[-1]["kimg"])
    except (OSError, IndexError, KeyError, ValueError, TypeError):
        return float("nan")


def _last_line(path: Path) -> str:
    lines = path.read_text().split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")
