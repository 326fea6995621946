"""Executing runs: Dask hands them out; each is one notebook in a process of its own.

A Dask worker takes one run at a time. It forks the run's process from a server that has imported the whole package, so
a run starts at once with one version of the code, knows nothing of the run before, and gives all its memory back.
Whoever is killed takes his children along: a run's process ends with its worker, and a worker with the sweep or its
scheduler. The scheduler gives the run of a lost worker to another one, where it resumes from its checkpoint.
"""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness.runs import Planned, Run, RunningElsewhere, git_commit, last_line

GRACE = 30.0  # seconds that an interrupted run has to reach its next checkpoint
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)  # both are Ctrl-C to a sweep
OK, FAILED, INTERRUPTED = 0, 1, 130  # exit statuses of a sweep
ELSEWHERE = 75  # exit status of a process that found its run in another's hands
PACKAGE = Path(inpaintlib.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()  # as this process has imported it
git_commit()  # now, as edits may follow; a forked run keeps the answer
MODULES = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in SOURCES]
WARM = [*(name.removesuffix(".__init__") for name in MODULES), "skimage.metrics"]


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a run. ``threads`` None: as many as the worker's environment says; ``limit``:
    seconds after which the run counts as hung; ``instead``: the ``Run.outcome`` in whose place the run is made again,
    from its beginning; where it has another by then, only what is unfinished is done."""

    item: Planned
    results: Path
    data: Path
    threads: int | None = None
    limit: float | None = None
    instead: tuple | None = None


def execute(job: Job) -> str:
    """The Dask task: execute the run; return its status, or "elsewhere" where another process has it."""
    from distributed import get_worker

    inpaintlib.RESULTS, worker = job.results, get_worker()
    os.environ |= _environment(job)
    state, key = worker.state, worker.get_current_task()
    multiprocessing.current_process()._config["daemon"] = False  # Dask's workers are, and then may not have children
    process = warm_processes().Process(target=_work, args=(job,))
    process.start()
    end, stopped = time.monotonic() + (job.limit or float("inf")), ""
    while process.is_alive() and not stopped:
        process.join(0.2)
        if key not in state.tasks or state.tasks[key].state == "cancelled":
            stopped = "cancelled"
        elif time.monotonic() > end:
            stopped = "hung"
    _stop(process, GRACE if stopped else 0.0)
    failed = stopped == "hung" or (not stopped and process.exitcode not in (0, ELSEWHERE))
    if failed and not job.item.run.done:
        with contextlib.suppress(BadInput):  # another process has it, or the disk is full: then its status says so
            job.item.run.fail(_death(process.exitcode, job.limit if stopped else None))
    return "elsewhere" if process.exitcode == ELSEWHERE else job.item.run.status()


def warm_processes() -> Any:
    """A multiprocessing context whose processes have the whole package imported when they begin."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    context.set_forkserver_preload(WARM)
    return context


def _stop(process: Any, grace: float) -> None:
    """Interrupt the process, and after so many seconds kill it with whatever it started."""
    if grace and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        process.join(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _death(code: int, limit: float | None) -> str:
    if limit is not None:
        return f"Hung: the run was stopped after its time limit of {limit:g} s."
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    hint = " (was memory short?)" if how == "SIGKILL" else ""
    return f"WorkerDied: the process that executed this run ended with {how}{hint}."


# In the run's own process ---------------------------------------------------------------------------------------------


def _own_session() -> None:
    """A session of its own, whose processes can be killed together, and as nice as this process is."""
    os.setsid()
    share, nice = Path("/proc/self/autogroup"), os.nice(0)
    for _ in range(10 if nice and share.exists() else 0):  # Linux shares time among sessions; a new one is not nice
        with contextlib.suppress(OSError):  # another session was made nice within this tenth of a second
            share.write_text(str(nice))
            return
        time.sleep(0.1)


def _work(job: Job) -> None:
    _own_session()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    inpaintlib.RESULTS, inpaintlib.DATA = job.results, job.data
    os.environ |= _environment(job)
    if job.threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    run = job.item.run
    try:
        run.claim()
    except RunningElsewhere:
        sys.exit(ELSEWHERE)
    with contextlib.suppress(KeyboardInterrupt):
        if job.instead == run.outcome:
            for name in ("checkpoint.pt", "metrics.json"):  # in this order: killed in between, it is done again
                (run.folder / name).unlink(missing_ok=True)
        if not run.done:
            _execute(job, run)
    run.release()


def _execute(job: Job, run: Run) -> None:
    """Execute the notebook; what it prints to no cell goes to log.txt, which stays where the run fails."""
    from inpaintlib.harness.notebook import Failed, execute

    os.chdir(job.item.notebook.parent)
    with open(run.folder / "log.txt", "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    address, error = {"study": run.study, "run_id": run.id}, ""
    try:
        execute(job.item.notebook, run.folder / "notebook.ipynb", {**job.item.parameters, **address})
        if not run.done:
            error = f"Unfinished: {job.item.notebook.name} came to its end without run.finish(metrics, per_image)."
    except Failed as failure:
        error = "" if failure.name == "KeyboardInterrupt" else str(failure)
    except Exception:
        error = traceback.format_exc()
    if error and not run.done:
        run.fail(re.sub(r"\x1b\[[0-9;]*m", "", error))
    else:
        (run.folder / "log.txt").unlink(missing_ok=True)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL)


def _environment(job: Job) -> dict[str, str]:
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    folders = {"INPAINT_RESULTS": str(job.results), "INPAINT_DATA": str(job.data)}
    return folders | (threads if job.threads else {})


# The sweep ------------------------------------------------------------------------------------------------------------


def sweep(
    graph: dict[str, list[Planned]],
    needs: dict[str, tuple[str, ...]],
    due: list[Planned],
    workers: int | None = None,
    *,
    scheduler: str | None = None,
    time_limit: float | None = None,
    run_time_limit: float | None = None,
    afresh: bool = False,
) -> int:
    """Execute the runs of the graph, studies in order, that are ``due``, a study's after those that it ``needs``.

    Args:
        workers: runs at a time on this machine, which share its cores; None: one on a CUDA device, else one for every
            two cores. scheduler: the address of a running Dask scheduler instead.
        time_limit: seconds after which all has stopped, each run at a checkpoint.
        run_time_limit: seconds after which a run counts as hung and fails.
        afresh: execute also what is done, and from its beginning.

    Returns 0 when all runs are done (or time was up and none failed), 1 when some are not, 130 when interrupted.
    """
    planned = [item for items in graph.values() for item in items]
    to_do = {(item.study, item.run_id) for item in due}
    if finished := sum(item.run.done for item in planned if (item.study, item.run_id) not in to_do):
        tqdm.write(f"{finished} of {len(planned)} runs were done before")
    workers = workers or default_workers()
    threads = None if scheduler else max(1, _cores() // workers)  # however few are due: other threads, other sums
    job = Job(None, inpaintlib.RESULTS.resolve(), inpaintlib.DATA.resolve(), threads, run_time_limit)
    tasks = [replace(job, item=item, instead=item.run.outcome if afresh else None) for item in due]
    end = time.monotonic() + (time_limit - min(GRACE + 15, time_limit / 4) if time_limit else float("inf"))
    ended, before = "", _progress(due)
    if due:
        bar = tqdm(total=len(planned), initial=len(planned) - len(due), unit="run", disable=None)
        with cluster(scheduler, min(workers, len(due)), job.results) as (client, slots), bar:
            ended = _watch(client, tasks, needs, slots, end, bar)
    done = sum(item.run.done for item in planned)
    failed = any(item.run.status() in ("failed", "damaged") for item in planned)
    if ended:
        tqdm.write(f"{ended}: {done} of {len(planned)} runs are done; start again to do the rest.")
    if ended == "Time is up" and _progress(due) == before:
        tqdm.write(f"No run reached its end or a checkpoint within {time_limit:g} s: the time limit must be longer.")
    if ended == "Interrupted":
        return INTERRUPTED
    return OK if done == len(planned) or (ended == "Time is up" and not failed) else FAILED


def _progress(items: list[Planned]) -> list[float]:
    """When each run was last finished or saved."""
    paths = (item.run.folder / name for item in items for name in ("metrics.json", "checkpoint.pt"))
    return [path.stat().st_mtime if path.exists() else 0.0 for path in paths]


def _watch(
    client: Any, tasks: list[Job], needs: dict[str, tuple[str, ...]], slots: dict[str, float], end: float, bar: tqdm
) -> str:
    """Hand out each run once all of the studies that its own needs have ended and no other process has it; report
    what is finished until all is, or until something else ends the sweep: that is returned."""
    waiting, running, told, ended = tasks, {}, set(), ""
    try:
        with _handling(signal.default_int_handler, *INTERRUPTS):
            while (waiting or running) and not ended:
                for future in [future for future in running if future.done()]:
                    job = running.pop(future)
                    if future.status == "finished" and future.result() == "elsewhere":
                        waiting.append(job)
                    else:
                        _report(future, job.item, bar)
                    future.release()  # Dask would execute it again should the worker that did it die later
                busy = {job.item.study for job in (*waiting, *running.values())}
                free = [job for job in waiting if busy.isdisjoint(needs[job.item.study]) and not _held(job.item, told)]
                waiting = [job for job in waiting if job not in free]
                for job in free:
                    key = f"{job.item.study}-{job.item.run_id[-6:]}-{uuid.uuid4().hex[:8]}"
                    running[client.submit(execute, job, key=key, resources=slots)] = job
                time.sleep(0.5)
                if time.monotonic() > end:
                    ended = "Time is up"
                elif client.status not in ("running", "connecting"):
                    ended = "The scheduler is gone"
            return ended if waiting or running else ""
    except KeyboardInterrupt:
        ended = "Interrupted"
        return ended
    finally:
        if running and ended:
            _stop_all(client, running)


def _held(item: Planned, told: set[str]) -> bool:
    """Whether another process has the run; said once."""
    if (held := item.run.held) and item.run_id not in told:
        told.add(item.run_id)
        tqdm.write(f"waiting   {item.study} {item.run_id}  another process is running it")
    return held


def _stop_all(client: Any, running: dict[Any, Job]) -> None:
    """Cancel all, and give what runs time to reach a checkpoint; a second Ctrl-C takes that away."""
    with contextlib.suppress(KeyboardInterrupt, OSError), _handling(signal.default_int_handler, *INTERRUPTS):
        tqdm.write("Stopping at the next checkpoints; press Ctrl-C once more not to wait for them.")
        client.cancel(list(running), force=True)
        end = time.monotonic() + GRACE
        while any(job.item.run.held for job in running.values()) and time.monotonic() < end:
            time.sleep(0.1)


def _report(future: Any, item: Planned, bar: tqdm) -> None:
    if future.status != "finished":  # its workers died again and again, or it was taken from the scheduler
        with contextlib.suppress(BadInput):
            item.run.fail(f"WorkerDied: {future.exception() if future.status == 'error' else future.status}")
    state = item.run.status()
    why = f"  {last_line(item.run.folder / 'error.txt')} (see {item.run.folder})" if state == "failed" else ""
    tqdm.write(f"{state:9} {item.study} {item.run_id}  {item.run.seconds:.0f} s{why}")
    bar.update()


# The cluster ----------------------------------------------------------------------------------------------------------

DASK = {
    "logging.distributed": "critical",
    # a scheduler that wakes from the machine's sleep would take its workers for lost; a dead one's connection ends
    "distributed.scheduler.worker-ttl": None,
    # Dask looks at itself 50 to 100 times a second, which took a tenth of a core from the trainings
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.profile.enabled": False,
    # Dask has workers hand each freed block back to the system: a third of a training's time went into page faults
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**33,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
}


@contextlib.contextmanager
def cluster(address: str | None, workers: int, results: Path) -> Iterator[tuple[Any, dict[str, float]]]:
    """A Dask client, and what each run must reserve of a worker: of the scheduler at that address, or of a cluster of
    so many local workers, which ends with the block.

    Raises BadInput where the scheduler cannot be reached, has no workers, or its workers cannot execute runs: without
    this package, with another version of it, without the folder of ``results``, with several runs at a time.
    """
    import dask
    from distributed import Client, LocalCluster

    dask.config.set(DASK)
    with contextlib.ExitStack() as stack:
        if address is None:
            here = {"dashboard_address": "localhost:0", "silence_logs": logging.CRITICAL, "memory_limit": 0}
            with _handling(signal.SIG_IGN, signal.SIGINT):  # workers inherit it: Ctrl-C is for this process
                home = LocalCluster(n_workers=workers, threads_per_worker=1, **here)
            stack.callback(_close, home)
            client = stack.enter_context(Client(home))
            tqdm.write(f"{workers} worker{'s' * (workers > 1)}; dashboard: {home.dashboard_link}")
            yield client, {}
            return
        try:
            there = urlsplit(address if "://" in address else f"tcp://{address}")
            socket.create_connection((there.hostname, there.port), timeout=5).close()
            client = stack.enter_context(Client(address, timeout="5s"))
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"the scheduler at {address} cannot be reached; start one with: dask scheduler") from error
        tqdm.write(f"dashboard: {client.dashboard_link}")
        yield client, _slots(client, address, results)


def _close(home: Any) -> None:
    with contextlib.suppress(TimeoutError):  # on a busy machine a worker may die late; it does with this process
        home.close()


def _slots(client: Any, address: str, results: Path) -> dict[str, float]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise BadInput(f"the scheduler at {address} has no workers; start one: dask worker {address} --nthreads 1")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=results, prefix=".seen") as token:
        about = "(__import__('inpaintlib.harness.engine', fromlist=['CODE']).CODE, __import__('os').path.exists({!r}))"
        found = client.run(eval, about.format(token.name), on_error="return")
    for name, about in found.items():
        if not isinstance(about, tuple):
            raise BadInput(f"the worker {name} cannot import inpaintlib ({about}); install it there.")
        if about[0] != CODE:
            raise BadInput(f"the worker {name} has another version of inpaintlib; update it and start it again.")
        if not about[1]:
            raise BadInput(f"the worker {name} does not see {results}; share that folder with it.")
    if all("GPU" in worker["resources"] for worker in workers.values()):
        return {"GPU": 1}
    for name, worker in workers.items():
        if worker["nthreads"] > 1:
            raise BadInput(f"the worker {name} takes {worker['nthreads']} runs at a time; start it with --nthreads 1, "
                           "or with --resources GPU=1.")  # fmt: skip
    return {}


@contextlib.contextmanager
def _handling(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """These signals go to the handler inside the block; only the main thread may say so."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals if main}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Runs at a time: one on a CUDA device, else one for every two cores."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, _cores() // 2)
