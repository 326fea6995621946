"""What the released code makes of MEDFE: `medfe` with the defects of Liu 2020's and Gielisse 2021's repositories.

Each defect stands here once, and ``Settings.fixes`` mends it:

=======  ===============================================================================================================
mask     a feature is hole where *more than all* of it is hole, so features have no hole (:func:`released_feature_hole`)
init     N(0, .02) also overwrites the partial convolutions' counting kernels (:class:`OverwrittenPartialConv2d`) and
         the auto-encoders that were loaded as ground truth
bpa      propagated features, (pixels, channels), are read as (channels, pixels) (:func:`scrambled`)
vgg      VGG gets [-1, 1] instead of ImageNet's range, and conv5_1 twice (:func:`released_vgg_features`)
crop     the local discriminator looks anywhere, and not at the hole (:func:`corners_anywhere`)
=======  ===============================================================================================================

The code's partial convolutions also leave out the factor sum(1) of sum(1)/sum(M), and what is left, of variance 1e-7,
drowns in the epsilon of the instance norm behind them; ours keep the factor, unless init is not fixed.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import losses
from inpaintlib.methods import medfe
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.partial_conv import PartialConv2d
from inpaintlib.training import initialise, initialise_dcgan

FIXES = ("mask", "init", "bpa", "vgg", "crop")


@dataclass(frozen=True)
class Settings(medfe.Settings):
    """As `medfe.Settings`; ``loss_mult`` -1 is the code's: 4, and 32 with auto-encoders."""

    fixes: str = ""  # which defects are mended: of mask, init, bpa, vgg, crop, joined by +; empty: as released

    def __post_init__(self):
        super().__post_init__()
        known = not self.fixes or set(self.fixes.split("+")) <= set(FIXES)
        self.require("fixes", known, f"of {', '.join(FIXES)}, joined by +")

    def has(self, defect: str) -> bool:
        return defect not in self.fixes.split("+")

    @property
    def multiplier(self) -> float:
        """loss_mult, or the code's, which both arms of Gielisse's comparison were trained with."""
        return self.loss_mult if self.loss_mult >= 0 else 32.0 if self.of_code else 4.0


def released_feature_hole(hole: Tensor) -> Tensor:
    """As `medfe.feature_hole`, asking for more than 1, which no fraction is; padding counts as known."""
    fraction = hole.float()
    for _ in range(3):
        fraction = F.avg_pool2d(fraction, 4, 2, 1)
    return fraction > 1


class OverwrittenPartialConv2d(PartialConv2d):
    """A partial convolution whose counting kernel, all ones, was overwritten by N(0, .02).

    ``x' = W^T(X * M) / K(M)``, K the overwritten kernel. The code convolves all channels of M with (C', C, k, k)
    numbers; the channels are equal, so this is one channel and their sum over C, which is N(0, .02 sqrt(C)).
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, 1, kernel_size // 2, bias=False)
        self.register_buffer("counting", torch.empty(channels, 1, kernel_size, kernel_size))
        self.overwrite()

    def overwrite(self) -> None:
        nn.init.normal_(self.counting, 0, 0.02 * math.sqrt(self.in_channels))

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """As its parent's, for one part with a bool map."""
        reached = self.coverage([valid], [1])[1]
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            count = F.conv2d(valid.to(self.counting.dtype), self.counting, None, 1, self.padding)
            ratio = torch.where(reached, 1 / count, 0)
        y = F.conv2d(torch.where(valid, features, 0), self.weight, None, 1, self.padding)
        return y * ratio.to(y.dtype), reached


def initialise_all(module: nn.Module) -> None:
    """The code's rule: DCGAN's for every convolution, counting kernels included."""
    initialise_dcgan(module)
    if isinstance(module, OverwrittenPartialConv2d):
        module.overwrite()


def scrambled(features: Tensor) -> Tensor:
    """What the released ``view`` makes of propagated features: (B, H W, C) numbers read as (B, C, H, W)."""
    return features.flatten(2).mT.reshape(features.shape)


def scrambled_propagation(features: Tensor) -> Tensor:
    """`medfe.propagate`, each of its halves scrambled."""
    return torch.cat([scrambled(half) for half in medfe.propagate(features).chunk(2, 1)], 1)


def released_vgg_features(vgg: nn.Sequential) -> losses.Features:
    """As `medfe.vgg_features`, of [-1, 1]; relu5_2 is pool4, conv5_1 and relu once more, behind relu5_1."""
    return losses.Features(nn.Sequential(*vgg[:26], *vgg[23:26]), (1, 6, 8, 11, 15, 18, 22, 25, 28), "symmetric")


def corners_anywhere(holes: Tensor, draws: Tensor, side: int) -> Tensor:
    """As `medfe.corners_in_hole`, but wherever the square fits."""
    fits = torch.tensor([each - side + 1 for each in holes.shape[-2:]], device=draws.device)
    return (draws * fits).long()


class Network(medfe.Network):
    """`medfe.Network` with the defects that its settings have."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        if settings.has("mask"):
            self.middle.feature_hole = released_feature_hole
        if settings.has("bpa"):
            self.middle.equalise.propagate = scrambled_propagation
        for block in [block for stream in self.middle.streams for block in stream if settings.has("init")]:
            block.conv = OverwrittenPartialConv2d(block.conv.in_channels, block.conv.kernel_size[0])


class MEDFE(medfe.MEDFE):
    """`medfe.MEDFE` with the defects that its settings have."""

    kind, title = "medfe_released", "released MEDFE (weights.pt of a run of notebook 41)"
    settings_type, network_type, rule = Settings, Network, staticmethod(initialise_all)

    def features_of(self, vgg: nn.Sequential) -> losses.Features:
        return released_vgg_features(vgg) if self.settings.has("vgg") else medfe.vgg_features(vgg)

    def corners(self, holes: Tensor, draws: Tensor, side: int) -> Tensor:
        return (corners_anywhere if self.settings.has("crop") else medfe.corners_in_hole)(holes, draws, side)

    def _codes(self, codes: tuple[CAE, CAE] | None) -> nn.ModuleList:
        encoders = super()._codes(codes)
        return initialise(encoders, self.seed, "codes", initialise_dcgan) if self.settings.has("init") else encoders
