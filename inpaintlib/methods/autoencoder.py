"""The auto-encoders of MEDFE+CAE: a non-lossy ground truth for textures and structures (Gielisse 2021, a blog post).

MEDFE compares what its texture and structure branches have formed, (256, 32, 32) of a 256 px photo, with a 3-channel
photo and a 3-channel structure image of 32 px. The blog compares all 256 channels with a code instead: that of an
auto-encoder of photos, trained beforehand and frozen. There are two. The texture code is the 32 px bottleneck itself,
"almost lossless"; the structure code passes an 8 px bottleneck, to lose the high frequencies, and is brought back to
32 px by the first two layers of the decoder, which so count as encoder. Both see whole photos: where RTV goes in the
original (`rtv`), nothing goes in here but fewer pixels in the middle.

Followed is the released code; of it, not modelled: mixed precision's loss scaling, and the crop of 256 px out of 286.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaintlib import BadInput
from inpaintlib.training import Trainer, adam, initialise_dcgan, load_checkpoint, save_checkpoint, seeded

KINDS = {"texture": 3, "structure": 5}  # stride-2 convolutions down to the bottleneck


@dataclass(frozen=True)
class Settings:
    """Every choice of one training; the defaults are the released code's. The size of the photos is none of them."""

    kind: str = "texture"  # texture | structure
    width: int = 32  # channels of the first layer; the code has 8 times as many, 256
    l1_weight: float = 10.0  # of the only loss, in [-1, 1] units; to Adam it matters little
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    constant_kimg: float = math.inf  # thousands of photos at the full rate; released: 1 epoch of 10
    decay_kimg: float = 0.0  # thousands of photos after that in which the rate falls to 0, linearly; released: 9 epochs

    def __post_init__(self):
        def require(ok: bool, name: str, right: str) -> None:
            if not ok:
                raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")

        require(self.kind in KINDS, "kind", "texture or structure")
        require(isinstance(self.width, int) and self.width >= 1, "width", "a whole number of at least 1 channel")
        require(0 < self.l1_weight < math.inf, "l1_weight", "above 0")
        require(0 < self.lr < math.inf, "lr", "above 0")
        require(0 <= self.beta1 < 1, "beta1", "from 0 to less than 1")
        require(0 <= self.beta2 < 1, "beta2", "from 0 to less than 1")
        require(self.constant_kimg >= 0, "constant_kimg", "at least 0 kimg, or inf for a rate that never falls")
        require(0 <= self.decay_kimg < math.inf, "decay_kimg", "at least 0 kimg")

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
    return nn.Sequential(conv, nn.Tanh()) if code else nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels),
                                                                     nn.LeakyReLU(0.2))  # fmt: skip


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
        self.apply(initialise_dcgan)

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

    Args:
        settings: the choices. ``seed``: of initialisation; nothing else is random.
        device, precision, acceleration: see :class:`inpaintlib.training.Trainer`.

    ``shown`` counts the photos it was trained on; an auto-encoder that has seen none is ``untrained``.
    """

    parts = ("network", "adam")

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto",
                 precision: str = "auto", acceleration: str = "auto"):  # fmt: skip
        self.settings, self.seed, self.shown = settings, seed, 0
        self.place(device, precision, acceleration)
        with seeded(seed):
            self.network = AutoEncoder(settings)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.adam = adam(self.network, settings.lr, (settings.beta1, settings.beta2), self.device)
        for group in self.adam.param_groups:  # a tensor, which a captured graph reads anew at each step
            group["lr"] = torch.tensor(settings.lr, device=self.device)
        self._network = torch.compile(self.network) if self.compiled else self.network
        self._update = self.replayed(self.update)

    @property
    def untrained(self) -> bool:
        return self.shown == 0

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update on uint8 photos (B,3,H,W); returns the L1 error, a fraction of the range, on the device."""
        check(photos, self.settings)
        for group in self.adam.param_groups:
            group["lr"].fill_(self.settings.rate(step * len(photos) / 1000))
        self.shown += len(photos)
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

    def _identity(self) -> dict:
        return {"kind": "autoencoder", "settings": asdict(self.settings), "shown": self.shown}

    def state_dict(self) -> dict:
        return self._identity() | super().state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Takes a :meth:`state_dict`, or what :meth:`save` writes; BadInput where it is of another architecture."""
        _settings(state, "checkpoint")
        super().load_state_dict({name: state[name] for name in self.parts if name in state})
        self.shown = state["shown"]

    def save(self, path: Path) -> None:
        """Writes what encoding needs, in place of the larger checkpoint beside it."""
        save_checkpoint(path, self._identity() | {"network": self.network.state_dict()})
        path.with_name("checkpoint.pt").unlink(missing_ok=True)


def load(path: Path, device: str | torch.device = "auto", kind: str | None = None, width: int | None = None,
         allow_untrained: bool = False) -> CAE:  # fmt: skip
    """The auto-encoder of a file: what :meth:`CAE.save` wrote, or the ``checkpoint.pt`` of a training run.

    Args:
        kind, width: what it has to be; None: anything.
        allow_untrained: take one that was never trained, too: the released MEDFE+CAE compared with such codes.

    Raises BadInput for a missing or damaged file, one of another kind or width, and an untrained one not asked for.
    """
    state = load_checkpoint(path)
    if isinstance(state, dict):
        state = state.get("method", state)
    settings = _settings(state, str(path))
    for name, wanted in (("kind", kind), ("width", width)):
        found = getattr(settings, name)
        if wanted is not None and wanted != found:
            raise BadInput(f"{name}: {wanted!r} does not fit {path}, an auto-encoder of {name} {found!r}; use that, "
                           "or another checkpoint")  # fmt: skip
    if not state["shown"] and not allow_untrained:
        raise BadInput(f"{path}: this auto-encoder was never trained, so its codes mean nothing; train it, or ask for "
                       "an untrained one by name")  # fmt: skip
    cae = CAE(settings, device=device, acceleration="eager")
    try:
        cae.load_state_dict(state)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return cae


def _settings(state, name: str) -> Settings:
    """The settings in a state; BadInput where it is no auto-encoder's."""
    if not isinstance(state, dict) or state.get("kind") != "autoencoder" or not {"network", "shown"} <= set(state):
        raise BadInput(f"{name}: is not an auto-encoder's; give a checkpoint that training one has written")
    try:
        return Settings(**state["settings"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{name}: its settings cannot be read ({error}); train again with this version") from None


# What a code keeps of a photo (hypothesis B-4)


def radial_power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the spectrum images have their energy: square images (B,C,S,S) -> two (K,), K the rings.

    The first is each ring's frequency, k/S cycles/px for k = 0, 1, ... up to the corner; the second its power, the mean
    over images and channels, in squared units of the images. The powers add up to the images' mean square.
    """
    side = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != side:
        raise BadInput(f"images: have shape {tuple(images.shape)}, but must be square, (B, C, S, S)")
    power = (torch.fft.fft2(images.double()).abs() / side**2).square().mean((0, 1))
    frequency = torch.fft.fftfreq(side, dtype=torch.double, device=images.device)
    ring = (torch.hypot(frequency[:, None], frequency) * side).round().long()
    rings = torch.zeros(int(ring.max()) + 1, dtype=torch.double, device=images.device)
    rings.index_add_(0, ring.flatten(), power.flatten())
    return torch.arange(len(rings), device=images.device) / side, rings


def residual_spectrum(reconstructions: Tensor, photos: Tensor) -> dict[str, Tensor]:
    """What reconstructions have lost of photos, both (B,3,S,S), by frequency.

    ``frequency`` (cycles/px), ``photo`` and ``residual`` (`radial_power` of photos and of errors) and ``lost``, their
    ratio: 0 where all is kept, 1 where the reconstruction has nothing.
    """
    frequency, photo = radial_power(photos)
    residual = radial_power(reconstructions - photos)[1]
    return {"frequency": frequency, "photo": photo, "residual": residual, "lost": residual / photo.clamp(min=1e-12)}


def resemblance(reconstructions: Tensor, photos: Tensor, structures: Tensor) -> dict[str, Tensor]:
    """Is what a code keeps the structure that RTV keeps? Images (B,3,H,W) in [0,1] -> numbers a photo, each (B,).

    ``correlation`` of reconstruction and structure image (Pearson). It is near 1 for whatever resembles the photo, so
    the telling ones are ``correlation_removed``, of what each has taken from the photo, and ``l1_structure`` beside
    ``l1_photo``: the reconstruction's distance to either. A blurred photo instead of the reconstruction is the control.
    """
    return {
        "correlation": _pearson(reconstructions, structures),
        "correlation_removed": _pearson(photos - reconstructions, photos - structures),
        "l1_structure": F.l1_loss(reconstructions, structures, reduction="none").mean((1, 2, 3)),
        "l1_photo": F.l1_loss(reconstructions, photos, reduction="none").mean((1, 2, 3)),
    }


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each pair's values about their channels' means; 0 where one is constant."""
    a, b = ((x.double() - x.double().mean((-2, -1), keepdim=True)).flatten(1) for x in (a, b))
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1).float()
