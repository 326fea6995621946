"""From runs to tables: ``table.csv`` (tidy), ``table.md`` (readable), ``runs.csv`` (a row a run) and ``times.csv``
(what depends on the machine: nothing else changes when runs are made again on it).

:class:`Results` is what report notebooks read: the finished runs of one preset of a study, and the trivial fills that
were measured on the same test sets (``results/trivial_fills``, by ``metrics.measure_trivial_fills``).
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import lock, read_json, write_atomically
from inpaintlib.harness import runs, statistics, sweep
from inpaintlib.harness.parameters import did_you_mean, notebook_parameters, remembered
from inpaintlib.harness.runs import Run

FILLS = MEAN_COLOUR, TELEA, *_ = ("mean colour", "Telea", "membrane", "mid-grey")
TIMES = ("seconds", "training_seconds", "images_per_second", "seconds_per_photo", "peak_memory_gb", "rtv_ms", "code_ms")
POOLED = ("psnr_pooled", "psnr_hole_pooled")
OTHER = {"id", "picture", "seed", "n_photos", "n_pictures", "hole_ratio", "pixels", "mse", "mse_hole", "laplacian",
         "laplacian_truth"}  # fmt: skip
"""Numbers that are no metric of their own."""


class NoRuns(BadInput):
    """A preset has no finished runs."""


class Results:
    """The finished runs of one preset of a study, in the order of its sweep file.

    ``runs``: a DataFrame with a row a run, its parameters and metrics as columns. Where runs measured several things
    at once, ``parts`` names the columns of per_image that tell them apart (such as the kind of mask): each part of a
    run then has a row of its own, with these columns in place of parameters of the same name. ``added`` False: without
    the seeds that decide.py added, as at the first look.

    Raises NoRuns where there are none.
    """

    def __init__(self, study: str, preset: str, parts: Sequence[str] = (), added: bool = True, **wanted):
        self.study, self.preset, self.parts, self.added, self._found = study, preset, list(parts), added, {}
        self.folder = inpaintlib.RESULTS / study
        self.plan = [item for item in sweep.of_label(study, preset) if added or not item.added]
        place = {item.run_id: i for i, item in enumerate(self.plan)}
        there = runs.find(study, preset=preset, **wanted)
        there = sorted((run for run in there if run.id in place), key=lambda run: place[run.id]) or there
        self.states = {run.id: run.status() for run in there}
        done = [run for run in there if self.states[run.id] == "done"]
        self.parameters = list(dict.fromkeys(name for run in done for name in run.parameters))
        self.runs = runs.load_table(done)
        if self.runs.empty:
            raise NoRuns(f"results/{study}: there are no finished runs of the preset {preset!r}; make them with "
                           f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
        if parts:
            self.runs = pd.DataFrame([part for run in self.runs.to_dict("records") for part in self._divided(run)])

    def _divided(self, run: dict) -> list[dict]:
        """A run's row for each of its parts: what its photos say stands for the metrics."""
        keep = {*self.parameters, *OTHER, "run_id", "status", "test_set"}
        common = {name: v for name, v in run.items() if name in keep or isinstance(v, str)}
        photos = _per_image(self.study, run["run_id"])
        return [common | part for part in summaries(photos, self.parts).reset_index().to_dict("records")]

    @functools.cached_property
    def first_look(self) -> "Results":
        """Without the added seeds, and not yet divided into parts."""
        return Results(self.study, self.preset, added=False)

    @functools.cached_property
    def fills(self) -> pd.DataFrame:
        """Rows as of ``runs`` for each trivial fill (column ``fill``, and ``arm``) of each test set and part."""
        self._fill_photos, rows, seen = {}, [], set()
        if "psnr_hole" not in self.runs:  # nothing was filled
            return pd.DataFrame(columns=[*self.runs, "fill"])
        for row in self.runs.drop_duplicates(["test_set", *self.parts]).to_dict("records"):
            for arm, (metrics, photos) in _trivial(row["test_set"]).items():
                places = self._places(row, len(photos)) if self.parts else range(len(photos))
                if (key := (arm, row["test_set"], tuple(places))) in seen or not len(places):
                    continue
                seen.add(key)
                part = {name: row[name] for name in (*self.parts, "dataset", "test_set") if name in row}
                photos = photos.iloc[list(places)]
                found = summaries(photos.assign(part=0), ["part"]).iloc[0].to_dict() if self.parts else metrics
                name = f"{arm} {len(seen)}"
                rows.append(found | part | {"arm": arm, "fill": arm, "run_id": name, "preset": self.preset})
                self._fill_photos[name] = photos
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*self.runs, "fill"])

    def _places(self, row: dict, n: int) -> Sequence[int]:
        """Where the photos of a part of a run stand among the test set's n."""
        part, whole = self.photos(row), _per_image(self.study, row["run_id"])
        return range(n) if len(part) == n else list(part.index) if len(whole) == n else []

    def photos(self, row: pd.Series | dict) -> pd.DataFrame:
        """per_image of a row of ``runs`` (of its part alone) or of ``fills``."""
        if isinstance(row.get("fill"), str) and "fill" not in self.parameters:
            return self._fill_photos[row["run_id"]]
        photos = _per_image(self.study, row["run_id"])
        for part in self.parts:
            photos = photos[photos[part] == row[part]]
        return photos

    @functools.cached_property
    def photo_columns(self) -> list[str]:
        """The columns of per_image, of the first run."""
        return list(_per_image(self.study, self.runs["run_id"].iloc[0]))

    def where(self, **wanted) -> pd.DataFrame:
        """The runs whose parameters have these values, by seed; of ``fill``, those of a trivial fill.

        Raises BadInput for a name that is neither parameter nor part.
        """
        of_fill = "fill" in wanted and "fill" not in self.parameters
        rows, key = self.fills if of_fill else self.runs, tuple(wanted.items())
        if unknown := [name for name in wanted if name not in rows]:
            near = did_you_mean(unknown[0], self.runs)
            raise BadInput(f"the runs of {self.study} have no parameter {unknown[0]!r}{near}")
        if key not in self._found:
            for name, value in wanted.items():
                rows = rows[rows[name].to_numpy() == value]
            self._found[key] = rows if of_fill else rows.sort_values("seed", ignore_index=True)
        return self._found[key]

    def folders(self, **wanted) -> list[Path]:
        return [Run(self.study, run_id).folder for run_id in self.where(**wanted)["run_id"]]

    def histories(self, **wanted) -> list[pd.DataFrame]:
        """history.csv of each run, by seed."""
        return [pd.read_csv(folder / "history.csv") for folder in self.folders(**wanted)]

    def values(self, metric: str, rows: pd.DataFrame) -> np.ndarray:
        """(rows,) of a metric, or of the mean of a column of per_image that is none; NaN where it was not measured."""
        known = rows[metric].to_numpy(float) if metric in rows else np.full(len(rows), np.nan)
        for i in np.flatnonzero(np.isnan(known)):
            row = rows.iloc[i]
            photos = self.photos(row)
            if metric in photos and pd.api.types.is_numeric_dtype(photos[metric]):
                known[i] = photos[metric].mean()
            elif any(n in self.parameters for n in self.parts) and row["run_id"] in self.states:  # its own arm alone
                run = Run(self.study, row["run_id"])
                own = all(run.parameters.get(name, row[name]) == row[name] for name in self.parts)
                known[i] = run.metrics.get(metric, np.nan) if own else np.nan
        return known

    def difference(self, metric: str, a: dict, b: dict, same_pixels: bool = True) -> statistics.Interval | None:
        """Arm a minus arm b over the seeds that both have, or None where one is missing or their test sets differ.

        Every seed's value is the run's metric as the table has it. ``same_pixels=False`` compares test sets that differ
        in pixels, as long as they have as many photos.
        """
        first, second = self.where(**a), self.where(**b)
        if not {"fill"} & {*a, *b}:
            seeds = set(first["seed"]) & set(second["seed"])
            first, second = (rows[rows["seed"].isin(seeds)] for rows in (first, second))
        if not (len(first) and len(second)) or {*first["n_photos"]} != {*second["n_photos"]}:
            return None
        if same_pixels and len({*first["test_set"], *second["test_set"]}) != 1:
            return None
        ours, theirs = self.values(metric, first), self.values(metric, second)
        differences = ours - theirs if len(ours) == len(theirs) or 1 in (len(ours), len(theirs)) else np.array([])
        return statistics.interval(differences) if np.isfinite(differences).all() and len(differences) else None

    def against(self, base: dict, arms: dict[str, dict], metrics: Sequence[str]) -> pd.DataFrame:
        """Each arm minus the base, two columns a metric: "difference [interval]" and the p-value, of which Holm's
        correction counts the differences of this table alone."""
        found = {metric: [self.difference(metric, arm, base) for arm in arms.values()] for metric in metrics}
        p = statistics.holm([np.nan if d is None else d.p for column in found.values() for d in column])
        rows = {}
        for (metric, column), p_column in zip(found.items(), p.reshape(len(metrics), -1), strict=True):
            rows[metric] = ["" if d is None else cell(d.mean, d.low, d.high, 3) for d in column]
            rows[f"{metric}: p (Holm, this table)"] = ["" if np.isnan(value) else f"{value:.3f}" for value in p_column]
        return pd.DataFrame(rows, index=list(arms))

    @functools.cached_property
    def offered(self) -> dict[str, list]:
        """All values of each parameter that any preset of the sweep file can have."""
        plan = sweep.load(self.study)
        offered = {name: [parameter.default] for name, parameter in notebook_parameters(plan.notebook).items()}
        for preset in plan.presets.values():
            for grid in (plan.parameters, preset.parameters, *preset.runs):
                for name, values in grid.items():
                    offered[name] += values if isinstance(values, list) else [values]
        return {name: list(dict.fromkeys(values)) for name, values in offered.items()}

    @property
    def metrics(self) -> list[str]:
        """The numbers that runs measured, but for those that depend on the machine."""
        return measured(self.runs, {*self.parameters, *self.parts, *TIMES})

    def tidy(self, by: Sequence[str]) -> pd.DataFrame:
        """The table's rows: for each value of ``by`` and each metric its mean and a 95 % interval; trivial fills last.

        Intervals are over the seeds that measured the metric (Student's t). What has no seed, a single run or several
        that are identical, has one over its pictures (bootstrap) where the metric has a value for each photo, and
        ``n_seeds`` is 1.
        """
        rows = []
        for frame in (self.runs, self.fills if "arm" in by else self.fills.iloc[:0]):
            keys = [name for name in (*by, "dataset", "test_set") if name in frame]
            for values, group in frame.groupby(keys, sort=False, dropna=False):
                common = dict.fromkeys(by) | dict(zip(keys, values, strict=True))
                there = [metric for metric in self.metrics if metric in group and group[metric].notna().any()]
                seedless = len(group) == 1 or (group[there].nunique() == 1).all()
                for metric in there:
                    some = group.dropna(subset=[metric])
                    rows.append(common | self._cell(metric, some.iloc[:1] if seedless else some))
        order = [*by, "dataset", "metric", "value", "ci_low", "ci_high", "n_seeds", "n_photos", "test_set", "preset"]
        table = pd.DataFrame(rows)[[*order, "n_pictures"]]
        whole = [name for name in by if pd.api.types.is_integer_dtype(self.runs[name])]
        return table.astype(dict.fromkeys(whole, "Int64"))

    def _cell(self, metric: str, group: pd.DataFrame) -> dict:
        values, first = group[metric].to_numpy(float), group.iloc[0]
        found = statistics.interval(values) if len(values) > 1 else over_pictures(metric, values[0], self.photos(first))
        return {
            "metric": metric, "value": values.mean(), "ci_low": found.low, "ci_high": found.high,
            "n_seeds": len(values), "n_photos": int(first["n_photos"]), "preset": self.preset,
            "n_pictures": n_pictures(first, self),
        }  # fmt: skip

    @property
    def versions(self) -> list[str]:
        """The commits of the code that made the runs."""
        return sorted({version(self.study, run_id) for run_id in self.runs["run_id"]})

    @property
    def machines(self) -> list[str]:
        """The processors that made the runs."""
        return sorted({machine(self.study, run_id) for run_id in self.runs["run_id"]})

    def write(self, table: pd.DataFrame, readable: str, parts: pd.DataFrame | None = None) -> None:
        """Writes table.csv, runs.csv and times.csv, rows of other presets kept, and this preset's part of table.md.

        ``parts``: rows about parts of the runs, for table.csv too.
        """
        merge(pd.concat([table, parts]), self.folder / "table.csv", self.preset)
        times = [name for name in TIMES if name in self.runs]
        per_run = self.runs.drop_duplicates("run_id")
        merge(per_run.drop(columns=times), self.folder / "runs.csv", self.preset, in_order=False)
        address = [name for name in ("arm", "dataset", "seed") if name in per_run]
        merge(per_run[["preset", *address, *times, "run_id"]], self.folder / "times.csv", self.preset)
        notes = [trivial_note(table), several_versions(self.versions), several_machines(self.machines), readable]
        write_section(self.folder / "table.md", f"Preset `{self.preset}`", "\n\n".join(filter(None, notes)))


def measured(frame: pd.DataFrame, others: set[str] = frozenset()) -> list[str]:
    """The numeric columns of runs or of per_image that are metrics: all but ``OTHER`` and ``others``."""
    return [name for name in frame.select_dtypes("number") if name not in OTHER | set(others)]


def over_pictures(metric: str, value: float, photos: pd.DataFrame) -> statistics.Interval:
    """A metric of one set of photos with its interval over pictures; no interval where photos have no such value."""
    pictures = photos["picture"] if "picture" in photos else photos.get("id")
    if sums := _sums(metric, photos):
        found = statistics.bootstrap(sums[0], pictures, sums[1])
        ends = [found.mean, found.low, found.high]
        ends = ends if metric == "sharpness" else [-10 * np.log10(end) for end in ends]
        if np.isclose(ends[0], value, rtol=1e-4):  # else per_image has other photos than the metric
            return statistics.Interval(value, float(min(ends[1:])), float(max(ends[1:])), found.n)
    if metric in photos and np.isclose(photos[metric].mean(), value, rtol=1e-4):
        known = photos[metric].notna()
        return statistics.bootstrap(photos[metric][known], None if pictures is None else pictures[known])
    return statistics.Interval(value, np.nan, np.nan, 1)


def _sums(metric: str, photos: pd.DataFrame) -> tuple[pd.Series, pd.Series] | None:
    """What is summed over photos, and what that is divided by, of the metrics that are no mean over photos."""
    if metric == "sharpness" and "laplacian" in photos:
        return photos["laplacian"], photos["laplacian_truth"]
    if metric in POOLED and "pixels" in photos:
        weights = photos["pixels"] * (photos["hole_ratio"] if "hole" in metric else 1)
        return photos["mse_hole" if "hole" in metric else "mse"] * weights, weights
    return None


def summaries(photos: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The metrics of each group of photos, a row a group: what `metrics.summarise` makes of them, and the means of
    their other numbers."""
    groups = photos.groupby(by, sort=False)
    table = groups.mean(numeric_only=True).drop(columns=["id", "picture"], errors="ignore")
    for metric in ("sharpness", *POOLED):
        if sums := _sums(metric, photos):
            above, below = (part.groupby([photos[name] for name in by], sort=False).sum() for part in sums)
            table[metric] = above / below.where(below > 0)
            table[metric] = table[metric] if metric == "sharpness" else -10 * np.log10(table[metric])
    counts = {"n_photos": groups.size()}
    counts |= {"n_pictures": groups["picture"].nunique()} if "picture" in photos else {}
    counts |= {"test_set": groups["test_set"].first()} if "test_set" in photos and "test_set" not in by else {}
    return table.assign(**counts)


def n_pictures(row: pd.Series, results: Results) -> int:
    """How many pictures the photos of a row of ``runs`` were cut from."""
    if not pd.isna(row.get("n_pictures", np.nan)):
        return int(row["n_pictures"])
    photos = results.photos(row)
    return next((photos[name].nunique() for name in ("picture", "id") if name in photos), len(photos))


def trivial_note(table: pd.DataFrame) -> str:
    """Two sentences, to stand first in a report: how many rows of a tidy table the mean colour and Telea beat in the
    PSNR of the hole and to LPIPS, on the test set of most; none about a metric that both fills were not measured by."""
    said = []
    for metric, sign, name, form in (("psnr_hole", 1, "In the PSNR of the hole", "{:.2f} dB"),
                                     ("lpips", -1, "To LPIPS", "{:.3f}")):  # fmt: skip
        rows = table[table["metric"] == metric] if "arm" in table else table.iloc[:0].assign(arm="")
        ours = rows[~rows["arm"].isin(FILLS)]
        ours = ours[ours["test_set"].isin(ours["test_set"].mode()[:1])]  # the one of most arms
        levels = rows[rows["test_set"].isin(ours["test_set"])].drop_duplicates("arm").set_index("arm")["value"]
        if {MEAN_COLOUR, TELEA} <= set(levels.index):
            parts = [f"{arm} ({form.format(levels[fill])}) beats {sum(sign * (ours['value'] - levels[fill]) < 0)}"
                     for fill, arm in ((MEAN_COLOUR, "the mean colour"), (TELEA, "Telea"))]  # fmt: skip
            said.append(f"{name}, {parts[0]} of {len(ours)} fills, and {parts[1]}.")
    return " ".join(said)


def several_versions(versions: Sequence[str]) -> str:
    """The sentence that says so where runs of several versions of the code stand together, else ""."""
    if len(versions) < 2:
        return ""
    return f"These runs come from {len(versions)} versions of the code ({', '.join(map(short, versions))})."


def short(version: str, digits: int = 8) -> str:
    """A commit's first digits, with its "-dirty"."""
    return re.sub(rf"^([0-9a-f]{{{digits}}})[0-9a-f]+", r"\1", version)


def several_machines(machines: Sequence[str]) -> str:
    """The sentence that says so where runs of several processors stand together, else ""."""
    return f"These runs were made on {len(machines)} processors ({'; '.join(machines)})." if len(machines) > 1 else ""


def merge(rows: pd.DataFrame, path: Path, preset: str, in_order: bool = True) -> None:
    """Puts rows into the CSV at ``path`` in place of those of the same preset; all others stay, as they were written.

    Presets stand by size. ``in_order=False`` sorts the columns by name, where presets may have other ones.
    """
    rows = as_text(rows)
    with lock(path):
        if path.exists():
            there = pd.read_csv(path, dtype=str, keep_default_na=False)
            there = there[there["preset"] != preset].drop(
                columns=[name for name in TIMES if path.stem != "times"], errors="ignore"
            )
            rows = pd.concat([rows, there], ignore_index=True).fillna("")
            order = sorted(set(rows["preset"]), key=lambda name: (sweep.preset_rank(name), name))
            rows = rows.sort_values("preset", key=lambda names: names.map(order.index), kind="stable")
        empty = [name for name in rows if name not in ("ci_low", "ci_high") and (rows[name] == "").all()]
        first = [name for name in ("preset", "arm", "dataset", "seed") if name in rows]
        order = list(rows) if in_order else [*first, *sorted(set(rows) - {*first, "run_id"}), "run_id"]
        write_atomically(path, rows[order].drop(columns=empty).to_csv(index=False, lineterminator="\n"))


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell as a file has it: numbers to 6 digits (0 for -0), nothing for what is missing."""

    def text(value) -> str:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return ""
        return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)

    return frame.astype(object).map(text)


def write_section(path: Path, title: str, text: str) -> None:
    """Replaces (or adds) the section ``## title`` of a Markdown file; sections of presets stand by size."""
    with lock(path):
        first, *sections = path.read_text().split("\n## ") if path.exists() else [f"# {path.parent.name}\n"]
        sections = {part.partition("\n")[0]: part.rstrip() + "\n" for part in sections}
        sections[title] = f"{title}\n\n{text.rstrip()}\n"
        order = sorted(sections, key=lambda name: sweep.preset_rank(name.split("`")[1] if "`" in name else ""))
        write_atomically(path, "\n## ".join([first.rstrip() + "\n", *(sections[name] for name in order)]))


def cell(value: float, low: float = np.nan, high: float = np.nan, digits: int = 2) -> str:
    """``14.32 [14.10, 14.54]``; without an interval just the value; nan is an empty cell."""
    if np.isnan(value):
        return ""
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def readable(table: pd.DataFrame, by: str, metrics: dict[str, int], name=str) -> pd.DataFrame:
    """One row for each value of ``by``, one column a metric (name -> digits) of those that the table has, each "mean
    [interval]" or empty, and the seeds, where metrics have different ones the most, and photos."""
    rows, there = [], set(table["metric"])
    for value, group in table.groupby(by, sort=False):
        cells = group.set_index("metric")
        row = {by: name(value)}
        for metric, digits in metrics.items():
            if metric in cells.index:
                row[metric] = cell(*cells.loc[metric, ["value", "ci_low", "ci_high"]], digits)
            elif metric in there:
                row[metric] = ""
        rows.append({**row, "seeds": group["n_seeds"].max(), "photos": group["n_photos"].iloc[0]})
    return pd.DataFrame(rows)


def _per_image(study: str, run_id: str) -> pd.DataFrame:
    return _read_per_image(Run(study, run_id).folder / "metrics.json")


@remembered
def _read_per_image(metrics: Path) -> pd.DataFrame:
    return Run(metrics.parents[2].name, metrics.parent.name).per_image


def _trivial(test_set: str) -> dict[str, tuple[dict, pd.DataFrame]]:
    """The trivial fills measured on a test set: arm -> its metrics, its rows of per_image."""
    metrics = inpaintlib.RESULTS / "trivial_fills" / str(test_set)[:16] / "metrics.json"
    return _read_trivial(metrics) if metrics.exists() else {}


@remembered
def _read_trivial(metrics: Path) -> dict[str, tuple[dict, pd.DataFrame]]:
    rows = pd.read_csv(metrics.with_name("per_image.csv.gz"))
    return {arm: (found, rows[rows["arm"] == arm].drop(columns="arm").reset_index(drop=True))
            for arm, found in read_json(metrics).items()}  # fmt: skip


def version(study: str, run_id: str) -> str:
    """The commit of the code that made a run, where its env.json says one."""
    return _environment(study, run_id).get("git_commit") or "unknown"


def machine(study: str, run_id: str) -> str:
    """The processor that made a run, with the precision of its training where env.json says one."""
    said = _environment(study, run_id)
    return ", ".join(filter(None, (said.get("device") or "unknown", said.get("precision"))))


def _environment(study: str, run_id: str) -> dict:
    env = Run(study, run_id).folder / "env.json"
    return _read_environment(env) if env.exists() else {}


_read_environment = remembered(read_json)
