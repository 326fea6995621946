"""From runs to tables: ``table.csv`` (tidy), ``table.md`` (readable) and ``runs.csv`` (one row a run).

:class:`Results` is what report notebooks read: the finished runs of one preset of a study.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_atomically
from inpaintlib.harness import statistics
from inpaintlib.harness.runs import Run, load_table
from inpaintlib.harness.sweep import of_preset

METRICS = (
    "psnr", "psnr_hole", "psnr_pooled", "psnr_hole_pooled", "psnr_inner", "psnr_inner_pooled", "ssim", "ssim_hole",
    "l1", "l1_hole", "lpips", "fid", "fid_hole", "kid", "kid_hole", "inception_score", "sharpness", "seam",
    "seam_inner", "kid_cell", "valid_l1", "colour_offset", "fill_deviation", "high_frequency", "grid_peak",
    "early_l1_hole", "probe_texture", "probe_structure", "cka_texture", "cka_structure", "rank_texture",
    "rank_structure", "probe_lost", "swap_change", "code_error", "code_variation", "weighted_constraint",
    "lost_low", "lost_high", "correlation_removed", "blur_correlation_removed", "rtv_ms", "code_ms", "loss",
    "context_loss", "realism", "start_spread", "start_agreement", "seconds_per_photo", "images_per_second",
    "seconds", "peak_memory_gb",
)  # fmt: skip


class Results:
    """The finished runs of one preset of a study.

    ``runs``: a DataFrame with a row a run, its parameters and metrics as columns. Where runs measured several things
    at once, ``parts`` names the columns of per_image.csv that tell them apart (such as the kind of mask): each part of
    a run then has a row of its own, with these columns in place of parameters of the same name.

    Raises BadInput where there are none.
    """

    def __init__(self, study: str, preset: str, parts: Sequence[str] = (), **wanted):
        self.study, self.preset, self.parts = study, preset, list(parts)
        self.folder = inpaintlib.RESULTS / study
        self.runs = load_table(of_preset(study, preset, **wanted))
        if self.runs.empty:
            raise BadInput(f"results/{study}: there are no finished runs of the preset {preset!r}; make them with "
                           f"python -m inpaintlib sweep {study} --preset {preset}")  # fmt: skip
        if parts:
            self.runs = pd.DataFrame([part for run in self.runs.to_dict("records") for part in self._divided(run)])

    def _divided(self, run: dict) -> list[dict]:
        """A run's row for each of its parts: the means of the part's photos are its metrics."""
        common = {name: value for name, value in run.items() if name not in METRICS}
        rows = []
        for values, photos in Run(self.study, run["run_id"]).per_image.groupby(self.parts, sort=False):
            means = photos[[metric for metric in METRICS if metric in photos]].mean().to_dict()
            part = dict(zip(self.parts, values, strict=True))
            part |= {"test_set": photos["test_set"].iloc[0]} if "test_set" in photos else {}
            rows.append(common | means | part | {"n_photos": len(photos)} | _pooled(photos))
        return rows

    def photos(self, row: pd.Series) -> pd.DataFrame:
        """per_image.csv of a row of ``runs``, of its part alone."""
        photos = Run(self.study, row["run_id"]).per_image
        for part in self.parts:
            photos = photos[photos[part] == row[part]]
        return photos

    def where(self, **wanted) -> pd.DataFrame:
        """The runs whose parameters have these values, by seed."""
        rows = self.runs
        for name, value in wanted.items():
            rows = rows[rows[name] == value]
        return rows.sort_values("seed", ignore_index=True)

    def folders(self, **wanted) -> list[Path]:
        return [Run(self.study, run_id).folder for run_id in self.where(**wanted)["run_id"]]

    def histories(self, **wanted) -> list[pd.DataFrame]:
        """history.csv of each run, by seed."""
        return [pd.read_csv(folder / "history.csv") for folder in self.folders(**wanted)]

    def per_image(self, metric: str, **wanted) -> np.ndarray:
        """(seeds, photos) of one column of per_image.csv; (seeds, 1) of a metric of whole runs, such as kid."""
        rows = [(row, self.photos(row)) for _, row in self.where(**wanted).iterrows()]
        return np.array([photos[metric] if metric in photos else [row[metric]] for row, photos in rows])

    def difference(self, metric: str, a: dict, b: dict, same_pixels: bool = True) -> statistics.Paired | None:
        """Arm a minus arm b on the same photos and seeds, or None where one is missing or their TestSets differ.

        ``same_pixels=False`` compares TestSets that differ in pixels, photo by photo, as long as there are as many.
        """
        first, second = self.where(**a), self.where(**b)
        seeds = sorted(set(first["seed"]) & set(second["seed"])) if len(first) and len(second) else []
        sets = {*first["test_set"], *second["test_set"]} if seeds else set()
        counts = {*first["n_photos"], *second["n_photos"]} if seeds else set()
        if len(counts) != 1 or (same_pixels and len(sets) != 1):
            return None
        rows = [self.per_image(metric, **arm)[frame["seed"].isin(seeds)] for arm, frame in ((a, first), (b, second))]
        whole = np.isfinite(rows[0]).all(0) & np.isfinite(rows[1]).all(0)  # a flat truth has no sharpness
        return statistics.paired(rows[0][:, whole], rows[1][:, whole])

    def against(self, base: dict, arms: dict[str, dict], metrics: Sequence[str]) -> pd.DataFrame:
        """Each arm minus the base, two columns a metric: "difference [interval]" and Holm's p-value."""
        rows = {}
        for metric in metrics:
            found = [self.difference(metric, arm, base) for arm in arms.values()]
            rows[metric] = ["" if d is None else cell(d.difference, d.low, d.high, 3) for d in found]
            p = statistics.holm([np.nan if d is None else d.p_value for d in found])
            rows[f"{metric}: p"] = ["" if np.isnan(value) else f"{value:.3f}" for value in p]
        return pd.DataFrame(rows, index=list(arms))

    def tidy(self, by: Sequence[str]) -> pd.DataFrame:
        """The table's rows: for each value of ``by`` and each metric its mean over seeds and a 95 % interval.

        Intervals are over seeds (Student's t); a single seed has one over its photos where the metric has a value for
        each photo (bootstrap), and ``n_seeds`` says 1.
        """
        keys, rows = [*by, "dataset", "test_set"], []
        for values, group in self.runs.groupby(keys, sort=False, dropna=False):
            common = dict(zip(keys, values, strict=True))
            for metric in METRICS:
                if metric in group and group[metric].notna().all():
                    rows.append({**common, **self._cell(metric, group)})
        order = [*by, "dataset", "metric", "value", "ci_low", "ci_high", "n_seeds", "n_photos", "test_set", "preset"]
        return pd.DataFrame(rows)[order]

    def _cell(self, metric: str, group: pd.DataFrame) -> dict:
        values = group[metric].to_numpy(float)
        interval = statistics.interval(values)
        if len(values) == 1:
            photos = self.photos(group.iloc[0])
            if metric in photos and np.isclose(photos[metric].mean(), values[0]):  # else no mean of photos
                interval = statistics.bootstrap(photos[metric].dropna().to_numpy())
        return {
            "metric": metric, "value": values.mean(), "ci_low": interval.low, "ci_high": interval.high,
            "n_seeds": len(values), "n_photos": int(group["n_photos"].iloc[0]), "preset": self.preset,
        }  # fmt: skip

    def write(self, table: pd.DataFrame, readable: str) -> None:
        """Writes table.csv and runs.csv, rows of other presets kept, and this preset's part of table.md."""
        merge(table, self.folder / "table.csv", self.preset)
        merge(
            self.runs.drop(columns=["run_id"]).assign(run_id=self.runs["run_id"]), self.folder / "runs.csv", self.preset
        )
        write_section(self.folder / "table.md", f"Preset `{self.preset}`", readable)


def _pooled(photos: pd.DataFrame) -> dict[str, float]:
    """What `metrics.summarise` makes of these photos otherwise than by a mean."""
    from inpaintlib.metrics import summarise  # imports torch

    whole = summarise(photos)
    return {name: whole[name] for name in ("psnr_pooled", "psnr_hole_pooled", "sharpness")}


def merge(rows: pd.DataFrame, path: Path, preset: str) -> pd.DataFrame:
    """Puts rows into the CSV at ``path`` in place of those of the same preset; all others stay."""
    if path.exists():
        there = pd.read_csv(path)
        rows = pd.concat([there[there["preset"] != preset], rows], ignore_index=True)
    write_atomically(path, rows.to_csv(index=False, float_format="%.6g"))
    return rows


def write_section(path: Path, title: str, text: str) -> None:
    """Replaces (or adds) the section ``## title`` of a Markdown file."""
    sections = path.read_text().split("\n## ") if path.exists() else [f"# {path.parent.name}\n"]
    sections = [part for part in sections if not part.startswith(f"{title}\n")]
    write_atomically(
        path, "\n## ".join([*(part.rstrip() + "\n" for part in sections), f"{title}\n\n{text.rstrip()}\n"])
    )


def cell(value: float, low: float = np.nan, high: float = np.nan, digits: int = 2) -> str:
    """``14.32 [14.10, 14.54]``; without an interval just the value; nan is an empty cell."""
    if np.isnan(value):
        return ""
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def readable(table: pd.DataFrame, by: str, metrics: dict[str, int], name=str) -> pd.DataFrame:
    """One row for each value of ``by``, one column a metric (name -> digits), each "mean [interval]", and n."""
    rows = []
    for value, group in table.groupby(by, sort=False):
        cells = group.set_index("metric")
        row = {by: name(value)}
        for metric, digits in metrics.items():
            if metric in cells.index:
                row[metric] = cell(*cells.loc[metric, ["value", "ci_low", "ci_high"]], digits)
        rows.append({**row, "seeds": group["n_seeds"].iloc[0], "photos": group["n_photos"].iloc[0]})
    return pd.DataFrame(rows)
