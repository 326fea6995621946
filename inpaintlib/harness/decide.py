"""``sweep --until decided``: a budget of more seeds for the claims that a preset leaves undecided.

The first look is the preset as its file has it, the second the same with seeds added. Each judges at half of alpha, so
that both together judge at alpha (Bonferroni), and that holds for all claims of the preset: which of them get seeds
depends on their p-values. A claim that the first look does not decide at half of alpha gets the seeds that would decide
it, were today's effect the true one; claims that need the fewest come first. Added seeds are kept in
``results/<study>/more_seeds.json`` (preset: {run: [seeds]}), and a preset has one second look, no third.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import lock, read_json, write_json
from inpaintlib.harness import claims, engine, sweep
from inpaintlib.harness.runs import Planned
from inpaintlib.harness.verdicts import UNDECIDED

Added = dict[tuple, tuple[Planned, int]]  # study, parameters and seed of a new run -> the run that it is like, its seed


@dataclass(frozen=True)
class Study:
    """A sweep and its planned runs of the preset."""

    sweep: sweep.Sweep
    preset: str
    planned: list[Planned]
    took: dict[str, float] = field(default_factory=dict)

    @functools.cached_property
    def there(self) -> set[tuple]:
        return {(item.study, claims.but_seed(item), item.parameters["seed"]) for item in self.planned}

    @functools.cached_property
    def measured(self) -> list[tuple]:
        return sweep.measured(self.sweep.study)

    def seconds(self, like: Planned) -> float:
        """How long this run took, and so its copy with another seed; where that is not known, others of the preset."""
        if like.run_id not in self.took:
            known = like.run.seconds_alone
            known = known or sweep.seconds_of(self.sweep, self.preset, like, self.planned, self.measured)
            self.took[like.run_id] = known or math.inf
        return self.took[like.run_id]


def run(studies: list[str | Path], preset: str, budget: float, workers: int | None = None, dry: bool = False,
        **how: Any) -> int:  # fmt: skip
    """Add seeds to undecided claims until all are decided or the runs would take longer than ``budget`` seconds.

    ``dry``: only say which seeds these are. ``how``: see ``engine.sweep``, which also says what is returned. A second
    look that was interrupted goes on. Raises BadInput where the first look is not complete.
    """
    order = sweep.in_order(studies)
    graph = {one.study: Study(one, preset, sweep.plan(one, preset)) for one in order}
    missing = [item for study in graph.values() for item in study.planned if not item.run.done]
    if missing:
        raise BadInput(f"the preset {preset} has {len(missing)} runs to do before a first look; make them with "
                       f"python -m inpaintlib sweep {' '.join(map(str, studies))} --preset {preset}")  # fmt: skip
    workers = sweep.wanted_workers(order, preset, workers) or engine.default_workers()
    again = {name: sweep.more_seeds(name, preset, study.planned) for name, study in graph.items()}
    named = [sweep.load(study).study for study in studies]
    for name in (name for name in named if again[name]):
        print(f"{name}: the seeds of the second look were chosen before; there is no third.")
    chosen = _choose(graph, [name for name in named if not again[name]], preset, budget * workers, workers)
    if dry:
        return engine.OK
    for like, seed in chosen.values():
        _record(like, preset, seed)
        again[like.study].append(sweep.with_seed(like, seed))
    due = [item for items in again.values() for item in items if not item.run.done]
    status = sweep.start(order, again, due, workers, **how)
    for name in (name for name, items in again.items() if items):
        _say(claims.judged(name, [preset]))
    return status


def _choose(graph: dict[str, Study], named: list[str], preset: str, budget: float, workers: int) -> Added:
    """The runs to add, of at most ``budget`` seconds one at a time; says what they are for and what stays open."""
    rows = pd.concat([pd.DataFrame(), *(claims.judged(name, [preset], looks=2) for name in named)], ignore_index=True)
    rows = rows[rows["verdict"] == UNDECIDED] if len(rows) else pd.DataFrame(columns=["seeds_needed", "n_seeds"])
    lacking = rows["seeds_needed"].astype(float).clip(lower=rows["n_seeds"] + 1) - rows["n_seeds"]
    chosen, spent, table = {}, 0.0, []
    for row in rows.assign(lacking=lacking).sort_values("lacking", kind="stable").itertuples():
        new = dict(_of_claim(graph, row)) if math.isfinite(row.lacking) else {}
        new = {key: pair for key, pair in new.items() if key not in chosen}
        takes = sum(graph[like.study].seconds(like) for like, _ in new.values())
        fits = math.isfinite(row.lacking) and spent + takes <= budget
        chosen, spent = (chosen | new, spent + takes) if fits else (chosen, spent)
        seeds = f"{row.n_seeds + row.lacking:g}" if math.isfinite(row.lacking) else "over 1000"
        table.append({"study": row.study, "claim": row.id, "seeds": row.n_seeds, "would decide": seeds,
                      "runs to add": len(new), "hours": round(takes / workers / 3600, 2),
                      "": "added" if fits else "stays open"})  # fmt: skip
    print(pd.DataFrame(table).to_markdown(index=False) if table else "no claim is open to a second look")
    for like, seed in chosen.values():
        print(f"adds {like.study} {sweep.with_seed(like, seed).run_id}")
    print(f"{len(chosen)} runs, {spent / workers / 3600:.2f} of {budget / workers / 3600:g} hours, {workers} at a time")
    return chosen


def _of_claim(graph: dict[str, Study], row: Any) -> Iterator[tuple[tuple, tuple[Planned, int]]]:
    """The runs that a claim lacks: each of its arms with the new seeds, like its run of the last seed, after the runs
    that these need."""
    there = [{item.parameters["seed"] for item in group} for group in row.used]
    pool = sorted(set().union(*there))
    wanted = [*pool, *range(pool[-1] + 1, pool[-1] + 1001)][: int(row.n_seeds + row.lacking)]
    for group, seeds in zip(row.used, there, strict=True):
        for seed in (seed for seed in wanted if seed not in seeds):
            yield from _with_needs(graph, [i for i in group if i.parameters["seed"] == max(seeds)], row.study, seed)


def _with_needs(graph: dict[str, Study], like: list[Planned], study: str, seed: int) -> Iterator[tuple]:
    """These runs with another seed, after those of that seed in the studies that this one needs."""
    for need in graph[study].sweep.needs if like else ():
        last = like[0].parameters["seed"]
        yield from _with_needs(graph, [i for i in graph[need].planned if i.parameters["seed"] == last], need, seed)
    for item in like:
        if (what := (study, claims.but_seed(item), seed)) not in graph[study].there:
            yield what, (item, seed)


def _record(like: Planned, preset: str, seed: int) -> None:
    path = inpaintlib.RESULTS / like.study / "more_seeds.json"
    with lock(path):
        found = read_json(path) if path.exists() else {}
        seeds = found.setdefault(preset, {}).setdefault(like.run_id, [])
        seeds += [seed] * (seed not in seeds)
        write_json(path, found)


def _say(rows: pd.DataFrame) -> None:
    """The verdicts of the claims that got seeds."""
    for row in rows.dropna(subset="used").itertuples():
        if any(item.added for group in row.used for item in group):
            print(f"{'stays open' if row.verdict == UNDECIDED else row.verdict:12} {row.study} {row.id}: {row.why}")
