"""The catalogue of methods, and filling the holes of a user's own photos."""

import math

import pytest
import torch

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import classical, partial_conv
from inpaintlib.methods.partial_conv import PartialConvNet
from inpaintlib.studies import all_methods
from inpaintlib.studies.all_methods import METHODS


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """An empty folder of small networks in an empty folder of results."""
    monkeypatch.setattr(inpaintlib, "RESULTS", tmp_path / "results")
    (tmp_path / "results" / "networks").mkdir(parents=True)
    return tmp_path / "results" / "networks"


def save(path, conv="partial"):
    settings = partial_conv.Settings(size=32, width=2, conv=conv, bank=6, perceptual_weight=0.0, style_weight=0.0)
    network = PartialConvNet(settings, device="cpu", precision="fp32")
    network.save(path)
    return network


def test_half_precision_networks_fill_like_the_network_rounded_to_half(networks):
    network = save(networks / "partial_conv.pt")
    state = torch.load(networks / "partial_conv.pt", weights_only=True)
    halved = {n: t.half() if t.is_floating_point() else t for n, t in state["network"].items()}
    torch.save(state | {"network": halved}, networks / "partial_conv.pt")
    found = METHODS["partial_conv"].load(all_methods.newest("partial_conv"), "cpu")
    network.network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in halved.items()})
    photos, mask = torch.rand(1, 3, 32, 32), masks.centre(1, 32)
    assert found.side == 32
    assert found.parameters == sum(t.numel() for t in network.network.parameters())
    assert torch.equal(found(photos, mask), network.inpaint(photos, mask))


def test_a_checkpoint_of_another_method_is_refused_by_name(networks):
    save(networks / "mine.pt")
    with pytest.raises(BadInput, match=r"mine.pt: a checkpoint of partial_conv, not of plain_conv; give one of plain"):
        METHODS["plain_conv"].load(networks / "mine.pt", "cpu")
    torch.save({"settings": {"kernel": 3}}, networks / "other.pt")
    with pytest.raises(BadInput, match="a checkpoint of no method here, not of medfe_cae"):
        METHODS["medfe_cae"].load(networks / "other.pt", "cpu")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.study])
def test_a_missing_network_says_how_to_make_it(networks, name):
    method = METHODS[name]
    with pytest.raises(BadInput, match=f"{name}: no trained network is here; make one with python -m inpaintlib sweep "
                       f"{method.study} --preset (quick|night) --only arm='{method.run['arm']}'"):  # fmt: skip
        all_methods.newest(name)


def test_no_two_methods_fit_one_network_but_the_two_ends_of_a_search():
    settings = [{"region": "centre", "ratio": 100.0}, {"region": "centre", "ratio": math.inf},
                {"region": "random_region", "ratio": 1.0}, {"region": "random_pixels", "ratio": 1.0},
                {"conv": "plain"}, {"conv": "partial"}, {"constraint": "none"}, {"constraint": "cae"},
                {"constraint": "conv1x1"}, {"constraint": "conv1x1", "fixes": ""}, {"constraint": "cae", "fixes": ""},
                {"g_steps": 2}]  # fmt: skip
    found = [[name for name, method in METHODS.items() if method.fits(each)] for each in settings]
    assert found[-1] == ["latent_search", "latent_search_unblended"]
    assert all(len(names) == 1 for names in found[:-1])
    assert len({names[0] for names in found}) == len(found)


def test_classical_fills_are_the_library_s():
    photos, mask = torch.rand(1, 3, 20, 30), torch.rand(1, 1, 20, 30) > 0.7
    assert torch.equal(METHODS["telea"].load()(photos, mask), classical.telea(photos, mask))
    with pytest.raises(BadInput, match=r"there is no 'tela'; did you mean 'telea'\?"):
        all_methods.method("tela")
