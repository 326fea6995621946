"""Sweeps: many runs of one notebook, planned in a file.

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
        hours: 0.1                            # optional: what the preset takes where nothing has been measured yet
        runs:
          - {ratio: [1, 100, .inf], seed: [0, 1]}
          - {ratio: 100, seed: [0, 1, 2]}

    claims: [...]                             # optional: see claims.py

Each entry of ``runs`` is a grid, the product of its lists; the sweep is the union of its grids in order, equal runs
merged. Numbers are read as YAML 1.2 does: 1e3 is one, 010 is none. Everything is checked against the notebook's
declarations (see parameters.py) before anything starts.

A run that fails keeps its notebook and traceback and does not stop the others. Interrupt a sweep anywhere and start
it again: finished runs are skipped, and unfinished ones resume from what their notebook saved.
"""

import contextlib
import csv
import graphlib
import itertools
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import read_json, reason, weights_file, write_atomically
from inpaintlib.harness import engine, runs
from inpaintlib.harness import parameters as declared
from inpaintlib.harness.parameters import check_folder_name, did_you_mean, remembered, show
from inpaintlib.harness.runs import Planned, Run

OVERHEAD = 5.0  # seconds of a run beside its training
RUN_BYTES = 100_000_000  # of a run, where its study has none yet with its weights
PRESETS = ("smoke", "quick", "night", "full", "exact")  # by size
REHEARSE = "INPAINT_REHEARSE"  # environment: by how much runs are shorter than planned (see full.py)


@dataclass(frozen=True)
class Preset:
    """One size of a sweep: parameters over the sweep's own, grids of parameter name to values, default workers, and
    how many hours it takes."""

    parameters: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, list]] = field(default_factory=list)
    workers: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep file's content; ``notebook`` and ``report`` as paths, ``needs`` as names of studies."""

    path: Path
    study: str
    notebook: Path
    report: Path | None
    parameters: dict[str, Any]
    presets: dict[str, Preset]
    claims: list[dict] = field(default_factory=list)
    needs: tuple[str, ...] = ()


# Files and plans ------------------------------------------------------------------------------------------------------


def load(study: str | Path) -> Sweep:
    """Read the sweep of that name, or the sweep file at that path.

    Raises BadInput, naming file and key, when there is no such sweep, the YAML is broken, a key is unknown, repeated
    or missing, or a value has the wrong form.
    """
    path = _sweep_file(study)
    try:
        return _read(path)
    except OSError as error:
        raise BadInput(f"there is no sweep file {path}.") from error


@remembered
def _read(path: Path) -> Sweep:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"cannot be read: {reason(error)}" if isinstance(error, OSError) else "is not valid YAML"
        raise BadInput(f"{path} {what}: {' '.join(str(error).split())}.") from error
    optional = ("report", "needs", "parameters", "claims")
    content = _mapping(path, "the file", content, ("study", "notebook", "presets"), optional)
    if content["study"] != check_folder_name(f"the name of {path}", path.stem):
        raise BadInput(f"{path}: study must be the file's name, {path.stem!r}, not {content['study']!r}.")
    presets = _mapping(path, "presets", content["presets"])
    if not isinstance(needs := content.get("needs", []), list) or not all(isinstance(name, str) for name in needs):
        raise BadInput(f"{path}: needs must be a list of studies, not {needs!r}.")
    return Sweep(
        path=path,
        study=content["study"],
        notebook=_notebook(path, "notebook", content["notebook"]),
        report=_notebook(path, "report", content["report"]) if "report" in content else None,
        parameters=_mapping(path, "parameters", content.get("parameters", {})),
        presets={name: _preset(path, f"presets.{name}", preset) for name, preset in presets.items()},
        claims=content.get("claims") or [],
        needs=tuple(needs),
    )


def names() -> list[str]:
    """The studies in notebooks/sweeps."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


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
    """The runs of a preset in order, every parameter checked; ``overrides``, a value or a list of values a name, go
    over all that the file says.

    A notebook's ``preset`` parameter, its label for reports, becomes the preset's name; with overrides it names them
    too, ``quick+kimg=20``, so that such runs never enter the preset's own tables.

    Raises BadInput, naming file and key, for an unknown preset or parameter, a wrong type or a value out of range.
    """
    sweep = sweep if isinstance(sweep, Sweep) else load(sweep)
    if preset not in sweep.presets:
        raise BadInput(f"{sweep.path}: there is no preset {preset!r}{did_you_mean(preset, sweep.presets)}.")
    chosen = sweep.presets[preset]
    where = f"{sweep.path}: presets.{preset}"
    _check(sweep, f"{sweep.path}: parameters", sweep.parameters)
    _check(sweep, f"{where}.parameters", chosen.parameters)
    over = {name: value if isinstance(value, list) else [value] for name, value in (overrides or {}).items()}
    for name, value in ((name, value) for name, values in over.items() for value in values):
        _check(sweep, f"--set {name}={show(value)}", {name: value})
    has_label = "preset" in declared.notebook_parameters(sweep.notebook)
    label = {"preset": "+".join([preset, *(f"{n}={show(v)}" for n, v in over.items())])} if has_label else {}
    planned, names = {}, _names_there(sweep.study)
    for i, grid in enumerate(chosen.runs):
        for point in _points(grid):
            _check(sweep, f"{where}.runs[{i}]", point)
        for point in _points(grid | over):
            given = {**sweep.parameters, **chosen.parameters, **point, **label}
            complete = _rehearsed(declared.check(sweep.notebook, given))
            parameters = {n: v for n, v in complete.items() if n not in declared.ADDRESS}
            key = declared.digest(sweep.notebook, parameters)
            if key not in planned:
                name = names.get(key) or declared.run_id(sweep.notebook, parameters, point)
                planned[key] = Planned(sweep.study, name, parameters, sweep.notebook)
    added = [] if overrides else more_seeds(sweep.study, preset, list(planned.values()))
    return [*planned.values(), *(item for item in added if item.run.done)]


def more_seeds(study: str, preset: str, planned: list[Planned]) -> list[Planned]:
    """The runs that decide.py added to a preset: like planned ones, but for the seed. They count once they are done."""
    path = inpaintlib.RESULTS / study / "more_seeds.json"
    try:
        found = read_json(path).get(preset, {}) if path.exists() else {}
        return [with_seed(item, seed) for item in planned for seed in found.get(item.run_id, [])]
    except (AttributeError, TypeError) as error:
        raise BadInput(f"{path} must name runs of presets, each with a list of seeds; delete it.") from error


def with_seed(item: Planned, seed: int) -> Planned:
    """The run with another seed."""
    parameters = declared.check(item.notebook, item.parameters | {"seed": seed})
    key = declared.digest(item.notebook, parameters)
    stem, count = re.subn(r"\bseed=\d+", f"seed={seed}", item.run_id[:-7])
    name = _names_there(item.study).get(key) or f"{stem if count else f'{stem},seed={seed}'}-{key}"
    parameters = {n: v for n, v in parameters.items() if n not in declared.ADDRESS}
    return replace(item, run_id=name, parameters=parameters, added=True)


def _rehearsed(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters with every length of training divided by what the environment says; nothing where it is silent."""
    by = float(os.environ.get(REHEARSE, 1))
    shorter = {name: value / by for name, value in parameters.items() if by > 1 and name.endswith("kimg")}
    if by > 1 and "iterations" in parameters:
        shorter["iterations"] = math.ceil(parameters["iterations"] / by)
    return parameters | shorter


def of_label(study: str | Path, label: str) -> list[Planned]:
    """The plan that a preset's label names: ``quick``, or ``quick+ratio=10,50`` with its overrides; none where there
    is no such sweep or preset."""
    preset, *pairs = re.split(r"\+(?=[A-Za-z_]\w*=)", label)
    try:
        sweep = load(study)
        return plan(sweep, preset, parse_pairs("preset", pairs)) if preset in sweep.presets else []
    except BadInput:
        return []


def of_preset(study: str, preset: str, **wanted: Any) -> list[Run]:
    """The runs of a preset as its sweep file stands now, where it has any; else all that carry the preset's name.

    Runs that an earlier version of the file asked for stay in their folders and out of the tables.
    """
    planned = {item.run_id for item in of_label(study, preset)}
    there = [run for run in runs.find(study, **wanted) if run.id in planned]
    return there or runs.find(study, preset=preset, **wanted)


def preset_rank(preset: str) -> float:
    """A preset's place on the scale; changed by ``--set``, just behind its own; unknown ones (and "") are smallest."""
    name, plus, _ = preset.partition("+")
    return PRESETS.index(name) + 0.5 * bool(plus) if name in PRESETS else -1


def reported(study: str | Sweep, preset: str = "auto") -> str:
    """The preset, or, for ``auto``, the largest that is complete: all its runs are done or diverged. Where none is, the
    largest with a finished run, or the smallest."""
    if preset != "auto":
        return preset
    sweep = study if isinstance(study, Sweep) else load(study)
    done = {name: [item.run.done for item in plan(sweep, name)] for name in sweep.presets}
    presets = sorted(done, key=preset_rank, reverse=True)
    complete = [name for name in presets if all(done[name])] + [name for name in presets if any(done[name])]
    return [*complete, presets[-1]][0]


def finished(study: str, preset: str, **wanted: Any) -> Run:
    """The one finished run of a preset with these parameters, for a run that builds on it.

    Raises BadInput, naming the command that makes it, where there is none, and where there are several.
    """
    there = [run for run in of_preset(study, preset, **wanted) if run.status() == "done"]
    which = ", ".join(f"{name} = {show(value)}" for name, value in wanted.items())
    if not there:
        raise BadInput(f"{study}: no run of the preset {preset!r} with {which} is done; make it with "
                       f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
    if len(there) > 1:
        raise BadInput(f"{study}: {len(there)} runs of the preset {preset!r} have {which}; name one arm of them.")
    if not (there[0].folder / "weights.pt").exists():
        values = " ".join(f"{name}={show(value)!r}" for name, value in wanted.items())
        raise BadInput(f"{study}: the weights of {there[0].id} are not here; train it again with "
                       f"python -m inpaintlib sweep {study} --preset {preset} --rerun done "
                       f"--only {values}")  # fmt: skip
    return there[0]


# Executing ------------------------------------------------------------------------------------------------------------


def run(
    studies: str | Path | list[str | Path],
    preset: str = "quick",
    workers: int | None = None,
    overrides: dict[str, Any] | None = None,
    only: dict[str, list] | None = None,
    rerun: str | None = None,
    dry: bool = False,
    **how: Any,
) -> int:
    """Make the runs of a preset, of these studies and of those that they need, that are not done.

    ``overrides``, ``only`` (values that parameters must have) and ``rerun`` (only the runs of that status, from their
    beginning) are for the studies named; of what these need, too, only the seeds of ``only`` are made, as a run needs
    those of its own seed. ``dry``: only say what would be done. ``workers`` and the rest: see ``engine.sweep``, which
    also says what is returned. Raises BadInput before anything starts.
    """
    studies = studies if isinstance(studies, list) else [studies]
    named, graph = {load(study).study for study in studies}, {}
    for one in (order := in_order(studies)):
        items = plan(one, preset, overrides if one.study in named else None)
        if only and one.study in named:
            items = _only(one, items, only)
        elif only and "seed" in only:
            items = [item for item in items if item.parameters.get("seed") in only["seed"]]
        graph[one.study] = items
    workers = wanted_workers(order, preset, workers)
    due = [item for study, items in graph.items() for item in items
           if (study in named and item.run.status() == rerun if rerun else not item.run.done)]  # fmt: skip
    if dry:
        left_out = _check_machine(order, due, how.get("scheduler"), fetch=False)
        print(_forecast(order, preset, graph, due).to_markdown(index=False))
        return _say(left_out)
    for one in order:
        if one.path.parent != _folder():
            write_atomically(inpaintlib.RESULTS / one.study / "sweep_file.txt", f"{one.path.resolve()}\n")
    return start(order, graph, due, workers, afresh=bool(rerun), **how)


def start(
    order: list[Sweep], graph: dict[str, list[Planned]], due: list[Planned], workers: int | None, **how: Any
) -> int:
    """``engine.sweep``, but for the studies whose dataset or networks are missing: they are named at the end, and 1 is
    returned.

    Raises BadInput before anything starts where no study is left, a device is missing or the disk is too small.
    """
    left_out = _check_machine(order, due, how.get("scheduler"))
    due = [item for item in due if item.study not in left_out]
    graph = {study: [] if study in left_out else items for study, items in graph.items()}
    status = engine.sweep(graph, {one.study: one.needs for one in order}, due, workers, **how)
    told = _say(left_out)
    return status or told


def _check_machine(order: list[Sweep], due: list[Planned], scheduler: str | None, fetch: bool = True) -> dict[str, str]:
    """The studies that are left out, and why. Raises BadInput as ``start``."""
    if scheduler is None:
        for device in {item.parameters.get("device", "cpu") for item in due} - {"auto", "cpu"}:
            from inpaintlib.training import choose_device

            choose_device(device)
    left_out = _left_out(order, due, fetch)
    _check_disk([item for item in due if item.study not in left_out])
    return left_out


def _say(left_out: dict[str, str]) -> int:
    """Name the studies that are left out; returns the exit status that says so."""
    for study, why in left_out.items():
        print(f"left out  {study}: {why}")
    return engine.FAILED if left_out else engine.OK


def _left_out(order: list[Sweep], due: list[Planned], fetch: bool = True) -> dict[str, str]:
    """Why studies cannot be made here: their dataset or networks are missing, or those of one that they need. Raises
    BadInput where none is left."""
    found = {}
    for one in order:
        own = [item for item in due if item.study == one.study]
        if why := missing(own, fetch):
            found[one.study] = why
        if own and (lacking := [need for need in one.needs if need in found]):
            found.setdefault(one.study, f"it needs {lacking[0]}.")
    if found and all(item.study in found for item in due):
        raise BadInput(next(iter(found.values())))
    return found


def missing(items: list[Planned], fetch: bool = True) -> str:
    """Why the runs' photos and pretrained networks are not all here, in a sentence; "" where they are. ``fetch``:
    networks that are not here are fetched; else nothing is said of networks."""
    from inpaintlib.data import datasets

    try:
        photos = {tuple(map(item.parameters.get, ("dataset", "size", "photos_limit"))): None for item in items}
        for name, size, limit in photos:
            if name is not None:
                datasets.check(name, size, limit)
        networks = set().union(*(_networks(item.parameters) for item in items)) if fetch else ()
        for name in sorted(name for name in networks if not weights_file(name).exists()):
            from inpaintlib import pretrained  # takes seconds

            pretrained.fetch(name)
    except BadInput as error:
        return str(error)
    return ""


def _networks(parameters: dict) -> set[str]:
    """The pretrained networks that a run with these parameters loads: to measure with, and VGG-16 for losses."""
    measuring, named = {"lpips": "alexnet", "inception": "inception"}, str(parameters.get("networks", "")).split("+")
    of_losses = parameters.get("perceptual_weight") or parameters.get("style_weight")
    return {measuring[name] for name in named if name in measuring} | ({"vgg16"} if of_losses else set())


def _check_disk(due: list[Planned]) -> None:
    """BadInput where the disk has no room for the runs: each as large as a finished one of its study with weights."""
    needed = 0
    for study in {item.study for item in due}:
        folders = [path.parent for path in (inpaintlib.RESULTS / study / "runs").glob("*/weights.pt")]
        sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
        needed += max(sizes, default=RUN_BYTES) * sum(item.study == study for item in due)
    there = next(path for path in (inpaintlib.RESULTS, *inpaintlib.RESULTS.absolute().parents) if path.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise BadInput(f"{len(due)} runs need about {needed / 1e9:.1f} GB, and {inpaintlib.RESULTS} has "
                       f"{free / 1e9:.1f} GB free: make room, or name a folder on another disk in INPAINT_RESULTS."
                       )  # fmt: skip


def wanted_workers(order: list[Sweep], preset: str, workers: int | None) -> int | None:
    """How many runs at a time are asked for, by hand or else by the sweep files. Raises BadInput for fewer than one."""
    if workers is not None and workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}.")
    return workers or max((one.presets[preset].workers or 0 for one in order), default=0) or None


def _only(sweep: Sweep, items: list[Planned], only: dict[str, list]) -> list[Planned]:
    for point in _points(only):
        _check(sweep, "--only", point)
    kept = [item for item in items if all(item.parameters[name] in values for name, values in only.items())]
    if not kept:
        wanted = ", ".join(f"{name} = {show(values)}" for name, values in only.items())
        raise BadInput(f"{sweep.study}: no run of the preset has {wanted}.")
    for name, values in only.items():
        if idle := [value for value in values if all(item.parameters[name] != value for item in kept)]:
            raise BadInput(f"{sweep.study}: of what --only asks for, no run has {name} = {show(idle)}.")
    return kept


def _forecast(order: list[Sweep], preset: str, graph: dict[str, list[Planned]], due: list[Planned]) -> pd.DataFrame:
    rows = []
    for one in order:
        items, waiting = graph[one.study], [item for item in due if item.study == one.study]
        planned, took = (plan(one, preset), measured(one.study)) if waiting else ([], [])
        known = [seconds_of(one, preset, item, planned, took) for item in waiting]
        hours = round(sum(known) / 3600, 2) if None not in known else "unknown"
        rows.append({"study": one.study, "runs": len(items), "to do": len(waiting), "hours, one at a time": hours})
        for item, seconds in zip(waiting, known, strict=True):
            print(f"{item.run.status():10} {one.study} {item.run_id}" + (f"  {seconds:.0f} s" if seconds else ""))
    return pd.DataFrame(rows)


def measured(study: str) -> list[tuple[str | None, float, float]]:
    """Of each finished run: its preset, its kimg and what it took."""
    found = [(run.parameters, run.seconds_alone) for run in runs.find(study) if run.done]
    return [(of.get("preset"), of.get("kimg", 1.0), seconds) for of, seconds in found if seconds]


def seconds_of(sweep: Sweep, preset: str, item: Planned, planned: list[Planned], took: list[tuple]) -> float | None:
    """What a run will take: as long as runs of its preset ``took`` (see ``measured``), for each kimg where it trains;
    else its part of the preset's ``hours``, by its kimg of all that are ``planned``; else as long as runs of other
    presets did; None: nothing is known."""
    took = [(name, OVERHEAD + max(0.0, seconds - OVERHEAD) * _kimg(item) / kimg) for name, kimg, seconds in took]
    if same := [seconds for name, seconds in took if name == preset]:
        return median(same)
    chosen = sweep.presets[preset]
    if chosen.hours:
        return chosen.hours * 3600 * (chosen.workers or 1) * _kimg(item) / sum(map(_kimg, planned))
    return median(seconds for _, seconds in took) if took else None


def _kimg(run: Planned) -> float:
    return run.parameters.get("kimg", 1.0)


# Status ---------------------------------------------------------------------------------------------------------------


def status(study: str | Path | None = None) -> pd.DataFrame:
    """All runs of a study (or of all studies): ``study``, ``run_id``, ``status`` (see ``Run.status``), ``kimg`` shown
    so far (from history.csv) of ``kimg_total``, ``photos_s``, photos a second, ``minutes_left`` of a running one, and
    ``error``, the last line of a failed run's traceback or what is at fault with a damaged one."""
    if study is not None and Path(study).suffix not in (".yaml", ".yml"):
        check_folder_name("a study", str(study))
    if study is not None and not (inpaintlib.RESULTS / study / "runs").is_dir():
        study = load(study).study
    folders = sorted(inpaintlib.RESULTS.glob(f"{study or '*'}/runs/*/"))
    columns = ["study", "run_id", "status", "kimg", "kimg_total", "photos_s", "minutes_left", "error"]
    return pd.DataFrame([_status_row(Run(folder.parents[1].name, folder.name)) for folder in folders], columns=columns)


def _status_row(run: Run) -> dict[str, Any]:
    state, kimg, seconds = run.status(), math.nan, math.nan
    with contextlib.suppress(OSError, IndexError, KeyError, ValueError, TypeError):  # the last line may be half written
        whole = (run.folder / "history.csv").read_text().rpartition("\n")[0]
        row = list(csv.DictReader(whole.splitlines()))[-1]
        kimg, seconds = float(row["kimg"]), float(row.get("seconds") or "nan")
    total = runs.mapping_or_empty(run.folder / "params.json").get("kimg", math.nan)
    rate = 1000 * kimg / seconds if seconds else math.nan
    left = round(1000 * (total - kimg) / rate / 60, 1) if state == "running" and rate > 0 else math.nan
    error = {"damaged": run.fault, "failed": runs.last_line(run.folder / "error.txt")}.get(state, "")
    return {"study": run.study, "run_id": run.id, "status": state, "kimg": kimg, "kimg_total": total,
            "photos_s": round(rate, 1), "minutes_left": left, "error": error}  # fmt: skip


# Reading --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2's core (1e3 a number; 010, yes and dates text) and inf without a dot, as
    run_ids have it; no key given twice."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as PyYAML wants it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern in {
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.?(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "null": "~|null|Null|NULL|",
    "merge": "<<",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def parse_pairs(what: str, pairs: Iterable[str]) -> dict[str, list]:
    """NAME=VALUE, NAME=VALUE,VALUE or NAME=[VALUE, VALUE] each, as YAML; a comma in a text needs quotes around it.

    Raises BadInput for anything else, and for a name given twice.
    """
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput(f"{what}: {pair!r} is not NAME=VALUE")
        if name in found:
            raise BadInput(f"{what}: {name} is given twice; several values of one parameter are {name}=1,2,3")
        try:
            several = "," in text and text[:1] not in "['\""
            value = yaml.load(f"[{text}]" if several else text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise BadInput(f"{what}: {text!r}, the value of {name}, is not valid YAML") from error
        found[name] = value if isinstance(value, list) else [value]
        if not found[name]:
            raise BadInput(f"{what}: {name} has an empty list of values; give it at least one")
    return found


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


def _preset(path: Path, where: str, value: Any) -> Preset:
    value = _mapping(path, where, value, ("runs",), ("parameters", "workers", "hours"))
    workers = value.get("workers")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise BadInput(f"{path}: {where}.workers must be a whole number of at least 1, not {workers!r}.")
    hours = value.get("hours")
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours < 1e6):
        raise BadInput(f"{path}: {where}.hours must be a number of hours, not {hours!r}.")
    if not isinstance(value["runs"], list) or not value["runs"]:
        raise BadInput(f"{path}: {where}.runs must be a list of grids, not {value['runs']!r}.")
    grids = []
    for i, grid in enumerate(value["runs"]):
        found = _mapping(path, f"{where}.runs[{i}]", grid).items()
        grids.append({name: v if isinstance(v, list) else [v] for name, v in found})
        if empty := [name for name, values in grids[-1].items() if not values]:
            raise BadInput(f"{path}: {where}.runs[{i}].{empty[0]} is an empty list; give it at least one value.")
    return Preset(_mapping(path, f"{where}.parameters", value.get("parameters", {})), grids, workers, hours)


def _notebook(path: Path, key: str, name: Any) -> Path:
    """The notebook of that name, beside the sweep file's folder, in it, or among the study's own."""
    for folder in (path.parent.parent, path.parent, _folder().parent):
        if isinstance(name, str) and (folder / name).is_file():
            return (folder / name).resolve()
    raise BadInput(f"{path}: {key} must name a notebook in {path.parent} or {_folder().parent}, and {name!r} is not "
                   "there.")  # fmt: skip


def _check(sweep: Sweep, where: str, parameters: dict[str, Any]) -> None:
    for name in declared.ADDRESS:
        if name in parameters:
            raise BadInput(f"{where} gives {name}, which the sweep itself sets; leave it out.")
    try:
        declared.check(sweep.notebook, parameters)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _folder() -> Path:
    return inpaintlib.ROOT / "notebooks" / "sweeps"


def _sweep_file(study: str | Path) -> Path:
    """Where the sweep of that name or path is: a file elsewhere is known by its name once it has been swept."""
    name, path = str(study), Path(study)
    if path.suffix in (".yaml", ".yml"):
        return path
    own, elsewhere = _folder() / f"{name}.yaml", inpaintlib.RESULTS / name / "sweep_file.txt"
    if own.exists():
        return own
    if elsewhere.is_file():
        return Path(elsewhere.read_text().strip())
    by_hand = (inpaintlib.RESULTS / name / "runs").is_dir()
    hint = ": its runs were made by hand, and a sweep file would plan and report them" if by_hand else ""
    raise BadInput(f"there is no sweep named {name!r}{hint or did_you_mean(name, names())}.")


def _points(grid: dict[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of the values that a grid gives its names."""
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def _names_there(study: str) -> dict[str, str]:
    """The names under which runs exist (a sweep that grew may show other parameters), by digest."""
    there = sorted((inpaintlib.RESULTS / study / "runs").glob("*-??????/"), reverse=True)
    return {folder.name[-6:]: folder.name for folder in there}
