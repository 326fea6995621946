"""A study of one's own for tests of tables and claims: a notebook, a sweep file, and runs whose numbers are given."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import inpaintlib
from inpaintlib.files import write_json
from inpaintlib.harness import sweep
from inpaintlib.harness.runs import Run

PARAMETERS = """study: str = "toy"  # folder
run_id: str = ""  # address
preset: str = "by hand"  # label (cosmetic)
arm: str = "a"  # variant
ratio: float = 1.0  # [0, inf]
dataset: str = "demo"  # photos
kimg: float = 1.0  # length (0, inf)
seed: int = 0  # [0, inf)
"""
RUNS = [
    {"arm": ["a", "b", "c"], "seed": [0, 1, 2, 3, 4, 5]},
    {"arm": "ratio", "ratio": [1, 10, 100], "seed": [0, 1, 2]},
]
LENGTHS = {"smoke": 1, "quick": 2, "night": 3}
PRESETS = {name: {"parameters": {"preset": name, "kimg": kimg}, "runs": RUNS} for name, kimg in LENGTHS.items()}


class Toy:
    """Writes under ``tmp_path``; ``monkeypatch`` makes that the repository and results/."""

    def __init__(self, tmp_path: Path, monkeypatch, presets: dict = PRESETS, claims: list | None = None):
        self.root, self.results = tmp_path, tmp_path / "results"
        monkeypatch.setattr(inpaintlib, "ROOT", tmp_path)
        monkeypatch.setattr(inpaintlib, "RESULTS", self.results)
        (tmp_path / "notebooks" / "sweeps").mkdir(parents=True)
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": PARAMETERS, "outputs": []}
        for name in ("10_toy.ipynb", "11_toy_report.ipynb"):
            (tmp_path / "notebooks" / name).write_text(json.dumps({"cells": [cell], "nbformat": 4}))
        self.sweep_file(presets, claims)

    def sweep_file(self, presets: dict = PRESETS, claims: list | None = None, study: str = "toy", **more) -> None:
        content = {"study": study, "notebook": "10_toy.ipynb", "report": "11_toy_report.ipynb", **more}
        content |= {"presets": presets, "claims": claims or []}
        (self.root / "notebooks" / "sweeps" / f"{study}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def finish(self, preset: str, measure, photos=None, skip=lambda p: False, commit: str = "c" * 40, items=()) -> None:
        """Finishes all planned runs of a preset. ``measure(parameters)``: their metrics, over the defaults;
        ``photos(parameters)``: columns of per_image; ``skip(parameters)``: whether to leave a run out."""
        for item in items or sweep.plan("toy", preset):
            p = item.parameters
            if skip(p):
                continue
            folder = Run(item.study, item.run_id).folder
            folder.mkdir(parents=True, exist_ok=True)
            given = {"id": [f"{i}.png" for i in range(6)], "picture": [0, 0, 1, 1, 2, 2]}
            frame = pd.DataFrame(given | (photos(p) if photos else {"anything": np.arange(6.0)}))
            metrics = {"n_photos": len(frame), "n_pictures": 3, "test_set": "ab12" * 16, "status": "done"} | measure(p)
            frame.to_csv(folder / "per_image.csv", index=False)
            write_json(folder / "params.json", p)
            write_json(folder / "env.json", {"git_commit": commit})
            curve = metrics.pop("curve", [1.0, 2.0])
            pd.DataFrame({"kimg": range(len(curve)), "test_psnr": curve}).to_csv(folder / "history.csv", index=False)
            write_json(folder / "metrics.json", metrics)

    def trivial(self, psnr_hole: dict[str, list[float]], test_set: str = "ab12" * 16, **columns) -> None:
        """Leaves the trivial fills of a test set as `metrics.measure_trivial_fills` does: arm -> its photos' PSNR."""
        folder = self.results / "trivial_fills" / test_set[:16]
        folder.mkdir(parents=True)
        ids = {"id": [f"{i}.png" for i in range(6)], "picture": [0, 0, 1, 1, 2, 2]}
        frames = [pd.DataFrame({"arm": arm, **ids, "psnr_hole": v, **columns}) for arm, v in psnr_hole.items()]
        pd.concat(frames).to_csv(folder / "per_image.csv.gz", index=False)
        about = {"n_photos": 6, "n_pictures": 3, "test_set": test_set}
        write_json(folder / "metrics.json", {a: about | {"psnr_hole": float(np.mean(v))} for a, v in psnr_hole.items()})
