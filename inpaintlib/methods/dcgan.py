"""Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz, Chintala; ICLR 2016).

A generator G turns latents z into photos, a discriminator D tells them from real ones:
``min_G max_D E log D(x) + E log(1 - D(G(z)))``, with the non-saturating -log D(G(z)) for G. The networks are those of
the Torch code (4x4 kernels, 64 to 512 channels) that Yeh et al. search in; the paper's own are twice as wide, 5x5.
G inpaints nothing: :mod:`inpaintlib.methods.latent_search` does, in G's latent space.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from inpaintlib import BadInput
from inpaintlib.losses import adversarial
from inpaintlib.settings import Checked, number, one_of, power_of_two
from inpaintlib.training import Trainer, adam, frozen, generator, initialise, initialise_dcgan


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one training, each with who made it."""

    size: int = power_of_two(64, 16)  # px, a power of two
    width: int = number(64, least=1, unit="channels")  # channels of the layer nearest the photo; the Torch code has 64
    latent: int = number(100, least=1)  # numbers in z
    prior: str = one_of("uniform", ("normal",))  # of z: from -1 to 1, or standard normal (the Torch code's default)
    d_steps: int = number(1, least=1)  # updates of D in a turn; the IFT6266 blog has 30 in its text, 15 in its code
    g_steps: int = number(1, least=1)  # updates of G that end it; Radford 2016 has 1, ports 2, the IFT6266 blog 10
    lr: float = number(2e-4, above=0)  # Adam's learning rate; Radford 2016 has 0.0002, for longer trainings
    beta1: float = number(0.5, below=1)  # Adam
    beta2: float = number(0.999, below=1)  # Adam


# Networks


def channels(settings: Settings) -> list[int]:
    """Channels of the stages between ``size`` px and 4 px, nearest the photo first: 64, 128, 256, 512 at 64 px."""
    return [settings.width * min(8, 1 << i) for i in range(int(math.log2(settings.size)) - 2)]


class Generator(nn.Module):
    """G: latents (B,z) -> photos (B,3,S,S) in [-1,1].

    The IFT6266 blog's ends in a sigmoid on [0,1]; tanh on [-1,1] is the same photo, with the last weights halved.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        widths = channels(settings)[::-1]
        layers = [nn.ConvTranspose2d(settings.latent, widths[0], 4, 1, 0, bias=False)]
        for a, b in pairwise([*widths, 3]):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """D: photos (B,3,S,S) in [-1,1] -> logits (B,), a sigmoid short of a probability."""

    def __init__(self, settings: Settings):
        super().__init__()
        widths = channels(settings)
        layers = [nn.Conv2d(3, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, bias=False))

    def forward(self, photos: Tensor) -> Tensor:
        return self.layers(photos).flatten()


# Objective


def draw(prior: str, n: int, latent: int, random: torch.Generator) -> Tensor:
    """``n`` latents (n, latent) from the prior: ``uniform`` U(-1, 1) or ``normal`` N(0, 1); on the CPU."""
    if prior == "normal":
        return torch.randn(n, latent, generator=random)
    return torch.rand(n, latent, generator=random) * 2 - 1


# Training and use


class DCGAN(Trainer):
    """G and D in training (:meth:`step`) and G as a source of photos (:meth:`generate`). It does not inpaint.

    ``seed`` is of initialisation and latents; the rest as in `training.Trainer`.
    """

    state = ("generator", "discriminator", "adam_g", "adam_d")
    kind, exported, title = "dcgan", state[:2], "DCGAN (weights.pt of a run of notebook 30)"
    settings_type = Settings

    def __init__(self, settings: Settings, seed: int = 0, device: str | torch.device = "auto",
                 precision: str = "auto", acceleration: str = "auto"):  # fmt: skip
        self.settings, self.seed = settings, seed
        self.set_device(device, precision, acceleration)
        self.generator, self.discriminator = Generator(settings), Discriminator(settings)
        for name in ("generator", "discriminator"):
            network = initialise(getattr(self, name), seed, name, initialise_dcgan)
            network.to(self.device, memory_format=torch.channels_last)
        betas = (settings.beta1, settings.beta2)
        self.adam_g = adam(self.generator, settings.lr, betas, self.device)
        self.adam_d = adam(self.discriminator, settings.lr, betas, self.device)
        self._update_d, self._update_g = map(self.as_cuda_graph, (self.update_d, self.update_g))

    def step(self, photos: Tensor, step: int) -> dict[str, Tensor]:
        """One update of D on uint8 photos (B,3,S,S), and G's updates where this step ends a turn.

        A turn is ``d_steps`` steps, hence as many batches of photos. Within it, ``g`` is what G would have paid on
        the photos D was shown; at its end, what G paid at its last update, and ``g_first`` what it paid at its first.
        """
        s, n, random = self.settings, len(photos), generator(self.seed, step)
        losses = dict(self._update_d(photos=photos, z=self.latents(n, random)))
        losses["g_first"] = losses["g"]
        if (step + 1) % s.d_steps == 0:
            paid = [self._update_g(z=self.latents(n, random))["g"].clone() for _ in range(s.g_steps)]
            losses["g_first"], losses["g"] = paid[0], paid[-1]
        return losses

    def update_d(self, photos: Tensor, z: Tensor) -> dict[str, Tensor]:
        """D's update as device work alone; real and generated photos pass apart, as batch norm must see them."""
        x = (photos.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            with torch.no_grad():
                fakes = self.generator(z)
            real, fake = self.discriminator(x), self.discriminator(fakes)
        losses = {"d_real": adversarial(real, True), "d_fake": adversarial(fake, False)}
        self.adam_d.zero_grad(set_to_none=True)
        (losses["d_real"] + losses["d_fake"]).backward()
        self.adam_d.step()
        return {name: loss.detach() for name, loss in losses.items()} | {"g": adversarial(fake.detach(), True)}

    def update_g(self, z: Tensor) -> dict[str, Tensor]:
        """G's update as device work alone."""
        with frozen(self.discriminator), self.autocast():
            loss = adversarial(self.discriminator(self.generator(z)), True)
        self.adam_g.zero_grad(set_to_none=True)
        loss.backward()
        self.adam_g.step()
        return {"g": loss.detach()}

    def latents(self, n: int, random: torch.Generator) -> Tensor:
        """``n`` latents (n,z) of the prior, on the device."""
        return draw(self.settings.prior, n, self.settings.latent, random).to(self.device)

    @torch.no_grad()
    def generate(self, z: Tensor) -> Tensor:
        """G in eval mode: latents (B,z) -> photos (B,3,S,S) in [0,1]. BadInput for another latent size."""
        check_latent(z, self.settings)
        training = self.generator.training
        self.generator.eval()
        photos = (self.generator(z.to(self.device)).float() + 1) / 2
        self.generator.train(training)
        return photos

    def samples(self, n: int) -> Tensor:
        """``n`` generated photos (n,3,S,S), always from the same latents of this seed: a row of the checkpoint grid."""
        return self.generate(self.latents(n, generator(self.seed, -1)))


def check_latent(z: Tensor, settings: Settings) -> None:
    """Raises BadInput unless z is (B, latent)."""
    if z.ndim != 2 or z.shape[1] != settings.latent:
        raise BadInput(f"z: has shape {tuple(z.shape)}, but this generator takes (B, {settings.latent})")
