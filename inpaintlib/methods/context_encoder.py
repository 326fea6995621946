"""Context Encoders: Feature Learning by Inpainting (Pathak, Krähenbühl, Donahue, Darrell, Efros; CVPR 2016).

An encoder-decoder F sees a photo x with a hole and predicts what was there; a discriminator D tells predictions
from truth. The joint loss (Eq. 3) is ``L = lambda_rec L_rec + lambda_adv L_adv``. Three sources describe it, and
they differ: the paper, its Lua code, and Meneust & Pinto 2024, whose Table 1 this study rebuilds ("the report").
Where they do, this file has a parameter, and :class:`Settings` says who used which value.

The report halves D's loss; we leave that out, because Adam's steps do not depend on a loss's scale. Nor do we follow
the report's beta2 = 0.9 by default and PyTorch's initialisation (ours is the paper's, DCGAN's rule), Lua's one random
region a batch (ours: one a photo), and Lua's gradient of D from before D's update in F's step (ours, as in every
port: from after it).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.losses import adversarial
from inpaintlib.settings import Checked, number, one_of, power_of_two
from inpaintlib.training import Trainer, adam, frozen, generator, initialise, initialise_dcgan

MEAN_COLOUR = (117 / 255, 104 / 255, 123 / 255)  # as Lua orders it: a permuted Caffe mean
REGIONS = ("centre", "random_block", "random_region", "random_pixels")  # of masks.py; random_pixels: 80 % are missing
BANK = 2048  # random masks, drawn once from the seed; each step picks one a photo


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one training, each with who made it.

    ``ratio`` is lambda_rec / lambda_adv; the weights sum to one as in the paper (.999 / .001), so 1 means .5 / .5.
    """

    size: int = power_of_two(128, 32)  # px, a power of two; Pathak 2016 has 128
    region: str = one_of("centre", REGIONS)  # where holes are
    ratio: float = number(999.0, infinite=True)  # lambda_rec / lambda_adv; inf: reconstruction only
    reconstruction: str = one_of("l2", ("l1", "l2_sum"))  # loss; l2_sum: not averaged over pixels
    overlap: int = number(7, unit="px")  # px of band inside the patch's edge; Pathak 2016 has 7, its code 4
    overlap_visible: bool = False  # the network sees the band (Pathak 2016); Meneust & Pinto 2024 blank it
    overlap_weight: float = number(10.0)  # of the reconstruction in the band, 0: none; random regions: of known pixels
    placeholder: str = one_of("zero", ("mean",))  # in the hole: mid-grey, or ImageNet's mean (the code)
    lr: float = number(2e-4, above=0)  # Adam's learning rate for the discriminator D
    generator_lr_factor: float = number(10.0, above=0)  # the generator's learning rate over D's; the code: 1 at ratio 0
    beta1: float = number(0.5, below=1)  # Adam
    beta2: float = number(0.999, below=1)  # Adam; Meneust & Pinto 2024 have 0.9
    width: int = number(64, least=1, unit="channels")  # channels of the first layer; Pathak 2016 has 64
    bottleneck: int = number(4000, unit="units")  # units; Pathak 2016 has 4000; 0: channel-wise fully connected
    noise: int = number(0, unit="units")  # units of Gaussian noise beside the bottleneck; the code's option has 100
    pooling: bool = False  # pooling layers halve the encoder's maps, in place of strides
    conditional: bool = False  # D also sees the photo with its hole; Pathak 2016 rejects it
    composite: bool = False  # D sees the prediction pasted into its photo, and not the prediction alone

    def __post_init__(self):
        super().__post_init__()
        centre, quarter = self.region == "centre", self.patch // 4
        self.require("size", not centre or self.size >= 64, "at least 64 px for a centre hole")
        self.require("overlap", self.overlap < quarter, f"from 0 to less than a quarter patch ({quarter} px)")
        self.require("noise", not self.noise or self.bottleneck > 0, "0 where there is no bottleneck to stand beside")
        self.require("conditional", centre or not self.conditional, "False unless region is centre")
        self.require("composite", not (self.composite and self.conditional), "False where conditional is True")

    @property
    def patch(self) -> int:
        """Side of what F predicts, px: the central half, or the whole photo for random regions."""
        return self.size // 2 if self.region == "centre" else self.size

    @property
    def hole(self) -> int:
        """Side of the largest central hole this network may be asked to fill, px."""
        return self.patch - 2 * self.overlap * self.overlap_visible

    @property
    def weights(self) -> tuple[float, float]:
        """(lambda_rec, lambda_adv), summing to one."""
        return (1.0, 0.0) if math.isinf(self.ratio) else (self.ratio / (1 + self.ratio), 1 / (1 + self.ratio))


# Networks (Lua's train.lua and train_random.lua, which the paper's Figure 9 matches)


def channels(side: int, width: int) -> list[int]:
    """Channels of the stride-2 stages between ``side`` px and 4 px, outermost first: 64, 64, 128, 256, 512 at 128."""
    stages = int(math.log2(side)) - 2
    return [width * max(1, 8 >> (stages - 1 - i)) for i in range(stages)]


def down(inputs: int, outputs: int, norm: bool = True, pooling: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 4, 1 if pooling else 2, 1, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs)] if norm else [conv]
    return nn.Sequential(*layers, nn.LeakyReLU(0.2), *([nn.MaxPool2d(2, ceil_mode=True)] if pooling else []))


def up(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Squeeze(nn.Conv2d):
    """Conv2d(C, units, 4) on a 4x4 map, (B,C,4,4) -> (B,units,1,1): the matrix product that it is, without a bias."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.linear(maps.flatten(1), self.weight.flatten(1))[:, :, None, None]


class Spread(nn.ConvTranspose2d):
    """ConvTranspose2d(units, C, 4) on one pixel, (B,units,1,1) -> (B,C,4,4): a matrix product, too."""

    def forward(self, code: Tensor) -> Tensor:
        return (code.flatten(1) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])


class ChannelWiseLinear(nn.Module):
    """Paper 3.1: each n x n map has its own (n^2, n^2) matrix, m n^4 weights; (B, m, n, n) -> (B, m, n, n)."""

    def __init__(self, maps: int, side: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps, side**2, side**2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0, 0.02)

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("bci,cij->bcj", features.flatten(2), self.weight).view_as(features)


class Generator(nn.Module):
    """F: photos with a hole (B,3,S,S) in [-1,1], noise (B,z) or None -> prediction (B,3,P,P) in [-1,1]."""

    def __init__(self, settings: Settings):
        super().__init__()
        s, inner = settings, channels(settings.size, settings.width)
        outer = channels(s.patch, s.width)[::-1]
        halvings = (down(a, b, True, s.pooling) for a, b in pairwise(inner))
        self.encoder = nn.Sequential(down(3, inner[0], False, s.pooling), *halvings)
        self.noise = nn.Conv2d(s.noise, s.noise, 1, bias=False) if s.noise else None
        normed = nn.BatchNorm2d(outer[0]), nn.ReLU()
        if s.bottleneck:
            units = s.bottleneck + s.noise
            self.squeeze = Squeeze(inner[-1], s.bottleneck, 4, bias=False)
            spread = nn.Sequential(Spread(units, outer[0], 4, bias=False), *normed)
            self.bottleneck = nn.Sequential(nn.BatchNorm2d(units), nn.LeakyReLU(0.2), spread)
        else:
            self.squeeze = ChannelWiseLinear(inner[-1], 4)
            self.bottleneck = nn.Sequential(nn.Conv2d(inner[-1], outer[0], 3, 1, 1, bias=False), *normed)
        last = nn.ConvTranspose2d(outer[-1], 3, 4, 2, 1, bias=False)
        self.decoder = nn.Sequential(*(up(a, b) for a, b in pairwise(outer)), last, nn.Tanh())

    def forward(self, holed: Tensor, z: Tensor | None = None) -> Tensor:
        code = self.squeeze(self.encoder(holed))
        if self.noise is not None:
            code = torch.cat([code, self.noise(z[:, :, None, None])], 1)
        return self.decoder(self.bottleneck(code))


class Discriminator(nn.Module):
    """D: predictions or ground truths (B,3,P,P) in [-1,1] -> logits (B,); their sigmoid is a probability.

    Conditional: also sees the photo with its hole (B,3,2P,2P), through one layer of its own.
    """

    def __init__(self, patch: int, width: int = 64, conditional: bool = False):
        super().__init__()
        widths = channels(patch, width)
        first = down(3, widths[0], norm=False)
        if conditional:
            self.see_context = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.LeakyReLU(0.2))
            self.see_patch = nn.Sequential(nn.Conv2d(3, width, 5, 2, patch // 2 + 2, bias=False), nn.LeakyReLU(0.2))
            first = down(2 * width, widths[0])
        self.conditional = conditional
        stages = (down(a, b) for a, b in pairwise(widths))
        self.layers = nn.Sequential(first, *stages, Squeeze(widths[-1], 1, 4, bias=False))

    def forward(self, patch: Tensor, holed: Tensor | None = None) -> Tensor:
        if self.conditional:
            patch = torch.cat([self.see_context(holed), self.see_patch(patch)], 1)
        return self.layers(patch).flatten()


# Objective


def overlap_weights(patch: int, overlap: int, weight: float) -> Tensor:
    """(1,1,P,P): ``weight`` in the band of ``overlap`` px along the edge, 1 inside; not renormalised (as all three)."""
    weights = torch.full((1, 1, patch, patch), float(weight))
    weights[..., overlap : patch - overlap, overlap : patch - overlap] = 1
    return weights


def reconstruction_loss(predicted: Tensor, truth: Tensor, weights: Tensor, kind: str = "l2") -> Tensor:
    """Eq. 1 as Lua computes it: the mean over all values of weights * (difference)^2, in [-1,1] units.

    ``l1``: of |difference|. ``l2_sum``: the sum over each photo's values, and the mean over photos alone.
    """
    difference = predicted.float() - truth.float()
    loss = (weights * (difference.abs() if kind == "l1" else difference.square())).mean()
    return loss * difference[0].numel() if kind == "l2_sum" else loss


# Training and use


class ContextEncoder(Trainer):
    """F and D in training (:meth:`step`) and F as an Inpainter (:meth:`inpaint`); the rest as in `training.Trainer`.

    Args:
        settings: the choices. ``seed``: of initialisation, noise and random masks.
    """

    state = ("generator", "discriminator", "adam_g", "adam_d")
    kind, exported, title = "context_encoder", ("generator",), "Context Encoder (weights.pt of a run of notebook 10)"
    settings_type = Settings

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto",
                 precision: str = "auto", acceleration: str = "auto"):  # fmt: skip
        s = self.settings = settings
        self.seed = seed
        self.set_device(device, precision, acceleration)
        sees = s.size if s.composite else s.patch
        self.generator, self.discriminator = Generator(s), Discriminator(sees, s.width, s.conditional)
        for name in ("generator", "discriminator"):
            network = initialise(getattr(self, name), seed, name, initialise_dcgan)
            network.to(self.device, memory_format=torch.channels_last)
            for layer in network.modules():
                if isinstance(layer, Squeeze | Spread):  # a matrix product flattens them: as they lie, without a copy
                    layer.to(memory_format=torch.contiguous_format)
        betas = (s.beta1, s.beta2)
        self.adam_g = adam(self.generator, s.lr * s.generator_lr_factor, betas, self.device)
        self.adam_d = adam(self.discriminator, s.lr, betas, self.device)
        grey = (0.5,) * 3 if s.placeholder == "zero" else MEAN_COLOUR
        self.placeholder = torch.tensor(grey, device=self.device).view(1, 3, 1, 1) * 2 - 1
        self.band = overlap_weights(s.patch, s.overlap, s.overlap_weight).to(self.device)
        self.blank = masks.centre(1, s.size, hole=s.hole if s.region == "centre" else s.size // 2).to(self.device)
        first = 10**6 + seed  # far from the seed of any test set
        self.bank = None if s.region == "centre" else masks.make(s.region, BANK, s.size, first).to(self.device)
        self._g, self._d, self._update = self.generator, self.discriminator, self.as_cuda_graph(self.update)
        if self.compiled:
            self._g, self._d = torch.compile(self.generator), torch.compile(self.discriminator)

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update of D, then one of F, on uint8 photos (B,3,S,S); returns the losses, on the device."""
        draw, inputs = generator(self.seed, step), {"photos": photos}
        if self.bank is not None:
            chosen = torch.randint(len(self.bank), (len(photos),), generator=draw)
            inputs["holes"] = self.bank[chosen.to(self.device)]
        if self.settings.noise:
            inputs["z"] = torch.randn(len(photos), self.settings.noise, generator=draw).to(self.device)
        return self._update(**inputs)

    def update(self, photos: Tensor, holes: Tensor | None = None, z: Tensor | None = None) -> dict[str, Tensor]:
        """The whole training step as device work alone. F runs once and serves both updates."""
        s, (lambda_rec, lambda_adv) = self.settings, self.settings.weights
        x = (photos.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        holes = self.blank if holes is None else holes
        masked = self.mask_input(x, holes)
        truth, weights = (self.crop(x), self.band) if s.region == "centre" else (x, self.pixel_weights(holes))
        with self.autocast():
            predicted = self._g(masked, z)
        losses = self._update_discriminator(x, truth, predicted.detach(), holes) if lambda_adv else {}
        losses["rec"] = reconstruction_loss(predicted, truth, weights, s.reconstruction)
        if lambda_adv:
            with frozen(self.discriminator):
                losses["adv"] = adversarial(self.judged(x, predicted, holes), True)
        joint = lambda_rec * losses["rec"] + lambda_adv * losses.get("adv", 0.0)  # Eq. 3
        self.adam_g.zero_grad(set_to_none=True)
        joint.backward()
        self.adam_g.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _update_discriminator(self, x: Tensor, truth: Tensor, predicted: Tensor, holes: Tensor) -> dict[str, Tensor]:
        """One step of D up Eq. 2. Batch norm sees ground truths and predictions apart."""
        losses = {"d_real": adversarial(self.judged(x, truth, holes), True),
                  "d_fake": adversarial(self.judged(x, predicted, holes), False)}  # fmt: skip
        self.adam_d.zero_grad(set_to_none=True)
        (losses["d_real"] + losses["d_fake"]).backward()
        self.adam_d.step()
        return losses

    def judged(self, x: Tensor, patch: Tensor, holes: Tensor) -> Tensor:
        """D's logits (B,) of patches (B,3,P,P) that are predictions or ground truths of the photos x (B,3,S,S)."""
        if self.settings.composite:
            patch = torch.where(holes, self.placed(patch), x)
        context = self.mask_input(x, holes) if self.settings.conditional else None
        with self.autocast():
            return self._d(patch, context)

    def mask_input(self, x: Tensor, holes: Tensor) -> Tensor:
        """The input of F: a copy of x (B,3,S,S) in [-1,1] with the placeholder in the holes (B or 1,1,S,S)."""
        return torch.where(holes, self.placeholder, x)

    def crop(self, x: Tensor) -> Tensor:
        """The central patch (B,3,P,P) of x (B,3,S,S)."""
        edge = (self.settings.size - self.settings.patch) // 2
        return x[..., edge : edge + self.settings.patch, edge : edge + self.settings.patch]

    def placed(self, patch: Tensor) -> Tensor:
        """The patch (B,3,P,P) where it lies in the photo: (B,3,S,S), zero around it."""
        return F.pad(patch, [(self.settings.size - self.settings.patch) // 2] * 4)

    def pixel_weights(self, holes: Tensor) -> Tensor:
        """Random regions (B,1,S,S): known pixels weigh more where ``overlap`` is on (Lua's useOverlapPred)."""
        return torch.where(holes, 1.0, self.settings.overlap_weight if self.settings.overlap else 1.0)

    @torch.no_grad()
    def inpaint(self, photos: Tensor, mask: Tensor) -> Tensor:
        """An Inpainter: photos (B,3,S,S) in [0,1], mask (B,1,S,S) True = hole -> the completed photos.

        A centre network blanks what it blanked in training and pastes its prediction into the mask only. Where there
        is noise it is zero here, its mean, so that a network gives one fill; Lua draws it at test time too.

        Raises:
            BadInput: another size than the network's, or holes where a centre network saw photo in training.
        """
        masks.check(mask, photos)
        s = self.settings
        if photos.shape[-2:] != (s.size, s.size):
            raise BadInput(f"photos: {photos.shape[-2]}x{photos.shape[-1]} px, but this network was trained "
                           f"for {s.size}x{s.size}; resize them, or train one of their size")  # fmt: skip
        if s.region == "centre" and (mask & ~self.blank).any():
            raise BadInput(f"mask: has holes outside the central {s.hole}x{s.hole} px, all that this network fills; "
                           "use a network trained with another region, such as random_block")  # fmt: skip
        x = photos * 2 - 1
        masked = self.mask_input(x, self.blank if s.region == "centre" else mask)
        z = torch.zeros(len(x), s.noise, device=x.device) if s.noise else None
        self.generator.eval()
        predicted = (self.generator(masked.contiguous(memory_format=torch.channels_last), z).float() + 1) / 2
        self.generator.train()
        return torch.where(mask, self.placed(predicted.clamp(0, 1)), photos)
