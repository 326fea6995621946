"""What fills that learn nothing score where Meneust & Pinto 2024 print PSNR: ``python -m benchmarks.trivial_fills``.

Tiny ImageNet at 64 px with the central 32 px masked, all test photos at hand, every fill of `classical.FILLS`; the
table goes to ``results/context_encoder_ratios/trivial_tiny_imagenet.csv``, to be read beside the report's Table 1.
"""

import pandas as pd
import torch

import inpaintlib
from inpaintlib.data import masks
from inpaintlib.data.photos import load
from inpaintlib.data.test_set import TestSet
from inpaintlib.files import write_atomically
from inpaintlib.harness import statistics
from inpaintlib.methods.classical import FILLS
from inpaintlib.metrics import evaluate

COLUMNS = ["psnr_hole_pooled", "psnr_hole", "ssim_hole", "l1_hole", "n_photos", "test_set"]


def measure(dataset: str = "tiny_imagenet", size: int = 64) -> pd.DataFrame:
    """A row for each fill: pooled and mean-of-images PSNR (dB, with its 95 % interval over photos), SSIM and L1 of the
    hole, which is the central square of half the photo's side."""
    photos, ids, pictures = load(dataset, size, "test").spread()
    test_set = TestSet.make(dataset, photos, masks.centre(len(photos), size), ids, pictures)
    rows = []
    for name, fill in FILLS.items():
        found = evaluate(fill, test_set, networks=())
        interval = statistics.bootstrap(found.per_image["psnr_hole"].to_numpy())
        ends = {"psnr_hole_low": interval.low, "psnr_hole_high": interval.high}
        rows.append({"fill": name} | {column: found[column] for column in COLUMNS} | ends)
    return pd.DataFrame(rows)[["fill", *COLUMNS[:2], "psnr_hole_low", "psnr_hole_high", *COLUMNS[2:]]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = measure()
    path = inpaintlib.RESULTS / "context_encoder_ratios" / "trivial_tiny_imagenet.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.6g"))
    print(table.to_markdown(index=False))
