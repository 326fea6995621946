"""Executing a study's report notebook: it reads the finished runs and writes tables, figures, GIFs and claims."""

import contextlib
import os
from pathlib import Path

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.harness import sweep
from inpaintlib.harness.runs import find


def execute(study: str, preset: str) -> Path | None:
    """Executes the report of a study; returns the executed copy, ``results/<study>/<notebook>``, or None where the
    sweep names no report (its runs serve another study).

    Raises BadInput for an unknown study and a preset without finished runs.
    """
    import papermill

    plan = sweep.load(study)
    if plan.report is None:
        return None
    if not any(run.done for run in find(study, preset=preset)):
        raise BadInput(f"{study}: no run of the preset {preset!r} is done; make them with "
                       f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
    target = inpaintlib.RESULTS / study / plan.report.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(plan.report.parent):
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        papermill.execute_notebook(str(plan.report), str(target), parameters={"study": study, "preset": preset},
                                   kernel_name="python3", progress_bar=False)  # fmt: skip
    return target
