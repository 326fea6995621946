"""A reproducibility study of image inpainting: a photo and a mask go in, a completed photo comes out,
everything else measures that.

Conventions that hold between all modules:

* photos are float tensors (B, 3, H, W) in [0, 1]; stored photos are uint8;
* masks are bool tensors (B, 1, H, W), True = hole;
* an *Inpainter* is any callable ``(photos, mask) -> photos`` that returns the known pixels untouched;
* training is budgeted in *kimg*, thousands of photos shown.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes a second, which the command line and the sweep's processes save
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / (os.environ.get("INPAINT_DATA") or "data")  # from the root, as kernels work in notebooks/
RESULTS = ROOT / (os.environ.get("INPAINT_RESULTS") or "results")

Inpainter = Callable[["Tensor", "Tensor"], "Tensor"]


class BadInput(ValueError):
    """One clear sentence for the user: which file or parameter, what was wrong, what would be right."""
