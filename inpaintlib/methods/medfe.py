"""Rethinking Image Inpainting via a Mutual Encoder-Decoder with Feature Equalizations (Liu, Jiang, Song, Huang, Yang;
ECCV 2020), and the variant that compares its features with auto-encoded photos (Gielisse 2021, "MEDFE+CAE").

An encoder's three fine levels become the *texture* branch and its three coarse ones the *structure* branch. Partial
convolutions fill the hole of both; what they hold is fused, equalised over channels and space, and added back to every
level on its way to the decoder. Each branch is tied to a picture of its own: the photo, and its structure without
texture. How it is tied is Gielisse's question, and ``Settings.constraint`` here.

This file is the method as the two texts describe it; `medfe_released` is what the released code makes of it.

Not followed: the linear decay of the learning rate after 20 epochs, which Gielisse's 5 never reach; batches of one
photo (ours have any size); five optimisers of one learning rate (ours: two, which is the same).
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from inpaintlib import BadInput, losses, parallel, pretrained
from inpaintlib.data import masks
from inpaintlib.methods.autoencoder import CAE, KINDS
from inpaintlib.methods.partial_conv import PartialConv2d, mask_bank
from inpaintlib.settings import Checked, number, one_of, power_of_two
from inpaintlib.training import Trainer, adam, frozen, generator, initialise, initialise_dcgan

FILL = (123 / 255, 104 / 255, 117 / 255)  # what the hole holds: a mean colour, its channels in the code's order
CONSTRAINTS = ("none", "conv1x1", "cae", "cae_reinitialised", "cae_no_norm")


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one training; the defaults are those of the texts.

    ``constraint`` says what ties the filled texture and structure features, F_te and F_st, to their pictures:

    * ``none``: nothing;
    * ``conv1x1`` (Liu 2020): one 1x1 convolution to 3 channels and tanh, of both, is compared with the photo and its
      structure image (`rtv.structure`), both reduced to the features' size;
    * ``cae`` (Gielisse 2021): all channels are compared with the codes of two frozen auto-encoders of the photo;
    * ``cae_reinitialised``: the same with random weights, which is what the released code compares with;
    * ``cae_no_norm``: ``cae`` without the instance norm before the features' tanh, by which they cannot equal a code.
    """

    size: int = power_of_two(256, 64)  # px, a power of two; both texts have 256
    width: int = number(64, least=1, unit="channels")  # channels of the first layer; the code has 64
    region: str = one_of("centre", ("irregular",))  # the hole: half the side (Gielisse 2021), or irregular (Liu 2020)
    constraint: str = one_of("conv1x1", CONSTRAINTS)  # what ties the branches to pictures
    loss_mult: float = number(-1.0, least=-1)  # of both constraints; -1: 1, with auto-encoders 8; released 4 and 32
    l1_weight: float = number(1.0)  # of the photo's L1
    perceptual_weight: float = number(0.2)  # of VGG-16's relu1_1 to relu5_1
    style_weight: float = number(250.0)  # of Gram matrices of relu2_2, relu3_3, relu4_3 and relu5_2
    adversarial_weight: float = number(0.2)  # of both discriminators
    structure_weight: float = number(1.0)  # of the structure branch's constraint
    texture_weight: float = number(1.0)  # of the texture branch's
    pixel_kimg: float = number(0.0, unit="kimg")  # kimg on the L1 alone at first; the texts have none
    pixel_lr: float = number(0.0)  # Adam's learning rate in these; 0: lr
    lr: float = number(2e-4, above=0)  # Adam's learning rate; Liu 2020 has 0.0002, for millions of photos
    beta1: float = number(0.5, below=1)  # Adam
    beta2: float = number(0.999, below=1)  # Adam
    bank: int = number(3072, least=len(masks.RATIO_BINS), unit="masks, one a bin")  # irregular training masks

    def __post_init__(self):
        super().__post_init__()
        self.require("loss_mult", self.loss_mult == -1 or self.loss_mult >= 0, "at least 0, or -1")
        of_output = self.l1_weight, self.perceptual_weight, self.style_weight, self.adversarial_weight
        self.require("l1_weight", any(of_output), "above 0 where all other weights of the output are 0")

    @property
    def of_code(self) -> bool:
        """Whether the branches are compared with auto-encoders' codes."""
        return self.constraint.startswith("cae")

    @property
    def multiplier(self) -> float:
        """loss_mult, or the text's: Gielisse 2021 gives his constraint eight times the original's."""
        return self.loss_mult if self.loss_mult >= 0 else 8.0 if self.of_code else 1.0

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each term of :meth:`MEDFE.objective`; loss_mult is in those of the two constraints."""
        mult = 0.0 if self.constraint == "none" else self.multiplier
        return {"l1": self.l1_weight, "perceptual": self.perceptual_weight, "style": self.style_weight,
                "adversarial": self.adversarial_weight, "structure": mult * self.structure_weight,
                "texture": mult * self.texture_weight}  # fmt: skip

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


# Layers


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """1x1 unless told; 4x4 where it halves, 3x3 where it keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, 0 if kernel == 1 else 1, bias=bias)


def level(inputs: int, outputs: int, stride: int, bias: bool = False) -> nn.Conv2d:
    return conv(inputs, outputs, 4 if stride == 2 else 3, stride, bias)


def normed(layer: nn.Module, activation: nn.Module | None = None, norm: bool = True) -> nn.Sequential:
    """A convolution, instance norm without weights, and an activation (None: leaky, slope .2)."""
    norms = [nn.InstanceNorm2d(layer.out_channels)] if norm else []
    return nn.Sequential(layer, *norms, activation or nn.LeakyReLU(0.2))


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, as the code does it (no antialiasing)."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


# Feature equalisation (Liu 2020, 3.2)


def feature_hole(hole: Tensor) -> Tensor:
    """The hole among features: bool (B,1,H,W) -> (B,1,H/8,W/8), of which more than half is hole.

    Three 4x4 means of stride 2 give each feature's fraction of hole. One half is our choice: the paper has no number.
    """
    fraction = hole.float()
    for _ in range(3):
        fraction = F.avg_pool2d(fraction, 4, 2, 1, count_include_pad=False)
    return fraction > 0.5


def gaussian(side: int, device: torch.device | None = None) -> Tensor:
    """(side, side) weights of pixel j in the average at pixel i, by a Gaussian of 1.5 px; each row sums to one."""
    place = torch.arange(side, device=device, dtype=torch.float)
    return (-((place[:, None] - place).square()) / (2 * 1.5**2)).softmax(1)


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
    return sum(weights[:, i : i + 1] * other for i, other in enumerate(neighbours(features))).to(features.dtype)


def propagate(features: Tensor) -> Tensor:
    """BPA: what comes from afar beside what comes from the neighbours, (B,C,H,W) -> (B,2C,H,W)."""
    return torch.cat([spatial_average(features), range_average(features)], 1)


class Equalisation(nn.Module):
    """Channels weighted by squeeze-and-excitation, then bilateral propagation (BPA) and a 1x1 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        inner, self.propagate = max(1, channels // 16), propagate
        narrow, wide = conv(channels, inner, bias=True), conv(inner, channels, bias=True)
        self.excitation = nn.Sequential(nn.AdaptiveAvgPool2d(1), narrow, nn.ReLU(), wide, nn.Sigmoid())
        self.squeeze = normed(conv(2 * channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        return self.squeeze(self.propagate(features * self.excitation(features)))


# The networks


class Residual(nn.Module):
    """Two 3x3 convolutions, the first dilated by 2, reflected at the border."""

    def __init__(self, channels: int):
        super().__init__()
        options = {"bias": False, "padding_mode": "reflect"}
        first, second = (nn.Conv2d(channels, channels, 3, 1, d, dilation=d, **options) for d in (2, 1))
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


class PartialConvBlock(nn.Module):
    """A partial convolution that keeps the size, instance norm with weights, leaky activation."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = PartialConv2d(channels, channels, kernel, 1, kernel // 2, bias=False)
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        features, valid = self.conv(features, valid)
        return F.leaky_relu(self.norm(features), 0.2), valid


class FeatureEqualization(nn.Module):
    """The two branches, their filling, their equalisation, and its return to every level."""

    def __init__(self, settings: Settings):
        super().__init__()
        c, strides, m = settings.channels, settings.strides, settings.channels[2]
        self.feature_hole = feature_hole
        first = nn.Sequential(*normed(level(c[0], c[1], 2)), *normed(level(c[1], m, 2)))
        self.texture = nn.ModuleList([first, normed(level(c[1], m, 2)), normed(conv(c[2], m))])
        self.structure = conv(c[3], m)
        self.squeeze = normed(conv(3 * m, m))
        self.streams = nn.ModuleList(nn.ModuleList(PartialConvBlock(m, k) for _ in range(5)) for k in (3, 5, 7))
        norm = settings.constraint != "cae_no_norm"
        self.to_code = normed(conv(3 * m, m), nn.Tanh(), norm) if settings.of_code else None
        self.fuse = normed(conv(2 * m, 2 * m))
        self.equalise = Equalisation(2 * m)
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
        valid = ~self.feature_hole(hole)
        branches = self.squeeze(torch.cat([structure, texture]))
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
        self.encoder, self.middle, self.decoder = Encoder(settings), FeatureEqualization(settings), Decoder(settings)
        self.to_rgb = conv(settings.channels[2], 3, bias=True) if settings.constraint == "conv1x1" else None
        self.register_buffer("fill", torch.tensor(FILL).view(1, 3, 1, 1), persistent=False)

    def forward(self, photos: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([torch.where(hole, self.fill, photos) * 2 - 1, (~hole).float().expand_as(photos)], 1)
        levels, structure, texture = self.middle(self.encoder(x.contiguous(memory_format=torch.channels_last)), hole)
        return self.decoder(levels), structure, texture

    def pictures(self, features: Tensor) -> Tensor:
        """What conv1x1 compares: features of either branch (B,4w,h,w) -> (B,3,h,w) in [-1,1]."""
        return self.to_rgb(features.float()).tanh()


class Discriminator(nn.Module):
    """D and F: photos or crops (B,3,S,S) in [-1,1], S from 32 px -> logits (B,1,S/32,S/32).

    :func:`initialise_spectral` puts spectral norm on every layer.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        c = [3, width, 2 * width, 4 * width, 8 * width]
        layers = [layer for i in range(4) for layer in (level(c[i], c[i + 1], 2, True), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, level(c[4], 1, 2, True))

    def forward(self, photos: Tensor) -> Tensor:
        with parametrize.cached():  # each weight is divided by its norm once a pass, in fp32 under autocast too
            with torch.autocast(photos.device.type, enabled=False):
                _ = [layer.weight for layer in self.layers[::2]]
            return self.layers(photos)


def initialise_spectral(module: nn.Module) -> None:
    """The rule of the discriminators: DCGAN's, then spectral norm, whose first vectors are drawn here too."""
    initialise_dcgan(module)
    if isinstance(module, nn.Conv2d):
        spectral_norm(module)


# Objective


def relativistic_loss(real: Tensor, fake: Tensor, of_generator: bool = False) -> Tensor:
    """RaLSGAN: ((r - mean f - 1)^2 + (f - mean r + 1)^2) / 2, each a mean; the generator's has both signs turned."""
    real, fake, sign = real.float(), fake.float(), -1 if of_generator else 1
    of_fake, of_real = parallel.mean(fake.mean()), parallel.mean(real.mean())
    return ((real - of_fake - sign).square().mean() + (fake - of_real + sign).square().mean()) / 2


def vgg_features(vgg: nn.Sequential) -> losses.Features:
    """relu1_1, 2_1, 2_2, 3_1, 3_3, 4_1, 4_3, 5_1 and 5_2 of VGG-16 for photos in [0,1]."""
    return losses.Features(vgg, (1, 6, 8, 11, 15, 18, 22, 25, 27), "imagenet")


PERCEPTUAL, STYLE = (0, 1, 3, 5, 7), (2, 4, 6, 8)  # which of these each loss compares


def crops(photos: Tensor, corners: Tensor, side: int) -> Tensor:
    """A square of each photo: (B,3,H,W), top and left (B,2) -> (B,3,side,side)."""
    n, channels, _, wide = photos.shape
    within = torch.arange(side, device=photos.device)
    rows, columns = (corners[:, i, None] + within for i in (0, 1))
    strips = photos.gather(2, rows[:, None, :, None].expand(n, channels, side, wide))
    return strips.gather(3, columns[:, None, None, :].expand(n, channels, side, side))


def corners_in_hole(holes: Tensor, draws: Tensor, side: int) -> Tensor:
    """Where the local discriminator looks: holes (B,1,H,W), draws (B,2) in [0,1) -> top and left (B,2).

    The square is centred on a hole pixel, all equally likely, as far as the photo's edge allows.
    """
    (high, wide), counts = holes.shape[-2:], holes.flatten(1).cumsum(1)
    pixel = torch.searchsorted(counts, (draws[:, :1] * counts[:, -1:]).long(), right=True)[:, 0]
    top, left = pixel // wide - side // 2, pixel % wide - side // 2
    return torch.stack([top.clamp(0, high - side), left.clamp(0, wide - side)], 1)


# Training and use


class MEDFE(Trainer):
    """All networks in training (:meth:`step`) and as an Inpainter (:meth:`inpaint`); the rest as in `training.Trainer`.

    Args:
        settings: the choices. ``seed``: of initialisation, crops and training masks.
        vgg: the network of the perceptual and style terms; None: `pretrained.vgg16`.
        codes: trained auto-encoders of texture and of structure, for the constraints cae...; their encoders are copied.
        filling_only: no VGG, no targets: for a network that is loaded to fill holes.

    Raises:
        BadInput: a value that will not do; auto-encoders that are missing, untrained or of another shape; VGG's
            weights missing where a term needs them.
    """

    state = ("network", "discriminators", "adam_g", "adam_d")
    kind, exported, title = "medfe", ("network",), "MEDFE (weights.pt of a run of notebook 41)"
    settings_type, network_type, loaded_with = Settings, Network, {"filling_only": True}
    rule, features_of, corners = map(staticmethod, (initialise_dcgan, vgg_features, corners_in_hole))

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto", precision: str = "auto",
                 acceleration: str = "auto", vgg: nn.Sequential | None = None,
                 codes: tuple[CAE, CAE] | None = None, filling_only: bool = False):  # fmt: skip
        s = self.settings = settings
        self.seed = seed
        self.set_device(device, precision, acceleration)
        self.network = initialise(self.network_type(s), seed, "network", self.rule)
        judges = nn.ModuleList([Discriminator(s.width), Discriminator(s.width)])
        self.discriminators = initialise(judges, seed, "discriminators", initialise_spectral)
        for network in (self.network, self.discriminators):
            network.to(self.device, memory_format=torch.channels_last)
        self.adam_g, self.adam_d = (adam(network, s.lr, (s.beta1, s.beta2), self.device)
                                    for network in (self.network, self.discriminators))  # fmt: skip
        if filling_only:
            return
        self.codes, self.features = self._codes(codes) if s.of_code else None, None
        bank = masks.centre(1, s.size) if s.region == "centre" else mask_bank(s.bank, s.size, seed)
        self.bank = bank.to(self.device)
        if s.perceptual_weight or s.style_weight:
            vgg = pretrained.vgg16(self.device) if vgg is None else vgg
            self.features = self.features_of(vgg).to(self.device)
        self._network = torch.compile(self.network) if self.compiled else self.network
        self._update, self._update_pixels = map(self.as_cuda_graph, (self.update, self.update_pixels))

    def _codes(self, codes: tuple[CAE, CAE] | None) -> nn.ModuleList:
        s, channels = self.settings, self.settings.channels[2]
        if codes is None:
            raise BadInput(f"codes: constraint {s.constraint} compares with two auto-encoders and none were given; "
                           "train them with notebook 40, or choose constraint conv1x1 or none")  # fmt: skip
        for kind, cae in zip(KINDS, codes, strict=True):
            found, trained = cae.settings, s.constraint == "cae_reinitialised" or not cae.untrained
            for ok, wrong in (
                (found.kind == kind, f"one of {found.kind}; give texture first, then structure"),
                (trained, "not trained; train it with notebook 40, or ask for random codes by name with constraint "
                          "cae_reinitialised"),
                (found.channels == channels, f"of {found.channels} channels, where width {s.width} needs {channels}; "
                                             "give it half that width"),
            ):  # fmt: skip
                if not ok:
                    raise BadInput(f"codes: the auto-encoder of {kind} is {wrong}")
        encoders = nn.ModuleList(copy.deepcopy(cae.network.encoder) for cae in codes)
        if s.constraint == "cae_reinitialised":
            initialise(encoders, self.seed, "codes", initialise_dcgan)
        return encoders.to(self.device).eval().requires_grad_(False)

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update of the discriminators, then one of the network, on uint8 photos; returns each loss, on the device.

        Photos are (B,3,S,S); for conv1x1 (B,6,S,S), each photo's structure image (`rtv.structure`) behind it. In the
        first ``pixel_kimg`` the network sees the L1 alone, and all other losses are 0. BadInput without the images.
        """
        draw = generator(self.seed, step)
        rows = torch.randint(len(self.bank), (len(photos),), generator=draw).to(self.device)
        draws = torch.rand(len(photos), 2, generator=draw).to(self.device)
        left_right, up_down = (torch.rand(2, len(photos), 1, 1, 1, generator=draw) < 0.5).to(self.device)
        holes = self.bank[rows]
        holes = torch.where(left_right, holes.flip(-1), holes)
        holes = torch.where(up_down, holes.flip(-2), holes)
        inputs = {"photos": photos[:, :3], "holes": holes}
        pixels, s = step * len(photos) < 1000 * self.settings.pixel_kimg, self.settings
        for group in self.adam_g.param_groups:
            group["lr"] = s.pixel_lr or s.lr if pixels else s.lr
        if pixels:
            return self._update_pixels(**inputs)
        if s.constraint == "conv1x1":
            if photos.shape[1] != 6:
                raise BadInput("photos: constraint conv1x1 needs each photo's structure image behind it, (B, 6, S, S)")
            inputs["structures"] = photos[:, 3:].float() / 255
        return self._update(**inputs, draws=draws)

    def update(self, photos: Tensor, holes: Tensor, draws: Tensor,
               structures: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
        """The whole training step as device work alone. The network runs once and serves both updates."""
        s = self.settings
        truth, output, *branches = self._forward(photos, holes)
        real, corners = truth * 2 - 1, self.corners(holes, draws, s.crop)
        judged = {}
        if s.adversarial_weight:
            scores = self._scores(real, output.detach(), corners)
            judged = {f"d_{name}": relativistic_loss(*pair) for name, pair in scores.items()}
            self.adam_d.zero_grad(set_to_none=True)
            sum(judged.values()).backward()
            self.adam_d.step()
        terms = self.objective(output, truth, *branches, structures)
        if s.adversarial_weight:
            with frozen(self.discriminators):
                scores = self._scores(real, output, corners).values()
            terms["adversarial"] = sum(relativistic_loss(*pair, of_generator=True) for pair in scores)
        total = sum(s.weights[name] * term for name, term in terms.items())
        return self._descend(judged | terms, total)

    def update_pixels(self, photos: Tensor, holes: Tensor) -> dict[str, Tensor]:
        """The step of the first ``pixel_kimg``: no discriminator, no VGG, nothing that differs between constraints."""
        truth, output, *_ = self._forward(photos, holes)
        l1 = (output - (truth * 2 - 1)).abs().mean()
        return self._descend({"l1": l1}, l1)

    def _forward(self, photos: Tensor, holes: Tensor) -> tuple[Tensor, ...]:
        """Photos in [0,1], the network's output for them in [-1,1], and both branches."""
        truth = (photos.float() / 255).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            output, *branches = self._network(truth, holes)
        return truth, output.float(), *branches

    def _descend(self, results: dict[str, Tensor], total: Tensor) -> dict[str, Tensor]:
        """Adam's step down ``total``; returns every loss that the settings have, 0 where it is not in use yet."""
        self.adam_g.zero_grad(set_to_none=True)
        total.backward()
        self.adam_g.step()
        judged = ["d_global", "d_local"] if self.settings.adversarial_weight else []
        names, zero = [*judged, *filter(self.settings.weights.get, self.settings.weights)], torch.zeros_like(total)
        return {name: results.get(name, zero).detach() for name in names} | {"total": total.detach()}

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
        if self.features:
            with self.autocast():
                (maps,) = self.features((output + 1) / 2)
                with torch.no_grad():
                    (true,) = self.features(truth)
            compared = {"perceptual": (losses.perceptual, PERCEPTUAL), "style": (losses.style, STYLE)}
            terms |= {name: loss([maps[i] for i in layers], [true[i] for i in layers])
                      for name, (loss, layers) in compared.items() if s.weights[name]}  # fmt: skip
        if s.weights["structure"] or s.weights["texture"]:
            branches = {"structure": structure, "texture": texture}
            targets = dict(zip(branches, self._targets(truth, structures, texture.shape[-2:]), strict=True))
            seen = self.network.pictures if s.constraint == "conv1x1" else torch.Tensor.float
            terms |= {name: (seen(branches[name]) - targets[name]).abs().mean()
                      for name in branches if s.weights[name]}  # fmt: skip
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
        return torch.where(mask, (self._filled(photos, mask)[0].float() + 1) / 2, photos)

    @torch.no_grad()
    def branches(self, photos: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The filled structure and texture features (B,4w,H/8,W/8) of photos and mask as in :meth:`inpaint`."""
        return self._filled(photos, mask)[1:]

    def _filled(self, photos: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masks.check(mask, photos)
        stride, (high, wide) = math.prod(self.settings.strides), photos.shape[-2:]
        if high % stride or wide % stride or min(high, wide) < 3 * stride:
            raise BadInput(f"photos: {high}x{wide} px will not do; this network was trained at {self.settings.size} px "
                           f"and needs multiples of {stride} px a side, at least {3 * stride}")  # fmt: skip
        return self.network(photos, mask)
