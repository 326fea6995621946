"""An hour on one GPU: the plan in notebooks/sweeps/full.md, line by line in order of worth, in pieces of any length."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness import engine, runs, sweep
from inpaintlib.harness.runs import Planned

PRESET, LIMIT, BESIDE = "full", 3600.0, 5.0  # seconds: of the plan, and of a run beside its work (assumed)
COLUMNS = ("line", "study", "runs with", "answers", "work of a run", "speed", "runs", "minutes")


@dataclass(frozen=True)
class Line:
    """A row of the plan, with the seconds of work that it counts for each run, and the runs that no line before it
    makes."""

    number: str
    studies: list[str]
    only: dict[str, list]
    answers: str
    work: float
    measured: bool
    items: list[Planned]


def lines(path: Path | None = None) -> list[Line]:
    """The plan, read from its table. Raises BadInput where a row cannot be read, or has no runs of its own."""
    path, found, before = path or inpaintlib.ROOT / "notebooks" / "sweeps" / "full.md", [], set()
    for row in re.findall(r"^\| (\d+) \|(.*)\|$", path.read_text(encoding="utf-8"), re.M):
        cells = dict(zip(COLUMNS, [row[0], *(cell.strip() for cell in row[1].split("|"))], strict=False))
        terms = re.findall(r"([\d.]+)/([\d.]+)", cells.get("work of a run", ""))
        if len(cells) < len(COLUMNS) or not terms or cells["speed"] not in ("measured", "assumed"):
            raise BadInput(f"{path}: line {row[0]} must have the columns {', '.join(COLUMNS)}, work such as "
                           "12/4 + 8/0.8 and a speed that is measured or assumed.")  # fmt: skip
        studies = cells["study"].split(", ")
        only = sweep.parse_pairs(f"{path}: line {row[0]}", [cells["runs with"]] if cells["runs with"] else [])
        items = [item for study in studies for item in sweep.plan(study, PRESET)]
        items = [item for item in items if all(item.parameters[name] in values for name, values in only.items())
                 and (item.study, item.run_id) not in before]  # fmt: skip
        if not items:
            raise BadInput(f"{path}: line {row[0]} has no runs that are not in a line before it.")
        before |= {(item.study, item.run_id) for item in items}
        work = sum(float(work) / float(speed) for work, speed in terms)
        found.append(Line(row[0], studies, only, cells["answers"], work, cells["speed"] == "measured", items))
    return found


def forecast() -> pd.DataFrame:
    """A row a line: runs, how many are to do, minutes of these, whether its speed is measured, and its GPU memory."""
    with rehearsal():
        beside = [_beside(line) for line in lines()]
    memory, rows = gpu_memory(), []
    for line, seconds in zip(lines(), beside, strict=True):
        due, gb = sum(not item.run.done for item in line.items), memory[line.number]
        each = line.work + (BESIDE if seconds is None else seconds)
        rows.append({"line": line.number, "study": line.studies[0], "answers": line.answers, "runs": len(line.items),
                     "to do": due, "minutes": round(due * each / 60, 1),
                     "speed": "measured" if line.measured else "assumed",
                     "beside a run, s": f"{BESIDE:.0f}, assumed" if seconds is None else f"{seconds:.0f}, measured",
                     "GPU memory": f"{gb:.1f} GiB" if gb else "not measured"})  # fmt: skip
    return pd.DataFrame(rows)


def run(time_limit: float | None = None, workers: int | None = None, dry: bool = False, rehearse: bool = False) -> int:
    """Make what is not done, line by line, for at most ``time_limit`` seconds (a rehearsal: as long as it takes).

    Lines whose photos are not here are named first and left out; the exit status, as a sweep's, says so too. Raises
    BadInput before anything starts where no line's photos are here.
    """
    if dry:
        table = forecast()
        print(table.to_markdown(index=False))
        print(f"\n{table['minutes'].sum():.1f} minutes on one H200; what was cut: notebooks/sweeps/full.md")
        return engine.OK
    planned = lines()
    missing = {line.number: why for line in planned if (why := sweep.missing(line.items))}
    for number, why in missing.items():
        print(f"line {number} is left out: {why}")
    if len(missing) == len(planned):
        raise BadInput(next(iter(missing.values())))
    memory, workers = gpu_memory(), workers or _measured_workers()
    with rehearsal() if rehearse else contextlib.nullcontext():
        status = _run_lines(float("inf") if rehearse else time_limit or LIMIT, workers, memory, missing)
        if rehearse:
            print(report().to_markdown(index=False))
    return status


def _run_lines(limit: float, workers: int | None, memory: dict[str, float], missing: dict[str, str]) -> int:
    end, failed = time.monotonic() + limit, bool(missing)
    for line in lines():
        left = end - time.monotonic()
        if line.number in missing or all(item.run.done for item in line.items) or _too_large(line, memory[line.number]):
            continue
        print(f"line {line.number}: {line.answers}", flush=True)
        how = {} if left == float("inf") else {"time_limit": max(left, 1.0)}
        status = sweep.run(line.studies, PRESET, workers, only=line.only or None, **how)
        if status == engine.INTERRUPTED:
            return status
        failed |= status == engine.FAILED
        if time.monotonic() > end - engine.GRACE / 2:
            print(f"Time is up in line {line.number}; start again to go on.")
            break
    return engine.FAILED if failed else engine.OK


def _too_large(line: Line, needed: float) -> bool:
    """Whether it needs more memory than the GPU has; says so."""
    import torch

    has = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else float("inf")
    if needed > has:
        print(f"line {line.number} is left out: it needs {needed:.1f} GiB of GPU memory and this GPU has {has:.1f}.")
    return needed > has


def gpu_memory() -> dict[str, float]:
    """GiB of GPU memory that each line's largest run took, made or rehearsed, by the number of the line; 0 where none
    was measured."""
    made = {line.number: max(map(_largest, line.items)) for line in lines()}
    with rehearsal():
        return {line.number: max(made[line.number], *map(_largest, line.items)) for line in lines()}


def _largest(item: Planned) -> float:
    try:
        return max([0.0, *pd.read_csv(item.run.folder / "history.csv", usecols=["gpu_gb"])["gpu_gb"].dropna()])
    except (OSError, ValueError):  # no history, or none of a GPU
        return 0.0


def _measured_workers() -> int | None:
    """How many runs at a time ``bench share`` found the fastest on this device; None where it was not measured."""
    path, device = inpaintlib.RESULTS / "bench.csv", runs.environment()["device"]
    if not path.exists():
        return None
    rows = pd.read_csv(path)
    rows = rows[(rows["bench"] == "share") & (rows["device"] == device)]
    return int(rows.loc[rows["value"].idxmax(), "case"].split()[0]) if len(rows) else None


# Rehearsal ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """In the block runs are planned with a thousandth of their training, in results-rehearsal beside results."""
    before = inpaintlib.RESULTS
    inpaintlib.RESULTS, os.environ[sweep.REHEARSE] = before.with_name(f"{before.name}-rehearsal"), "1000"
    try:
        yield
    finally:
        inpaintlib.RESULTS = before
        del os.environ[sweep.REHEARSE]


def report() -> pd.DataFrame:
    """The seconds that each run of a rehearsal took; they went into start and evaluation, hardly into training."""
    rows = [{"line": line.number, "study": item.study, "run": item.run_id, "status": item.run.status(),
             "seconds": item.run.seconds} for line in lines() for item in line.items]  # fmt: skip
    return pd.DataFrame(rows)


def _beside(line: Line) -> float | None:
    """Median seconds of the line's rehearsed runs on a device as this one; None where there are none."""
    device = runs.environment()["device"]
    took = [item.run.seconds for item in line.items if item.run.done
            and runs.mapping_or_empty(item.run.folder / "env.json").get("device") == device]  # fmt: skip
    return median(took) if took else None
