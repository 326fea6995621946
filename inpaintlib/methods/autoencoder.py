"""The auto-encoders of MEDFE+CAE: a non-lossy ground truth for textures and structures (Gielisse 2021).

MEDFE compares what its texture and structure branches have formed, (256, 32, 32) of a 256 px photo, with a 3-channel
photo and a 3-channel structure image of 32 px. Gielisse compares all 256 channels with a code instead: that of an
auto-encoder of photos, trained beforehand and frozen. There are two. The texture code is the 32 px bottleneck itself,
"almost lossless". The structure code passes an 8 px bottleneck, to lose the high frequencies, and is brought back to
32 px by the first two layers of the decoder, which so count as encoder. Both see whole photos: where the original
filters the photo (`rtv`), this one has fewer pixels in the middle.

Followed is the released code; of it, not modelled: mixed precision's loss scaling, and the crop of 256 px out of 286.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from inpaintlib import BadInput
from inpaintlib.settings import Checked, number, one_of
from inpaintlib.training import Trainer, adam, initialise, initialise_dcgan

KINDS = {"texture": 3, "structure": 5}  # stride-2 convolutions down to the bottleneck


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one training; the defaults are the released code's. The size of the photos is none of them."""

    kind: str = one_of("texture", KINDS)  # which of the two auto-encoders
    width: int = number(32, least=1, unit="channels")  # channels of the first layer; Gielisse 2021 has 32
    l1_weight: float = number(10.0, above=0)  # of the only loss
    lr: float = number(2e-4, above=0)  # Adam's learning rate; Gielisse 2021 has 0.0002, for longer trainings
    beta1: float = number(0.5, below=1)  # Adam
    beta2: float = number(0.999, below=1)  # Adam
    constant_kimg: float = number(math.inf, unit="kimg", infinite=True)  # kimg at the full rate; released: a tenth
    decay_kimg: float = number(0.0, unit="kimg")  # kimg after that, in which it falls to 0

    @property
    def channels(self) -> int:
        """Channels of the code."""
        return 8 * self.width

    @property
    def stride(self) -> int:
        """What both sides of a photo must be a multiple of, px: 8 for textures, 32 for structures."""
        return 2 ** KINDS[self.kind]

    def rate(self, kimg: float) -> float:
        """The learning rate after that many thousand photos."""
        if kimg <= self.constant_kimg:
            return self.lr
        return self.lr * max(0.0, 1 - (kimg - self.constant_kimg) / max(self.decay_kimg, 1e-9))


# Network


def block(conv: nn.Module, code: bool = False) -> nn.Sequential:
    """A convolution with batch norm and leaky ReLU, or, where it gives the code, with tanh alone."""
    return nn.Sequential(conv, *([nn.Tanh()] if code else [nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.2)]))


def down(inputs: int, outputs: int, code: bool = False) -> nn.Sequential:
    return block(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), code)


def up(inputs: int, outputs: int, code: bool = False) -> nn.Sequential:
    return block(nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False), code)


class AutoEncoder(nn.Module):
    """Photos (B,3,H,W) in [-1,1] -> ``encoder`` -> code (B,8w,H/8,W/8) in (-1,1) -> ``decoder`` -> photos like them.

    Encoder and whole have .388 of .777 million parameters (texture) and 2.75 of 3.14 million (structure) at width 32.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        w, texture = settings.width, settings.kind == "texture"
        first = nn.Conv2d(3, w, 3, padding=1, padding_mode="reflect", bias=False)
        layers = [block(first), down(w, 2 * w), down(2 * w, 4 * w), down(4 * w, 8 * w, code=texture)]
        if not texture:
            layers += [down(8 * w, 8 * w), down(8 * w, 8 * w), up(8 * w, 8 * w), up(8 * w, 8 * w, code=True)]
        self.encoder = nn.Sequential(*layers)
        last = nn.Conv2d(w, 3, 3, padding=1, padding_mode="reflect")
        self.decoder = nn.Sequential(up(8 * w, 4 * w), up(4 * w, 2 * w), up(2 * w, w), last, nn.Tanh())
        self.register_buffer("shown", torch.zeros((), dtype=torch.long))

    def forward(self, photos: Tensor) -> Tensor:
        return self.decoder(self.encoder(photos))

    def encode(self, photos: Tensor) -> Tensor:
        """Photos (B,3,H,W) in [0,1] -> their code; in eval mode, what MEDFE compares with. BadInput: see `check`."""
        check(photos, self.settings)
        return self.encoder((photos * 2 - 1).contiguous(memory_format=torch.channels_last))

    def decode(self, code: Tensor) -> Tensor:
        """Codes (B,8w,h,w) -> photos (B,3,8h,8w) in [0,1]. BadInput for codes of other channels."""
        if code.ndim != 4 or code.shape[1] != self.settings.channels:
            raise BadInput(f"code: has shape {tuple(code.shape)}, but must be (B, {self.settings.channels}, h, w)")
        return (self.decoder(code.contiguous(memory_format=torch.channels_last)) + 1) / 2


def check(photos: Tensor, settings: Settings) -> None:
    """Raises BadInput unless photos are (B,3,H,W) with sides that the network can halve down to its bottleneck."""
    if photos.ndim != 4 or photos.shape[1] != 3:
        raise BadInput(f"photos: have shape {tuple(photos.shape)}, but must be (B, 3, H, W)")
    high, wide = photos.shape[-2:]
    if high % settings.stride or wide % settings.stride:
        raise BadInput(f"photos: {high}x{wide} px will not do; a {settings.kind} auto-encoder needs sides that are "
                       f"multiples of {settings.stride} px")  # fmt: skip


# Training and use


class CAE(Trainer):
    """An auto-encoder in training (:meth:`step`), and what it makes of photos (:meth:`encode`, :meth:`reconstruct`).

    ``seed`` is of initialisation, nothing else is random; the rest as in `training.Trainer`. The network's buffer
    ``shown`` counts the photos of its training; one that has seen none is ``untrained``.
    """

    state = ("network", "adam")
    kind, exported, title = "autoencoder", ("network",), "auto-encoder (weights.pt of a run of notebook 40)"
    settings_type = Settings

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto",
                 precision: str = "auto", acceleration: str = "auto"):  # fmt: skip
        self.settings, self.seed = settings, seed
        self.set_device(device, precision, acceleration)
        self.network = initialise(AutoEncoder(settings), seed, "autoencoder", initialise_dcgan)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.adam = adam(self.network, settings.lr, (settings.beta1, settings.beta2), self.device)
        for group in self.adam.param_groups:  # a tensor, which a captured graph reads anew at each step
            group["lr"] = torch.tensor(settings.lr, device=self.device)
        self._network = torch.compile(self.network) if self.compiled else self.network
        self._update = self.as_cuda_graph(self.update)

    @property
    def untrained(self) -> bool:
        return int(self.network.shown) == 0

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update on uint8 photos (B,3,H,W); returns the L1 error, a fraction of the range, on the device."""
        check(photos, self.settings)
        for group in self.adam.param_groups:
            group["lr"].fill_(self.settings.rate(step * len(photos) / 1000))
        self.network.shown += len(photos)
        return self._update(photos=photos)

    def update(self, photos: Tensor) -> dict[str, Tensor]:
        """The whole training step as device work alone."""
        x = (photos.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            reconstruction = self._network(x)
        loss = (reconstruction.float() - x).abs().mean()
        self.adam.zero_grad(set_to_none=True)
        (self.settings.l1_weight * loss).backward()
        self.adam.step()
        return {"l1": loss.detach() / 2}

    def encode(self, photos: Tensor) -> Tensor:
        """Photos (B,3,H,W) in [0,1] -> their code (B,8w,H/8,W/8) in [-1,1], batch norm by its running statistics."""
        return self._evaluate(self.network.encode, photos)

    def decode(self, code: Tensor) -> Tensor:
        """Codes (B,8w,h,w) -> photos (B,3,8h,8w) in [0,1]."""
        return self._evaluate(self.network.decode, code)

    def reconstruct(self, photos: Tensor) -> Tensor:
        """Photos (B,3,H,W) in [0,1] through code and back."""
        return self.decode(self.encode(photos))

    @torch.no_grad()
    def _evaluate(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        training = self.network.training
        self.network.eval()
        try:
            return torch.cat([function(part.to(self.device)).float() for part in x.split(64)])
        finally:
            self.network.train(training)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "auto") -> "CAE":
        """The auto-encoder that :meth:`save` wrote. BadInput for any other file, and for one that was never trained."""
        cae = super().load(path, device)
        if cae.untrained:
            raise BadInput(f"{path}: this auto-encoder was never trained, so its codes mean nothing; train it")
        return cae
