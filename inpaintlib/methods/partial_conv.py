"""Image Inpainting for Irregular Holes Using Partial Convolutions (Liu, Reda, Shih, Wang, Tao, Catanzaro; ECCV 2018).

A U-Net whose convolutions see only valid pixels: each window's response is scaled by how much of it is valid, and
a window with anything valid makes its centre valid, so that holes close from layer to layer. It is trained without
a discriminator, on pixels and on VGG-16's features (Eq. 7).

In this file maps are *valid* maps, True = known, as the paper's M; outside of it masks are holes, True = missing.
Photos enter and leave the network normalised per channel with ImageNet's mean and deviation (:class:`UNet`). The pixel
terms compare photos in [0, 1] (times ``pixel_scale``), and VGG is given [0, 1] too unless ``vgg_input`` says otherwise:
the paper does not say which, and with these the total lies between 0 and 3, as the authors' did (notebook 21). Training
holes are `masks.irregular` unless a ``bank`` of others, such as NVIDIA's, is given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import BadInput, losses, pretrained
from inpaintlib.data import masks
from inpaintlib.settings import Checked, number, one_of, power_of_two
from inpaintlib.training import Trainer, adam, generator, initialise

IMAGENET_MEAN, IMAGENET_DEVIATION = losses.SCALINGS["imagenet"]
MOSTLY_HOLE = 0.8  # masks with a larger fraction of holes are taken for inverted ones


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one training; the defaults are the paper's unless said otherwise.

    The five weights are those of Eq. 7, found on 100 validation images; a term of weight 0 is not computed.
    """

    size: int = power_of_two(512, 32)  # px, a power of two; Liu 2018 has 512
    width: int = number(64, least=1, unit="channels")  # channels of the first layer; Liu 2018 has 64
    conv: str = one_of("partial", ("plain",))  # plain is Liu 2018's own baseline, Conv
    placeholder: str = one_of("mean", ("grey",))  # in the hole: ImageNet's mean colour, or .5; only plain ones see it
    scaling: bool = True  # the factor sum(1)/sum(M) of Eq. 1
    valid_weight: float = number(1.0)  # of L_valid
    hole_weight: float = number(6.0)  # of L_hole
    perceptual_weight: float = number(0.05)  # of L_perceptual, output and composite
    style_weight: float = number(120.0)  # of L_style, output and composite
    tv_weight: float = number(0.1)  # of L_tv
    pixel_scale: float = number(1.0, above=0)  # range of photos in pixel terms; 4.4: over ImageNet's deviation
    vgg_input: str = one_of("unit", losses.SCALINGS)  # how photos are scaled for VGG; the authors said each once
    lr: float = number(2e-4, above=0)  # Adam's learning rate; Liu 2018 has 0.0002, for millions of photos
    second_stage_kimg: float = number(math.inf, unit="kimg", infinite=True)  # kimg before the second stage; inf: none
    second_lr: float = number(5e-5, above=0)  # in the second stage, the encoder's batch norm frozen; Liu 2018 has 5e-05
    freeze_affine: bool = False  # freeze its scale and shift too; Liu 2018 can be read both ways
    beta1: float = number(0.9, below=1)  # Adam
    beta2: float = number(0.999, below=1)  # Adam
    bank: int = number(3072, least=len(masks.RATIO_BINS), unit="masks, one a bin")  # training masks, turned at random

    def __post_init__(self):
        super().__post_init__()
        self.require("hole_weight", any(self.weights.values()), "above 0 where all other weights are 0")

    @property
    def levels(self) -> int:
        """Stride-2 layers of the encoder, down to 2 px: 8 at 512 px as in the paper, 7, 6, 5 at 256, 128, 64."""
        return int(math.log2(self.size)) - 1

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term of :meth:`PartialConvNet.objective`."""
        return {name: getattr(self, f"{name}_weight") for name in ("valid", "hole", "perceptual", "style", "tv")}


# The layer


class PartialConv2d(nn.Conv2d):
    """Eqs. 1 and 2: ``x' = W^T(X * M) sum(1)/sum(M) + b`` where the window has anything valid, else 0.

    ``sum(1)`` counts the whole window, padding included, and padding is invalid: at an edge without holes a 3x3
    window scales by 1.5, in a corner by 2.25. All channels share one map, so counts are box sums of one channel.
    Instead of concatenated tensors, ``features`` and ``valid`` may be lists of the parts and of their maps; a part of
    C channels then counts C times, exactly as a map of all channels would.

    Counts and ratios are fp32 under autocast too (16 bits cannot hold them), and no epsilon enters: a count is a
    whole number. Weights are initialised as in nn.Conv2d. With ``scaling=False`` the factor is left out.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0, bias: bool = True,
                 scaling: bool = True):  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.scaling = scaling

    def forward(self, features: Tensor | Sequence[Tensor], valid: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(B,C,H,W) and its map (B or 1, 1 or C, H, W), or lists of both -> (B,C',H',W') and its map (B or 1,1,H',W').

        Maps are bool or numbers 0 and 1, True = valid; the map that comes back is of the same type.

        Raises:
            BadInput: a map of another size, or, on a CPU, one with values between 0 and 1.
        """
        parts, maps = ([each] if isinstance(each, Tensor) else each for each in (features, valid))
        _check_maps(parts, maps)
        known = [_binary(each) for each in maps]
        seen = [torch.where(each, part, 0) for part, each in zip(parts, known, strict=True)]
        ratio, reached = self.coverage(known, [part.shape[1] for part in parts])
        y = F.conv2d(seen[0] if len(seen) == 1 else torch.cat(seen, 1), self.weight, None, self.stride, self.padding)
        ratio = (ratio if self.scaling else reached).to(y.dtype)
        if self.bias is None:
            return y * ratio, reached.to(maps[0].dtype)
        y = torch.addcmul(self.bias.to(y.dtype).view(1, -1, 1, 1), y, ratio)
        return torch.where(reached, y, 0), reached.to(maps[0].dtype)

    @torch.no_grad()
    def coverage(self, valid: Sequence[Tensor], channels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Bool maps and how many channels share each -> sum(1)/sum(M), 0 in empty windows, and Eq. 2's new map.

        Both are (B or 1, 1, H', W'), fp32 and bool.
        """
        counts = sum(_count(each, c) for each, c in zip(valid, channels, strict=True))
        (high, wide), (top, left) = self.kernel_size, self.padding
        if 2 * top > high or 2 * left > wide:  # avg_pool2d's limit
            counts, top, left = F.pad(counts, (left, left, top, top)), 0, 0
        total = F.avg_pool2d(counts, (high, wide), self.stride, (top, left), divisor_override=1)
        reached = total > 0
        return reached * float(sum(channels) * high * wide) / total.clamp(min=1), reached


class PlainConv2d(nn.Conv2d):
    """An ordinary convolution with the signature of :class:`PartialConv2d`: everything is valid to it."""

    def forward(self, features: Tensor | Sequence[Tensor], valid: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        features = features if isinstance(features, Tensor) else torch.cat(tuple(features), 1)
        valid = valid if isinstance(valid, Tensor) else valid[0]
        return super().forward(features), valid[..., :: self.stride[0], :: self.stride[1]]


def _count(valid: Tensor, channels: int) -> Tensor:
    """How many of ``channels`` are valid at each pixel, fp32 (B,1,H,W)."""
    return valid.sum(1, keepdim=True, dtype=torch.float) if valid.shape[1] > 1 else valid.float() * channels


def _binary(valid: Tensor) -> Tensor:
    """Zeros and ones as bool. Values are only looked at on a CPU: a GPU would have to wait for the answer."""
    if valid.dtype == torch.bool:
        return valid
    looked_at = valid.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and ((valid != 0) & (valid != 1)).any():
        raise BadInput("valid: has values between 0 and 1; resize masks by nearest neighbour and cut them at one "
                       "half, so that each pixel is 0 (hole) or 1 (valid)")  # fmt: skip
    return valid > 0.5


def _check_maps(features: Sequence[Tensor], maps: Sequence[Tensor]) -> None:
    if len(features) != len(maps):
        raise BadInput(f"valid: {len(maps)} maps do not fit {len(features)} features; both must be lists of the same "
                       "parts, or one of each")  # fmt: skip
    for part, valid in zip(features, maps, strict=True):
        batch, channels, *side = part.shape
        if tuple(valid.shape) not in {(b, c, *side) for b in (1, batch) for c in (1, channels)}:
            raise BadInput(f"valid: shape {tuple(valid.shape)} does not fit features of shape {tuple(part.shape)}; "
                           f"it must be {(batch, 1, *side)}")  # fmt: skip


# The network (the paper's appendix)


class Block(nn.Module):
    """Convolution, batch norm, activation. ``slope``: of the activation below 0 (0: ReLU); None: no activation."""

    def __init__(self, conv: nn.Module, slope: float | None, norm: bool = True):
        super().__init__()
        self.conv, self.slope = conv, slope
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()

    def forward(self, features: Tensor | list[Tensor], valid: Tensor | list[Tensor]) -> tuple[Tensor, Tensor]:
        features, valid = self.conv(features, valid)
        features = self.norm(features)
        return features if self.slope is None else F.leaky_relu(features, self.slope), valid


class UNet(nn.Module):
    """Photos (B,3,H,W) in [0,1] and holes bool (B,1,H,W) -> predictions (B,3,H,W) about [0,1], not clamped.

    H and W are multiples of 2^levels. The depth follows the training size, and so do the weights: 32.86, 25.78,
    18.70 and 11.62 million at 512, 256, 128 and 64 px.

    Inside, photos are (photo - mean) / deviation of ImageNet; what no valid pixel ever reached comes out as mean.
    ``frozen_encoder_norm``: the encoder's batch norm uses its running statistics in training too (second stage).
    """

    def __init__(self, settings: Settings):
        super().__init__()
        s, levels = settings, settings.levels
        widths = [3, *(s.width * min(2**i, 8) for i in range(levels))]

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
            if s.conv == "plain":
                return PlainConv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
            return PartialConv2d(inputs, outputs, kernel, stride, kernel // 2, bias, s.scaling)

        kernels = [7, 5, 5] + [3] * (levels - 3)
        self.encoder = nn.ModuleList(
            Block(conv(widths[i], widths[i + 1], kernels[i], stride=2), slope=0, norm=i > 0) for i in range(levels)
        )
        self.decoder = nn.ModuleList(
            Block(conv(widths[i + 1] + widths[i], widths[i], 3, bias=i == 0), slope=0.2 if i else None, norm=i > 0)
            for i in reversed(range(levels))
        )
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        colour = mean if s.placeholder == "mean" else torch.full_like(mean, 0.5)
        self.register_buffer("placeholder", colour, persistent=False)
        self.frozen_encoder_norm = False

    def train(self, mode: bool = True) -> "UNet":
        super().train(mode)
        self.encoder.train(mode and not self.frozen_encoder_norm)
        return self

    def forward(self, photos: Tensor, hole: Tensor, placeholder: Tensor | None = None) -> Tensor:
        """``placeholder``: what the hole holds, broadcast to the photos; None: the settings' colour."""
        placeholder = self.placeholder if placeholder is None else placeholder
        features = (torch.where(hole, placeholder, photos) - self.mean) / self.deviation
        features, valid = features.contiguous(memory_format=torch.channels_last), ~hole
        skips = []
        for block in self.encoder:
            skips.append((features, valid))
            features, valid = block(features, valid)
        for block in self.decoder:
            skip, skip_valid = skips.pop()
            features, valid = block([double(features), skip], [double(valid.byte()).bool(), skip_valid])
        return features.float() * self.deviation + self.mean

    @torch.no_grad()
    def filling(self, hole: Tensor) -> list[Tensor]:
        """How a hole closes: the valid maps bool (B,1,h,w) of the input and after each layer, encoder then decoder.

        Only of partial convolutions; raises BadInput for plain ones, to which everything is valid.
        """
        if isinstance(self.encoder[0].conv, PlainConv2d):
            raise BadInput("conv: plain convolutions do not update a mask; take a network with conv partial")
        maps = [~hole]
        for block in self.encoder:
            maps.append(block.conv.coverage(maps[-1:], [1])[1])
        for skip, block in zip(maps[-2::-1], self.decoder, strict=True):
            maps.append(block.conv.coverage([double(maps[-1].byte()).bool(), skip], [1, 1])[1])
        return maps


def double(x: Tensor) -> Tensor:
    """Twice the height and width, by nearest neighbour."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def initialised(network: UNet, seed: int) -> UNet:
    """He 2015's weights for the activation behind each convolution, biases 0; of the seed and each layer's own name."""
    slopes = {block.conv: block.slope for block in (*network.encoder, *network.decoder)}

    def rule(module: nn.Module) -> None:
        if module in slopes:
            nn.init.kaiming_normal_(module.weight, a=1 if slopes[module] is None else slopes[module])
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    return initialise(network, seed, "partial_conv", rule)


# Training and use


def mask_bank(n: int, size: int, seed: int) -> Tensor:
    """``n`` training holes bool (n,1,size,size), equally many of each bin; far from the seed of any test set."""
    bins = masks.RATIO_BINS
    first = 10**6 + len(bins) * seed
    return torch.cat([masks.irregular(n // len(bins), size, first + i, each) for i, each in enumerate(bins)])


class PartialConvNet(Trainer):
    """The U-Net in training (:meth:`step`) and as an Inpainter (:meth:`inpaint`); the rest as in `training.Trainer`.

    Args:
        settings: the choices. ``seed``: of initialisation and training masks.
        vgg: the network of the perceptual and style terms; None: `pretrained.vgg16`.
        bank: training holes bool (n,1,size,size); None: ``settings.bank`` of :func:`mask_bank`.
        filling_only: no VGG, no training holes: for a network that is loaded to fill holes.

    Raises:
        BadInput: a value that will not do, or VGG's weights missing where a term needs them.
    """

    state = ("network", "adam")
    kind, exported = "partial_conv", ("network",)
    title = "partial convolution network (weights.pt of a run of notebook 20)"
    settings_type, loaded_with = Settings, {"filling_only": True}

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto", precision: str = "auto",
                 acceleration: str = "auto", vgg: nn.Sequential | None = None, bank: Tensor | None = None,
                 filling_only: bool = False):  # fmt: skip
        s = self.settings = settings
        self.seed, self.second_stage = seed, False
        self.set_device(device, precision, acceleration)
        self.network = initialised(UNet(settings), seed)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.adam = adam(self.network, s.lr, (s.beta1, s.beta2), self.device)
        if filling_only:
            return
        bank = mask_bank(s.bank, s.size, seed) if bank is None else bank
        if bank.dtype != torch.bool or bank.shape[1:] != (1, s.size, s.size) or not len(bank):
            raise BadInput(f"bank: {bank.dtype} of shape {tuple(bank.shape)} will not do; it must be bool "
                           f"(n, 1, {s.size}, {s.size}), True = hole")  # fmt: skip
        _check_polarity(bank, "bank")
        self.bank, self.features = bank.to(self.device), None
        if s.perceptual_weight or s.style_weight:
            vgg = pretrained.vgg16(self.device) if vgg is None else vgg
            self.features = losses.Features(vgg, scaling=s.vgg_input).to(self.device)
        compiled = torch.compile if self.compiled else lambda function: function
        self._network, self._objective = compiled(self.network), compiled(self.objective)
        self._update = self.as_cuda_graph(self.update)

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update on uint8 photos (B,3,S,S); returns each term of the objective and ``total``, on the device."""
        self._enter_stage(step * len(photos) >= self.settings.second_stage_kimg * 1000)
        return self._update(photos=photos, holes=self.holes(len(photos), step))

    def _enter_stage(self, second: bool) -> None:
        """The second stage's lower learning rate and frozen batch norm, or back; a captured graph holds both."""
        if second == self.second_stage:
            return
        self.second_stage = self.network.frozen_encoder_norm = second
        self.network.train()
        for block in self.network.encoder:
            block.norm.requires_grad_(not (second and self.settings.freeze_affine))
        for group in self.adam.param_groups:
            group["lr"] = self.settings.second_lr if second else self.settings.lr
        self._update = self.as_cuda_graph(self.update)

    def holes(self, n: int, step: int) -> Tensor:
        """The holes of a step, bool (n,1,S,S): masks of the bank, each mirrored and transposed at random."""
        draw = generator(self.seed, step)
        rows = torch.randint(len(self.bank), (n,), generator=draw).to(self.device)
        left_right, up_down, turned = (torch.rand(3, n, 1, 1, 1, generator=draw) < 0.5).to(self.device)
        holes = self.bank[rows]
        holes = torch.where(left_right, holes.flip(-1), holes)
        holes = torch.where(up_down, holes.flip(-2), holes)
        return torch.where(turned, holes.mT, holes)

    def update(self, photos: Tensor, holes: Tensor) -> dict[str, Tensor]:
        """The whole training step as device work alone."""
        truth = (photos.float() / 255).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            output = self._network(truth, holes)
        terms = self._objective(output, truth, holes)
        total = sum(self.settings.weights[name] * term for name, term in terms.items())  # Eq. 7
        self.adam.zero_grad(set_to_none=True)
        total.backward()
        self.adam.step()
        return {name: term.detach() for name, term in (terms | {"total": total}).items()}

    def objective(self, output: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """The terms of Eq. 7, unweighted, of predictions and photos (B,3,S,S) in [0,1]; none of weight 0.

        The pixel terms (valid, hole, TV) are those of photos times ``pixel_scale``. VGG runs twice: on output and
        composite together, and without gradients on the truth.
        """
        s, composite = self.settings, torch.where(hole, output, truth)
        pixels = {"valid": (losses.valid_l1, output, truth, hole), "hole": (losses.hole_l1, output, truth, hole),
                  "tv": (losses.total_variation, composite, hole)}  # fmt: skip
        terms = {name: s.pixel_scale * loss(*on) for name, (loss, *on) in pixels.items() if s.weights[name]}
        if self.features is None:
            return terms
        with self.autocast():
            predicted = self.features(output, composite)
            with torch.no_grad():
                (true,) = self.features(truth)
        compared = {"perceptual": losses.perceptual, "style": losses.style}
        return terms | {name: sum(loss(each, true) for each in predicted)
                        for name, loss in compared.items() if s.weights[name]}  # fmt: skip

    def inpaint(self, photos: Tensor, mask: Tensor, placeholder: Tensor | None = None) -> Tensor:
        """An Inpainter: photos (B,3,H,W) in [0,1], mask (B,1,H,W) True = hole -> the completed photos.

        Known pixels are those of the photos; otherwise as :meth:`predict`.
        """
        return torch.where(mask, self.predict(photos, mask, placeholder), photos)

    @torch.no_grad()
    def predict(self, photos: Tensor, mask: Tensor, placeholder: Tensor | None = None) -> Tensor:
        """What the network says of all pixels, known ones too: (B,3,H,W), clamped to [0,1].

        H and W may differ from the training size where they are multiples of the network's stride. ``placeholder``:
        what the hole holds, broadcast to the photos, not the settings' colour; partial convolutions never see it.

        Raises:
            BadInput: a mask with greys, of another size or probably inverted; photos that the depth does not divide.
        """
        if isinstance(mask, Tensor) and ((mask != 0) & (mask != 1)).any():
            raise BadInput("mask: has greys; resize masks by nearest neighbour and cut them at one half (mask > 0.5), "
                           "so that True is the hole")  # fmt: skip
        masks.check(mask, photos)
        _check_polarity(mask, "mask")
        stride, (high, wide) = 2**self.settings.levels, photos.shape[-2:]
        if high % stride or wide % stride:
            raise BadInput(f"photos: {high}x{wide} px will not do; this network halves {self.settings.levels} times, "
                           f"so both sides must be multiples of {stride} px, at least {stride}")  # fmt: skip
        self.network.eval()
        predicted = self.network(photos, mask, placeholder)
        self.network.train()
        return predicted.clamp(0, 1)

    def start_from(self, path: Path) -> None:
        """Takes the weights of a finished run with the same layers: one trained on the pixel terms alone, say.

        Raises BadInput for any other file and for other layers; plain and partial ones would fit, and be nonsense.
        """
        there, state = self.read(path)
        for name in ("size", "width", "conv", "scaling"):
            if (then := getattr(there, name)) != (here := getattr(self.settings, name)):
                raise BadInput(f"{path}: was trained with {name} {then!r}, where this training has {here!r}; "
                               "start from a network with the same layers")  # fmt: skip
        self.load_state_dict(state)


def _check_polarity(holes: Tensor, name: str) -> None:
    """BadInput where the typical mask is nearly all hole."""
    fraction = masks.hole_ratio(holes).median().item()
    if fraction > MOSTLY_HOLE:
        raise BadInput(f"{name}: {fraction:.0%} of it is hole, where {MOSTLY_HOLE:.0%} is the most; True must "
                       "mark the hole, so invert it if True marks what is known")  # fmt: skip
