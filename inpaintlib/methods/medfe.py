"""Rethinking Image Inpainting via a Mutual Encoder-Decoder with Feature Equalizations (Liu, Jiang, Song, Huang, Yang;
ECCV 2020), and the variant of 2021 that compares its features with auto-encoded photos ("the blog").

An encoder's three fine levels become the *texture* branch and its three coarse ones the *structure* branch; partial
convolutions fill the hole of both; what they hold is fused, equalised over channels and space, and added back to every
level on its way to the decoder. Each branch is tied to a picture of its own: the photo, and its structure without
texture. How it is tied is the blog's question, and ``Settings.constraint`` here.

Paper and released code differ, and so do the blog and its code. Where they do, this file has a switch
(:data:`SWITCHES`), and two presets set them all: :meth:`Settings.released` and :meth:`Settings.described`.

Not followed: the linear decay of the rate after 20 epochs, which the blog's 5 never reach; batches of one photo (ours
are any size); five optimisers of one rate (ours: two, which is the same). The code's partial convolutions also leave
out the factor sum(1) of sum(1)/sum(M), and what is left, of variance 1e-7, drowns in the epsilon of the instance norm
behind them; ours keep the factor, unless ``fix_init`` is off.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import BadInput, losses, pretrained
from inpaintlib.data import masks
from inpaintlib.methods import rtv
from inpaintlib.methods.autoencoder import CAE
from inpaintlib.methods.partial_conv import PartialConv2d
from inpaintlib.training import (
    Trainer,
    adam,
    frozen,
    generator,
    initialise_dcgan,
    seeded,
)

FILL = (123 / 255, 104 / 255, 117 / 255)  # what the hole holds: a mean colour, its channels in the code's order
CONSTRAINTS = ("none", "conv1x1", "cae", "cae_reinitialised", "cae_no_norm")
SWITCHES = ("fix_mask", "fix_init", "fix_bpa", "fix_vgg", "loss_mult", "local_crop")
"""Where the released code departs from what is described; the settings in which the two presets differ."""


@dataclass(frozen=True)
class Settings:
    """Every choice of one training. The defaults are MEDFE as described; :meth:`released` is what its code does.

    ``constraint`` says what ties the filled texture and structure features, F_te and F_st, to their pictures:

    * ``none``: nothing;
    * ``conv1x1`` (the paper): one 1x1 convolution to 3 channels and tanh, of both, is compared with the photo and its
      structure image (`rtv.structure`), both reduced to the features' size;
    * ``cae`` (the blog): all channels are compared with the codes of two frozen auto-encoders of the photo;
    * ``cae_reinitialised``: the same with random weights, what ``fix_init=False`` makes of ``cae``;
    * ``cae_no_norm``: ``cae`` without the instance norm before the features' tanh, by which they cannot equal a code.
    """

    size: int = 256  # px, a power of two from 64; paper and blog 256
    width: int = 64  # channels of the first layer; 64 in the code, with 256 in the branches
    region: str = "centre"  # centre (half the side: the blog) | irregular (the paper: NVIDIA's masks)
    constraint: str = "conv1x1"  # none | conv1x1 | cae | cae_reinitialised | cae_no_norm
    fix_mask: bool = True  # a feature is hole where more than half of it is; False: more than all of it, so nowhere
    fix_init: bool = True  # False: N(0, .02) also overwrites the masks' ones-kernels and the loaded auto-encoders
    fix_bpa: bool = True  # False: propagated features (pixels, channels) are read as (channels, pixels)
    fix_vgg: bool = True  # False: VGG gets [-1, 1] instead of ImageNet's range, and conv5_1 again for conv5_2
    loss_mult: float = 1.0  # of both constraints; MEDFE's code 3, the blog's code 4 and (cae) 32, its text 8
    local_crop: str = "hole"  # hole: the local discriminator's crop is centred on a hole pixel | random: anywhere
    l1_weight: float = 1.0  # of the L1 of the whole photo, in [-1, 1] units
    perceptual_weight: float = 0.2  # of VGG-16's relu1_1 to relu5_1
    style_weight: float = 250.0  # of the Gram matrices of relu2_2, relu3_3, relu4_3 and relu5_2
    adversarial_weight: float = 0.2  # of both discriminators
    structure_weight: float = 1.0  # of L_rst, times loss_mult
    texture_weight: float = 1.0  # of L_rte, times loss_mult
    lr: float = 2e-4  # of all networks
    beta1: float = 0.5
    beta2: float = 0.999
    bank: int = 3072  # irregular training masks drawn once, equally many of each bin

    @classmethod
    def described(cls, constraint: str = "conv1x1", **others) -> "Settings":
        """As the texts have it: every switch at what paper and blog describe."""
        mult = 8.0 if constraint.startswith("cae") else 1.0
        return cls(constraint=constraint, **{"loss_mult": mult} | others)

    @classmethod
    def released(cls, constraint: str = "conv1x1", **others) -> "Settings":
        """As the blog's repository has it, which trained both arms of its comparison."""
        mult = 32.0 if constraint.startswith("cae") else 4.0
        switches = {"fix_mask": False, "fix_init": False, "fix_bpa": False, "fix_vgg": False,
                    "loss_mult": mult, "local_crop": "random"}  # fmt: skip
        return cls(constraint=constraint, **switches | others)

    def __post_init__(self):
        def require(ok: bool, name: str, right: str) -> None:
            if not ok:
                raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")

        require(self.size >= 64 and self.size & (self.size - 1) == 0, "size", "a power of two of at least 64 px")
        require(self.width >= 1, "width", "at least 1 channel")
        require(self.region in ("centre", "irregular"), "region", "centre or irregular")
        require(self.constraint in CONSTRAINTS, "constraint", f"one of {', '.join(CONSTRAINTS)}")
        require(self.local_crop in ("hole", "random"), "local_crop", "hole or random")
        require(0 <= self.loss_mult < math.inf, "loss_mult", "a number of at least 0")
        for name, weight in self.weights.items():
            require(0 <= weight < math.inf, f"{name}_weight", "a number of at least 0")
        require(self.l1_weight + self.perceptual_weight + self.style_weight + self.adversarial_weight > 0,
                "l1_weight", "above 0 where all other weights of the output are 0")  # fmt: skip
        require(self.bank >= len(masks.RATIO_BINS), "bank", f"at least {len(masks.RATIO_BINS)} masks, one a bin")

    @property
    def channels(self) -> list[int]:
        """Of the six levels: 64, 128, 256, 512, 512, 512."""
        return [self.width * min(2**i, 8) for i in range(6)]

    @property
    def strides(self) -> list[int]:
        """Of the six levels, which end at 4 px: six halvings at 256 px, five at 128, four at 64, then stride 1."""
        halvings = min(6, int(math.log2(self.size)) - 2)
        return [2] * halvings + [1] * (6 - halvings)

    @property
    def crop(self) -> int:
        """Side of what the local discriminator sees, px: 64 of 256 as in the code; at least 32, its receptive grid."""
        return max(32, self.size // 4)

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each term of :meth:`MEDFE.objective`; loss_mult is in those of the two constraints."""
        mult = 0.0 if self.constraint == "none" else self.loss_mult
        return {"l1": self.l1_weight, "perceptual": self.perceptual_weight, "style": self.style_weight,
                "adversarial": self.adversarial_weight, "structure": mult * self.structure_weight,
                "texture": mult * self.texture_weight}  # fmt: skip


# Layers


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """1x1 unless told; 4x4 where it halves, 3x3 where it keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, 0 if kernel == 1 else 1, bias=bias)


def level(inputs: int, outputs: int, stride: int, bias: bool = False) -> nn.Conv2d:
    return conv(inputs, outputs, 4 if stride == 2 else 3, stride, bias)


def normed(layer: nn.Module, activation: nn.Module | None = None, norm: bool = True) -> nn.Sequential:
    """A convolution, instance norm without weights, and an activation (None: leaky, slope .2)."""
    norms = [nn.InstanceNorm2d(layer.out_channels)] if norm else []
    return nn.Sequential(layer, *norms, nn.LeakyReLU(0.2) if activation is None else activation)


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, as the code does it (no antialiasing)."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


class OverwrittenPartialConv2d(PartialConv2d):
    """A partial convolution whose counting kernel, all ones, was overwritten by N(0, .02): ``fix_init=False``.

    ``x' = W^T(X * M) / K(M)``, K the overwritten kernel. The code convolves all channels of M with (C', C, k, k)
    numbers; the channels are equal, so this is one channel and their sum over C, which is N(0, .02 sqrt(C)).
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, 1, kernel_size // 2, bias=False)
        counting = torch.randn(channels, 1, kernel_size, kernel_size) * (0.02 * math.sqrt(channels))
        self.register_buffer("counting", counting)

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """As its parent's, for one part with a bool map."""
        reached = self.coverage([valid], [1])[1]
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            count = F.conv2d(valid.to(self.counting.dtype), self.counting, None, 1, self.padding)
            ratio = torch.where(reached, 1 / count, 0)
        y = F.conv2d(torch.where(valid, features, 0), self.weight, None, 1, self.padding)
        return y * ratio.to(y.dtype), reached


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight, as a matrix, is divided by its largest singular value (one power iteration a pass).

    The matrix is (outputs, inputs * k * k); all of it is fp32 under autocast too.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 4, 2, 1)
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                v = F.normalize(self.u @ matrix, dim=0)
                u = F.normalize(matrix @ v, dim=0)
                self.u.copy_(u)
            weight = self.weight / (u @ matrix @ v)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


# Feature equalisation (paper 3.2)


def feature_hole(hole: Tensor, fixed: bool = True) -> Tensor:
    """The hole among features: bool (B,1,H,W) -> (B,1,H/8,W/8).

    Three 4x4 means of stride 2 give each feature's share of hole. It is hole above one half (our choice: the paper
    gives no number); the released code asks for more than 1, which no share is, so its features have no hole
    (``fixed=False``; it also counts the padding as known).
    """
    share = hole.float()
    for _ in range(3):
        share = F.avg_pool2d(share, 4, 2, 1, count_include_pad=not fixed)
    return share > (0.5 if fixed else 1)


def gaussian(side: int, sigma: float = 1.5, device: torch.device | None = None) -> Tensor:
    """(side, side) weights of pixel j in the average at pixel i; each row sums to one, at the borders too."""
    place = torch.arange(side, device=device, dtype=torch.float)
    return (-((place[:, None] - place).square()) / (2 * sigma**2)).softmax(1)


def spatial_average(features: Tensor) -> Tensor:
    """BPA's spatial branch: each pixel becomes the Gaussian average of the whole map, channel by channel.

    The weights of (H W) x (H W) pixels are the product of those of rows and of columns: two small matrices, instead of
    the 2 GB that the released code multiplies at 32 x 32.
    """
    rows, columns = (gaussian(side, device=features.device).to(features.dtype) for side in features.shape[-2:])
    return rows @ features @ columns.mT


def range_average(features: Tensor) -> Tensor:
    """BPA's range branch: each pixel becomes an average of its 3x3 neighbourhood, weighted by likeness.

    The weights are a softmax over the nine of mean_c sigmoid(f_i) sigmoid(f_j); beyond the border lie zeros, which take
    part with logit 0.
    """

    def neighbours(x: Tensor) -> list[Tensor]:
        high, wide = x.shape[-2:]
        padded = F.pad(x, (1, 1, 1, 1))
        return [padded[..., i : i + high, j : j + wide] for i in range(3) for j in range(3)]

    gate = features.sigmoid()
    weights = torch.stack([(gate * other).float().mean(1) for other in neighbours(gate)], 1).softmax(1)
    return sum(weights[:, i : i + 1] * other for i, other in enumerate(neighbours(features)))


def scrambled(features: Tensor) -> Tensor:
    """What the released ``view`` makes of propagated features: (B, H W, C) numbers read as (B, C, H, W)."""
    return features.flatten(2).mT.reshape(features.shape)


class Equalisation(nn.Module):
    """Channels weighted by squeeze-and-excitation, then bilateral propagation (BPA) and a 1x1 convolution."""

    def __init__(self, channels: int, fix_bpa: bool):
        super().__init__()
        inner, self.fix_bpa = max(1, channels // 16), fix_bpa
        self.excitation = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(channels, inner, bias=True), nn.ReLU(),
                                        conv(inner, channels, bias=True), nn.Sigmoid())  # fmt: skip
        self.squeeze = normed(conv(2 * channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        features = features * self.excitation(features)
        averages = [spatial_average(features), range_average(features).to(features.dtype)]
        if not self.fix_bpa:
            averages = [scrambled(each) for each in averages]
        return self.squeeze(torch.cat([each.to(features.dtype) for each in averages], 1))


# The networks


class Residual(nn.Module):
    """Two 3x3 convolutions, the first dilated by 2, reflected at the border."""

    def __init__(self, channels: int):
        super().__init__()
        first, second = (
            nn.Conv2d(channels, channels, 3, 1, d, dilation=d, bias=False, padding_mode="reflect") for d in (2, 1)
        )
        self.layers = nn.Sequential(*normed(first, nn.ReLU()), second, nn.InstanceNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Encoder(nn.Module):
    """EN: (B,6,S,S), the photo in [-1,1] and three copies of its valid map -> six levels, not yet activated."""

    def __init__(self, settings: Settings):
        super().__init__()
        c = [6, *settings.channels]
        self.levels = nn.ModuleList()
        for i, stride in enumerate(settings.strides):
            before = [nn.LeakyReLU(0.2)] if i else []
            after = [nn.InstanceNorm2d(c[i + 1], affine=True)] if 0 < i < 5 else []
            self.levels.append(nn.Sequential(*before, level(c[i], c[i + 1], stride, bias=True), *after))
        self.residual = nn.Sequential(*(Residual(c[-1]) for _ in range(4)))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for layer in self.levels:
            levels.append(layer(levels[-1] if levels else x))
        return [*levels[:-1], self.residual(levels[-1])]


class Middle(nn.Module):
    """The two branches, their filling, their equalisation, and its return to every level."""

    def __init__(self, settings: Settings):
        super().__init__()
        s, c, strides = settings, settings.channels, settings.strides
        m = c[2]
        self.fix_mask = s.fix_mask
        self.texture = nn.ModuleList([
            nn.Sequential(*normed(level(c[0], c[1], 2)), *normed(level(c[1], m, 2))),
            normed(level(c[1], m, 2)),
            normed(conv(c[2], m)),
        ])  # fmt: skip
        self.structure = conv(c[3], m)
        self.squeeze = normed(conv(3 * m, m))
        self.streams = nn.ModuleList(nn.ModuleList(Filling(m, kernel, s.fix_init) for _ in range(5))
                                     for kernel in (3, 5, 7))  # fmt: skip
        of_code = s.constraint.startswith("cae")
        self.to_code = normed(conv(3 * m, m), nn.Tanh(), norm=s.constraint != "cae_no_norm") if of_code else None
        self.fuse = normed(conv(2 * m, 2 * m))
        self.equalise = Equalisation(2 * m, s.fix_bpa)
        self.to_fine = nn.ModuleList(conv(2 * m, c[i]) for i in range(3))
        self.to_coarse = nn.ModuleList(self._chain(2 * m, strides[3:i]) for i in (4, 5, 6))

    @staticmethod
    def _chain(channels: int, strides: list[int]) -> nn.Sequential:
        parts = [normed(level(channels, channels, stride)) for stride in strides]
        return nn.Sequential(*parts[:-1], parts[-1][:-1])  # no activation at the end

    def forward(self, levels: list[Tensor], hole: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Six levels and the hole (B,1,S,S) -> six levels, filled structure and texture (B,4w,S/8,S/8).

        Both branches go through the shared weights as one batch. 1x1 convolutions run before the bilinear resizing that
        the code has before them, which changes nothing but the cost.
        """
        y, size = [F.leaky_relu(each, 0.2) for each in levels], levels[2].shape[-2:]
        texture = torch.cat([layer(each) for layer, each in zip(self.texture, y[:3], strict=True)], 1)
        structure = torch.cat([_norm(resize(self.structure(each), size)) for each in y[3:]], 1)
        branches = self.squeeze(torch.cat([structure, texture]))
        valid = ~feature_hole(hole, self.fix_mask)
        structure, texture = self.fill(branches, torch.cat([valid, valid])).chunk(2)
        equal = self.equalise(self.fuse(torch.cat([structure, texture], 1)))
        fine = [_norm(resize(to(equal), each.shape[-2:])) for to, each in zip(self.to_fine, levels[:3], strict=True)]
        coarse = [chain(equal) for chain in self.to_coarse]
        return [a + b for a, b in zip(levels, fine + coarse, strict=True)], structure, texture

    def fill(self, features: Tensor, valid: Tensor) -> Tensor:
        """Three streams of partial convolutions, each of its own kernel size, side by side; then one 1x1."""
        filled = []
        for stream in self.streams:
            x, known = features, valid
            for layer in stream:
                x, known = layer(x, known)
            filled.append(x)
        return (self.to_code or self.squeeze)(torch.cat(filled, 1))


def _norm(x: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x), 0.2)


class Filling(nn.Module):
    """A partial convolution that keeps the size, instance norm with weights, leaky activation."""

    def __init__(self, channels: int, kernel: int, fix_init: bool):
        super().__init__()
        self.conv = (PartialConv2d(channels, channels, kernel, 1, kernel // 2, bias=False) if fix_init
                     else OverwrittenPartialConv2d(channels, kernel))  # fmt: skip
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        features, valid = self.conv(features, valid)
        return F.leaky_relu(self.norm(features), 0.2), valid


class Decoder(nn.Module):
    """DE: six levels -> (B,3,S,S) in [-1,1]; each stage also sees the level of its own size."""

    def __init__(self, settings: Settings):
        super().__init__()
        c = [3, *settings.channels]
        self.stages = nn.ModuleList()
        for i in reversed(range(6)):
            stride, inputs = settings.strides[i], c[i + 1] * (1 if i == 5 else 2)
            layer = nn.ConvTranspose2d(inputs, c[i], 4 if stride == 2 else 3, stride, 1)
            after = nn.InstanceNorm2d(c[i], affine=True) if i else nn.Tanh()
            self.stages.append(nn.Sequential(nn.ReLU(), layer, after))

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = self.stages[0](levels[5])
        for stage, skip in zip(self.stages[1:], levels[4::-1], strict=True):
            x = stage(torch.cat([x, skip], 1))
        return x


class Network(nn.Module):
    """EN, the middle and DE: photos (B,3,H,W) in [0,1], holes bool (B,1,H,W) -> the output (B,3,H,W) in [-1,1], and
    the filled structure and texture features (B,4w,H/8,W/8). What the photo has in the hole is never read.

    Weights at 256 px: 30.03 million of EN, 54.99 of the middle, 18.10 of DE; ``to_rgb`` is the constraint's 1x1.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.encoder, self.middle, self.decoder = Encoder(settings), Middle(settings), Decoder(settings)
        self.to_rgb = conv(settings.channels[2], 3, bias=True) if settings.constraint == "conv1x1" else None
        self.register_buffer("fill", torch.tensor(FILL).view(1, 3, 1, 1), persistent=False)
        self.apply(initialise_dcgan)

    def forward(self, photos: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([torch.where(hole, self.fill, photos) * 2 - 1, (~hole).float().expand_as(photos)], 1)
        levels, structure, texture = self.middle(self.encoder(x.contiguous(memory_format=torch.channels_last)), hole)
        return self.decoder(levels), structure, texture

    def pictures(self, features: Tensor) -> Tensor:
        """What conv1x1 compares: features of either branch (B,4w,h,w) -> (B,3,h,w) in [-1,1]."""
        return self.to_rgb(features.float()).tanh()


class Discriminator(nn.Module):
    """D and F: photos or crops (B,3,S,S) in [-1,1], S from 32 px -> logits (B,1,S/32,S/32)."""

    def __init__(self, width: int = 64):
        super().__init__()
        c = [3, width, 2 * width, 4 * width, 8 * width]
        layers = [layer for i in range(4) for layer in (SpectralConv2d(c[i], c[i + 1]), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, SpectralConv2d(c[4], 1))
        self.apply(initialise_dcgan)

    def forward(self, photos: Tensor) -> Tensor:
        return self.layers(photos)


# Objective


def relativistic_loss(real: Tensor, fake: Tensor, of_generator: bool = False) -> Tensor:
    """RaLSGAN: ((r - mean f - 1)^2 + (f - mean r + 1)^2) / 2, each a mean; the generator's has both signs turned."""
    real, fake, sign = real.float(), fake.float(), -1 if of_generator else 1
    return ((real - fake.mean() - sign).square().mean() + (fake - real.mean() + sign).square().mean()) / 2


def vgg_features(vgg: nn.Sequential, fixed: bool = True) -> losses.Features:
    """relu1_1, 2_1, 2_2, 3_1, 3_3, 4_1, 4_3, 5_1 and 5_2 of VGG-16 for photos in [0,1].

    ``fixed=False``: VGG sees [-1, 1], and relu5_2 is pool4, conv5_1 and relu once more, behind relu5_1.
    """
    layers = (1, 6, 8, 11, 15, 18, 22, 25)
    if fixed:
        return losses.Features(vgg, (*layers, 27), "imagenet")
    return losses.Features(nn.Sequential(*vgg[:26], *vgg[23:26]), (*layers, 28), "symmetric")


PERCEPTUAL, STYLE = (0, 1, 3, 5, 7), (2, 4, 6, 8)  # which of these each loss compares


def crops(photos: Tensor, corners: Tensor, side: int) -> Tensor:
    """A square of each photo: (B,3,H,W), top and left (B,2) -> (B,3,side,side)."""
    n, channels, _, wide = photos.shape
    within = torch.arange(side, device=photos.device)
    rows, columns = (corners[:, i, None] + within for i in (0, 1))
    strips = photos.gather(2, rows[:, None, :, None].expand(n, channels, side, wide))
    return strips.gather(3, columns[:, None, None, :].expand(n, channels, side, side))


def corners_in(holes: Tensor, draws: Tensor, side: int, where: str) -> Tensor:
    """Where the local discriminator looks: holes (B,1,H,W), draws (B,2) in [0,1) -> top and left (B,2).

    ``random``: anywhere. ``hole``: centred on a hole pixel, all equally likely, as far as the photo's edge allows.
    """
    high, wide = holes.shape[-2:]
    most = (high - side, wide - side)
    if where == "random":
        corners = draws[:, 0] * (most[0] + 1), draws[:, 1] * (most[1] + 1)
    else:
        counts = holes.flatten(1).cumsum(1)
        pixel = torch.searchsorted(counts, (draws[:, :1] * counts[:, -1:]).long(), right=True)[:, 0]
        corners = pixel // wide - side // 2, pixel % wide - side // 2
    return torch.stack([corner.long().clamp(0, last) for corner, last in zip(corners, most, strict=True)], 1)


# Training and use


class MEDFE(Trainer):
    """All networks in training (:meth:`step`) and as an Inpainter (:meth:`inpaint`).

    Args:
        settings: the choices. ``seed``: of initialisation, crops and training masks.
        device, precision, acceleration: see :class:`inpaintlib.training.Trainer`.
        vgg: the network of the perceptual and style terms; None: `pretrained.vgg16`.
        structure: photos (B,3,S,S) in [0,1] -> their structure images, for conv1x1 where batches bring none.
        codes: trained auto-encoders of texture and of structure, for the constraints cae...; their encoders are copied.
        bank: training holes bool (n,1,size,size) in place of those of ``settings.region``.
        filling_only: no VGG, no targets: for a network that is loaded to fill holes.

    Raises:
        BadInput: a value that will not do; auto-encoders that are missing, untrained or of another shape; VGG's
            weights missing where a term needs them.
    """

    parts = ("network", "discriminators", "adam_g", "adam_d")
    keeps, title = "network", "MEDFE (weights.pt of a run of notebook 41)"

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto", precision: str = "auto",
                 acceleration: str = "auto", vgg: nn.Sequential | None = None,
                 structure: Callable[[Tensor], Tensor] = rtv.structure, codes: tuple[CAE, CAE] | None = None,
                 bank: Tensor | None = None, filling_only: bool = False):  # fmt: skip
        self.settings, self.seed = settings, seed
        self.place(device, precision, acceleration)
        with seeded(seed):
            self.network = Network(settings)
            self.discriminators = nn.ModuleList([Discriminator(settings.width), Discriminator(settings.width)])
        for network in (self.network, self.discriminators):
            network.to(self.device, memory_format=torch.channels_last)
        betas = (settings.beta1, settings.beta2)
        self.adam_g = adam(self.network, settings.lr, betas, self.device)
        self.adam_d = adam(self.discriminators, settings.lr, betas, self.device)
        if filling_only:
            return
        self.codes = self._codes(codes) if settings.constraint.startswith("cae") else None
        self.structure = structure
        self.bank = self._mask_bank(bank).to(self.device)
        self.features = None
        if settings.perceptual_weight or settings.style_weight:
            vgg = pretrained.vgg16(self.device) if vgg is None else vgg
            self.features = vgg_features(vgg, settings.fix_vgg).to(self.device)
        self._network = torch.compile(self.network) if self.compiled else self.network
        self._update = self.replayed(self.update)

    def _codes(self, codes: tuple[CAE, CAE] | None) -> nn.ModuleList:
        s, channels = self.settings, self.settings.channels[2]
        if codes is None:
            raise BadInput(f"codes: constraint {s.constraint} compares with two auto-encoders and none were given; "
                           "train them with notebook 40, or choose constraint conv1x1 or none")  # fmt: skip
        for kind, cae in zip(("texture", "structure"), codes, strict=True):
            if cae.settings.kind != kind:
                raise BadInput(f"codes: the auto-encoder of {kind} is one of {cae.settings.kind}; give texture first, "
                               "then structure")  # fmt: skip
            if cae.untrained and s.constraint != "cae_reinitialised":
                raise BadInput(f"codes: the auto-encoder of {kind} is not trained; train it with notebook 40, or ask "
                               "for an untrained one by name with constraint cae_reinitialised")  # fmt: skip
            if cae.settings.channels != channels:
                raise BadInput(f"codes: the auto-encoder of {kind} has codes of {cae.settings.channels} channels, "
                               f"where width {s.width} needs {channels}; give it half that width")  # fmt: skip
        encoders = nn.ModuleList(copy.deepcopy(cae.network.encoder) for cae in codes)
        if s.constraint == "cae_reinitialised" or not s.fix_init:
            with seeded(self.seed):
                encoders.apply(initialise_dcgan)
        return encoders.to(self.device).eval().requires_grad_(False)

    def _mask_bank(self, bank: Tensor | None) -> Tensor:
        s, bins = self.settings, masks.RATIO_BINS
        if bank is None and s.region == "centre":
            return masks.centre(1, s.size)
        if bank is None:
            first, each = 10**6 + len(bins) * self.seed, s.bank // len(bins)  # far from the seed of any test set
            return torch.cat([masks.irregular(each, s.size, first + i, bins[i]) for i in range(len(bins))])
        if bank.dtype != torch.bool or bank.shape[1:] != (1, s.size, s.size) or not bank.flatten(1).any(1).all():
            raise BadInput(f"bank: {bank.dtype} of shape {tuple(bank.shape)} will not do; it must be bool "
                           f"(n, 1, {s.size}, {s.size}), True = hole, each with a hole")  # fmt: skip
        return bank

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update of the discriminators, then one of the network, on uint8 photos; returns each loss, on the device.

        Photos are (B,3,S,S), or (B,6,S,S) with each photo's structure image behind it: conv1x1 then spends no time on
        structure images, which otherwise are made anew of every photo in every step.
        """
        draw = generator(self.seed, step)
        rows = torch.randint(len(self.bank), (len(photos),), generator=draw).to(self.device)
        draws = torch.rand(len(photos), 2, generator=draw).to(self.device)
        left_right, up_down = (torch.rand(2, len(photos), 1, 1, 1, generator=draw) < 0.5).to(self.device)
        holes = self.bank[rows]
        holes = torch.where(left_right, holes.flip(-1), holes)
        holes = torch.where(up_down, holes.flip(-2), holes)
        inputs = {"photos": photos[:, :3], "holes": holes, "draws": draws}
        if self.settings.constraint == "conv1x1":
            given = photos[:, 3:].float() / 255
            inputs["structures"] = given if photos.shape[1] == 6 else self.structure(photos.float() / 255)
        return self._update(**inputs)

    def update(self, photos: Tensor, holes: Tensor, draws: Tensor,
               structures: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
        """The whole training step as device work alone. The network runs once and serves both updates."""
        s = self.settings
        truth = (photos.float() / 255).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            output, *branches = self._network(truth, holes)
        output = output.float()
        real, corners = truth * 2 - 1, corners_in(holes, draws, s.crop, s.local_crop)
        results = {}
        if s.adversarial_weight:
            scores = self._scores(real, output.detach(), corners)
            results = {f"d_{name}": relativistic_loss(*pair) for name, pair in scores.items()}
            self.adam_d.zero_grad(set_to_none=True)
            sum(results.values()).backward()
            self.adam_d.step()
        terms = self.objective(output, truth, *branches, structures)
        if s.adversarial_weight:
            with frozen(self.discriminators):
                scores = self._scores(real, output, corners).values()
            terms["adversarial"] = sum(relativistic_loss(*pair, of_generator=True) for pair in scores)
        total = sum(s.weights[name] * term for name, term in terms.items())
        self.adam_g.zero_grad(set_to_none=True)
        total.backward()
        self.adam_g.step()
        return {name: loss.detach() for name, loss in (results | terms | {"total": total}).items()}

    def _scores(self, real: Tensor, fake: Tensor, corners: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits of real and of fake, by the global and by the local discriminator."""
        side = self.settings.crop
        pairs = {"global": [real, fake], "local": [crops(each, corners, side) for each in (real, fake)]}
        with self.autocast():
            return {name: judge(torch.cat(pair).contiguous(memory_format=torch.channels_last)).chunk(2)
                    for judge, (name, pair) in zip(self.discriminators, pairs.items(), strict=True)}  # fmt: skip

    def objective(self, output: Tensor, truth: Tensor, structure: Tensor, texture: Tensor,
                  structures: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
        """The unweighted terms but the adversarial one, none of weight 0.

        Args: outputs (B,3,S,S) in [-1,1], photos and their structure images (B,3,S,S) in [0,1], and the filled
        features (B,4w,S/8,S/8).
        """
        s, terms = self.settings, {}
        if s.l1_weight:
            terms["l1"] = (output - (truth * 2 - 1)).abs().mean()
        if s.perceptual_weight or s.style_weight:
            with self.autocast():
                (maps,) = self.features((output + 1) / 2)
                with torch.no_grad():
                    (true,) = self.features(truth)
            if s.perceptual_weight:
                terms["perceptual"] = losses.perceptual([maps[i] for i in PERCEPTUAL], [true[i] for i in PERCEPTUAL])
            if s.style_weight:
                terms["style"] = losses.style([maps[i] for i in STYLE], [true[i] for i in STYLE])
        targets = self._targets(truth, structures, texture.shape[-2:]) if s.constraint != "none" else ()
        for name, features, target in zip(("structure", "texture"), (structure, texture), targets, strict=False):
            if s.weights[name]:
                compared = self.network.pictures(features) if s.constraint == "conv1x1" else features
                terms[name] = (compared.float() - target).abs().mean()
        return terms

    @torch.no_grad()
    def _targets(self, truth: Tensor, structures: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What L_rst and L_rte compare with."""
        if self.codes is None:
            return resize(structures * 2 - 1, size), resize(truth * 2 - 1, size)
        texture, structure = self.codes
        with self.autocast():
            return structure(truth * 2 - 1).float(), texture(truth * 2 - 1).float()

    @torch.no_grad()
    def inpaint(self, photos: Tensor, mask: Tensor) -> Tensor:
        """An Inpainter: photos (B,3,H,W) in [0,1], mask (B,1,H,W) True = hole -> the completed photos.

        H and W may differ from the training size where the network's levels divide them.

        Raises:
            BadInput: a mask that is not bool or of another size; photos that the levels do not divide.
        """
        self._check(photos, mask)
        return torch.where(mask, (self.network(photos, mask)[0].float() + 1) / 2, photos)

    @torch.no_grad()
    def branches(self, photos: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The filled structure and texture features (B,4w,H/8,W/8) of photos and mask as in :meth:`inpaint`."""
        self._check(photos, mask)
        return self.network(photos, mask)[1:]

    @torch.no_grad()
    def branch_pictures(self, photos: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What conv1x1 sees of both branches, as photos (B,3,H/8,W/8) in [0,1]. BadInput for another constraint."""
        if self.network.to_rgb is None:
            raise BadInput(f"constraint: {self.settings.constraint} has no 1x1 convolution to show branches by; decode "
                           "them with the auto-encoders' decoders, or take a network with conv1x1")  # fmt: skip
        return tuple((self.network.pictures(each) + 1) / 2 for each in self.branches(photos, mask))

    def _check(self, photos: Tensor, mask: Tensor) -> None:
        masks.check(mask, photos)
        stride, (high, wide) = math.prod(self.settings.strides), photos.shape[-2:]
        if high % stride or wide % stride or min(high, wide) < 3 * stride:
            raise BadInput(f"photos: {high}x{wide} px will not do; this network was trained at {self.settings.size} px "
                           f"and needs multiples of {stride} px a side, at least {3 * stride}")  # fmt: skip

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> "MEDFE":
        """A trained network from what :meth:`save` wrote; its ``inpaint`` is ready. BadInput for any other file."""
        settings, state = cls.read(path)
        network = cls(Settings(**settings), device=device, acceleration="eager", filling_only=True)
        network.load_state_dict(state)
        return network
