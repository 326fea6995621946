"""Terms of the objectives: pixels, VGG features and their Gram matrices, and a discriminator's opinion.

Every term that compares photos is an L1 that is divided by the number of values it compares ("size-averaged"), a mean
over the batch, and computed in fp32 whatever comes in. Photos are (B, 3, H, W) in [0, 1], holes bool (B, 1, H, W),
features lists of (B, C, H, W). Equations are those of Liu 2018 (partial convolutions), section 3.3, with M = 1 - hole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import BadInput

POOLS = (4, 9, 16)
"""VGG-16's pool1, pool2 and pool3, by their place in torchvision's ``features``."""

SCALINGS = {  # what VGG is given: (photo - mean) / standard deviation of each channel
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Features(nn.Module):
    """A frozen VGG's feature maps after the given layers, for several batches of photos in one pass.

    Args:
        vgg: `pretrained.vgg16`, or any Sequential that takes what ``scaling`` makes of photos in [0, 1].
        layers: places in ``vgg``, ascending, after which features are taken.
        scaling: ``imagenet``, ``unit`` ([0, 1] as it is) or ``symmetric`` ([-1, 1]); BadInput for another.
    """

    def __init__(self, vgg: nn.Sequential, layers: tuple[int, ...] = POOLS, scaling: str = "imagenet"):
        super().__init__()
        if scaling not in SCALINGS:
            raise BadInput(f"scaling: {scaling!r} will not do; it must be one of {', '.join(SCALINGS)}")
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in SCALINGS[scaling])
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        starts = (0, *(layer + 1 for layer in layers[:-1]))
        self.stages = nn.ModuleList(vgg[a : b + 1] for a, b in zip(starts, layers, strict=True))
        self.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, *batches: Tensor) -> list[list[Tensor]]:
        """For each batch (B, 3, H, W) the list of its features, one (B, C, H', W') a layer."""
        x = ((torch.cat(batches) - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x.split([len(batch) for batch in batches]))
        return [list(maps) for maps in zip(*features, strict=True)]


def adversarial(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy on logits (B,): -log D where ``real``, else -log(1 - D), D the logits' sigmoid; in fp32.

    Goodfellow 2014 in its non-saturating form; Pathak 2016, Eq. 2, term by term.
    """
    logits = logits.float()
    return F.softplus(-logits if real else logits).mean()


def hole_l1(output: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """L_hole = |(1 - M)(I_out - I_gt)|_1 / N, N all values of the photo: a small hole weighs little."""
    return (hole * (output.float() - truth.float()).abs()).mean()


def valid_l1(output: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """L_valid = |M(I_out - I_gt)|_1 / N."""
    return hole_l1(output, truth, ~hole)


def perceptual(features: list[Tensor], truth: list[Tensor]) -> Tensor:
    """L_perceptual of one image (Eq. 3 adds two): the sum over layers of |F(I) - F(I_gt)|_1 / N_F."""
    return sum((a.float() - b.float()).abs().mean() for a, b in zip(features, truth, strict=True))


def gram(features: Tensor) -> Tensor:
    """K_p F^T F with K_p = 1/(C H W): (B, C, H, W) -> (B, C, C), in fp32 since the sums overflow fp16."""
    flat = features.flatten(2).float()
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.mT / flat[0].numel()


def style(features: list[Tensor], truth: list[Tensor]) -> Tensor:
    """L_style of one image (Eqs. 4 and 5): the sum over layers of |K_p(F^T F - F_gt^T F_gt)|_1 / C^2."""
    return sum((gram(a) - gram(b)).abs().mean() for a, b in zip(features, truth, strict=True))


def total_variation(composite: Tensor, hole: Tensor) -> Tensor:
    """L_tv (Eq. 6): |differences of neighbours| where both lie in R, the hole dilated by 1 px (3x3), over N."""
    region, photos = F.max_pool2d(hole.float(), 3, 1, 1), composite.float()
    across = (region[..., 1:] * region[..., :-1]) * (photos[..., 1:] - photos[..., :-1]).abs()
    down = (region[..., 1:, :] * region[..., :-1, :]) * (photos[..., 1:, :] - photos[..., :-1, :]).abs()
    return (across.sum() + down.sum()) / photos.numel()
