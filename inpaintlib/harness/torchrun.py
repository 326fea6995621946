"""One run on several GPUs: ``torchrun --nproc-per-node 4 -m inpaintlib.harness.torchrun STUDY PRESET NAME=VALUE ...``.

The pairs must leave one run of the preset that is not done. The first process executes it as a sweep does; the others
follow its training in a folder that goes when they end. See parallel.py; only tried on CPUs.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import inpaintlib
from inpaintlib import BadInput, parallel
from inpaintlib.harness import engine, notebook, sweep
from inpaintlib.harness.runs import Planned, last_line


def main(arguments: list[str]) -> int:
    """The exit status: 0 where the run is done."""
    if len(arguments) < 2:
        raise BadInput("torchrun: name a study and a preset, and what the run has, such as ratio=100 seed=0")
    study, preset, *pairs = arguments
    only = sweep.parse_pairs("torchrun", pairs)
    items = [item for item in sweep.plan(study, preset) if not item.run.done
             and all(item.parameters.get(name) in values for name, values in only.items())]  # fmt: skip
    if len(items) != 1:
        raise BadInput(f"torchrun: {len(items)} runs of {study}'s preset {preset} that are not done have "
                       f"{', '.join(pairs) or 'any parameters'}; name one")  # fmt: skip
    parallel.start()
    if parallel.rank():
        return _follow(items[0])
    run = items[0].run
    run.claim()
    engine._execute(engine.Job(items[0], inpaintlib.RESULTS, inpaintlib.DATA), run)
    run.release()
    if not run.done:
        print(f"failed    {run.study} {run.id}: {last_line(run.folder / 'error.txt')}", file=sys.stderr)
    return engine.OK if run.done else engine.FAILED


def _follow(item: Planned) -> int:
    """Execute the notebook up to the end of its training, beside links to the other studies' results."""
    results = inpaintlib.RESULTS
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(item.notebook.parent):
        for other in results.glob("*"):
            if other.name != item.study:
                (Path(folder) / other.name).symlink_to(other.resolve())
        inpaintlib.RESULTS = Path(folder)
        try:
            address = {"study": item.study, "run_id": item.run_id}
            notebook.execute(item.notebook, Path(folder) / "follower.ipynb", {**item.parameters, **address})
        except notebook.Failed as failure:
            if failure.name != "Followed":
                raise
    return engine.OK


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BadInput as error:
        sys.exit(f"inpaintlib: {error}")
