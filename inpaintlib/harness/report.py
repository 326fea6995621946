"""Executing report notebooks: they read the finished runs and write tables, figures, GIFs and claims."""

import contextlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness import claims, engine, html, readme, sweep
from inpaintlib.harness.parameters import notebook_parameters
from inpaintlib.harness.runs import find
from inpaintlib.harness.tables import Results

OVERALL = "91_*.ipynb"  # the notebook that reads all studies


def execute(study: str, preset: str = "auto") -> Path | None:
    """Executes the report of a study; returns the executed copy, ``results/<study>/<notebook>``. Where the sweep names
    no report (its runs serve another study), its claims are judged all the same, and None comes back.

    ``auto`` is the largest preset that is complete. Raises BadInput for an unknown study and a preset without finished
    runs.
    """
    plan = sweep.load(study)
    preset = sweep.reported(plan, preset)
    if not any(run.done for run in find(plan.study, preset=preset)):
        raise BadInput(f"{plan.study}: no run of the preset {preset!r} is done; make them with "
                       f"python -m inpaintlib sweep {plan.study} --preset {preset}")  # fmt: skip
    if plan.report is None:
        claims.write(Results(plan.study, preset))
        return None
    return _executed([(plan.report, plan.study, preset)])[0]


def execute_all(preset: str = "auto") -> list[Path]:
    """Executes the reports of all studies that have finished runs of the preset, two at a time, makes claims.csv from
    all presets, and executes the notebook that reads them all (it shows, for each claim, the largest preset that tested
    it); returns the executed copies."""
    chosen = {study: sweep.reported(study, preset) for study in claims.studies()}
    ready = {study: name for study, name in chosen.items() if any(run.done for run in find(study, preset=name))}
    if not ready:
        raise BadInput(f"no study has a finished run of the preset {preset!r}; make them with "
                       "python -m inpaintlib sweep all --preset quick")  # fmt: skip
    plans = [(sweep.load(study), name) for study, name in ready.items()]
    done = _executed([(plan.report, plan.study, name) for plan, name in plans if plan.report])
    claims.build()
    overall = sorted((inpaintlib.ROOT / "notebooks").glob(OVERALL))
    done += _executed([(path, path.stem[3:], "auto") for path in overall])
    if inpaintlib.RESULTS == inpaintlib.ROOT / "results":
        readme.update_readme()
    return done


def html_page() -> str:
    """Writes results/report.html (see html.py); returns the scoreboard of verdicts and the page's path, to print."""
    page = html.write()
    rows = claims.read() if (inpaintlib.RESULTS / "claims.csv").exists() else []
    return f"{claims.scoreboard_text(rows)}\n\n{page}" if len(rows) else str(page)


def _executed(notebooks: list[tuple[Path, str, str]]) -> list[Path]:
    """Executes notebooks, each with its study and preset, two at a time; like a run, each has a process of its own."""
    if not notebooks:
        return []
    here = (inpaintlib.RESULTS,)
    with ProcessPoolExecutor(2, engine.warm_processes(), _set_results, here, max_tasks_per_child=1) as pool:
        return list(pool.map(_execute, *zip(*notebooks, strict=True)))


def _execute(notebook: Path, study: str, preset: str) -> Path:
    from inpaintlib.harness.notebook import execute

    target = inpaintlib.RESULTS.resolve() / study / notebook.name
    target.parent.mkdir(parents=True, exist_ok=True)
    given = {"study": study, "preset": preset}
    given = {name: value for name, value in given.items() if name in notebook_parameters(notebook)}
    with contextlib.chdir(notebook.parent):
        execute(notebook, target, given)
    return target


def _set_results(folder: Path) -> None:
    inpaintlib.RESULTS = folder
