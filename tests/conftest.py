"""What tests of several methods share: photos of noise, a narrow VGG, small networks, a folder for results."""

import threading
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from torch import Tensor, nn

import inpaintlib
from inpaintlib import files, training
from inpaintlib.harness import figures
from inpaintlib.methods import autoencoder, context_encoder, dcgan, medfe, medfe_released, partial_conv
from inpaintlib.methods.autoencoder import CAE

SMALL = {
    "context encoder": context_encoder.Settings(size=64, width=8, bottleneck=32, overlap=4),
    "partial convolutions": partial_conv.Settings(size=32, width=4, bank=12),
    "DCGAN": dcgan.Settings(size=16, width=4, latent=8),
    "texture code": autoencoder.Settings("texture", width=4),
    "structure code": autoencoder.Settings("structure", width=4),
    "MEDFE": medfe.Settings(size=64, width=2),
    "released MEDFE": medfe_released.Settings(size=64, width=2),
}
"""Settings by which each method trains in a moment."""
CLASSES = {
    context_encoder.Settings: context_encoder.ContextEncoder, partial_conv.Settings: partial_conv.PartialConvNet,
    dcgan.Settings: dcgan.DCGAN, autoencoder.Settings: CAE, medfe.Settings: medfe.MEDFE,
    medfe_released.Settings: medfe_released.MEDFE,
}  # fmt: skip


def noise(n: int = 4, size: int = 64, seed: int = 0, channels: int = 3) -> Tensor:
    """Photos uint8 (n,channels,size,size) of noise; behind channel 3, other noise for structure images."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=draw)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def narrow_vgg() -> nn.Sequential:
    """VGG-16's 31 layers, 2 to 4 channels wide, always the same; its weights are large enough to carry a signal."""
    vgg = torchvision.models.vgg.make_layers([2, 2, "M", 3, 3, "M", 4, 4, 4, "M", 4, 4, 4, "M", 4, 4, 4, "M"])
    with training.seeded(0):
        for layer in vgg:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.constant_(layer.bias, 0.1)
    return vgg


def coders(width: int = 1, trained=(True, True), kinds=tuple(autoencoder.KINDS)) -> tuple[CAE, CAE]:
    """Auto-encoders whose codes fit a small MEDFE; trained, as they say."""
    pair = tuple(CAE(autoencoder.Settings(kind=kind, width=width), seed=5, device="cpu") for kind in kinds)
    with training.seeded(5):
        for cae, shown in zip(pair, trained, strict=True):
            cae.network.shown += int(shown)
            for layer in cae.network.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(layer.weight)
    return pair


def trainer(settings, seed: int = 0, device: str = "cpu", precision: str = "fp32", **options):
    """The method of these settings, or of a name in SMALL, with a narrow VGG and codes where it has any."""
    settings = SMALL.get(settings, settings) if isinstance(settings, str) else settings
    if isinstance(settings, partial_conv.Settings | medfe.Settings):
        options = {"vgg": narrow_vgg()} | options
    if isinstance(settings, medfe.Settings):
        options = {"codes": coders()} | options
    return CLASSES[type(settings)](settings, seed, device, precision, **options)


def batch(method, seed: int = 0, n: int = 4) -> Tensor:
    """Photos that a method trains on; for MEDFE with structure images behind them."""
    channels = 6 if isinstance(method, medfe.MEDFE) else 3
    return noise(n, getattr(method.settings, "size", 64), seed, channels)


def after(settings, steps: int = 1, **options) -> Tensor:
    """All weights of the first network of a method after so many steps, in one row."""
    method = trainer(settings, **options)
    for step in range(steps):
        method.step(batch(method, step, 2), step)
    return torch.cat([p.detach().flatten() for p in getattr(method, method.state[0]).parameters()])


def meanwhile(path, act, other, seconds=0.5) -> None:
    """Lets another one, who has the lock, write ``path`` after ``act`` has begun; returns when that is done."""
    thread = threading.Thread(target=act, daemon=True)
    with files.lock(path):
        thread.start()
        thread.join(seconds)
        other()
    thread.join(60)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of its own for results."""
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def style():
    """The look of the study's figures, for this test alone."""
    with plt.rc_context():
        figures.style()
        yield


@pytest.fixture(scope="session")
def gan() -> dcgan.DCGAN:
    """A DCGAN of 16 px whose photos vary with z; batch norm has seen something."""
    gan = trainer(replace(SMALL["DCGAN"]), seed=1)
    with torch.no_grad(), training.seeded(0):
        for network in (gan.generator, gan.discriminator):
            for weight in network.parameters():
                weight.mul_(8 if weight.ndim == 4 else 1)
        gan.discriminator(gan.generator(torch.rand(64, 8) * 2 - 1))
    return gan
