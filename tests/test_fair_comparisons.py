"""Two arms of one sweep and one seed begin alike: they agree in every tensor they both have, in one order of data."""

import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

from inpaintlib import ROOT
from inpaintlib.data.photos import Batches, Photos
from inpaintlib.harness import sweep
from inpaintlib.methods import autoencoder, context_encoder, dcgan, medfe, partial_conv

SWEEPS = sorted(path.stem for path in (ROOT / "notebooks" / "sweeps").glob("*.yaml"))
SMALL = {"width": 4, "bottleneck": 16, "noise": 3, "latent": 8, "bank": 12, "size": 64}  # where the arm has any of it


def method(notebook: str, parameters: dict):
    """The method that a notebook trains, of a small width and size; None for a notebook that trains none."""
    kind = {"10": (context_encoder, "ContextEncoder"), "20": (partial_conv, "PartialConvNet"), "30": (dcgan, "DCGAN"),
            "40": (autoencoder, "CAE"), "41": (medfe, "MEDFE")}.get(notebook[:2])  # fmt: skip
    if kind is None or parameters.get("filler", "network") != "network":
        return None
    settings = kind[0].Settings
    names = {field.name for field in fields(settings)}
    small = {name: value for name, value in SMALL.items() if name in names and parameters[name]}
    options = {"device": "cpu", "precision": "fp32", "acceleration": "eager"}
    if notebook[:2] in ("20", "41"):
        options["vgg"] = nn.Sequential(*(nn.Conv2d(3, 3, 1) if i == 0 else nn.Identity() for i in range(31)))
    if notebook[:2] == "41" and parameters["constraint"].startswith("cae"):
        width = small["width"] // 2
        pair = [autoencoder.CAE(autoencoder.Settings(kind=k, width=width), device="cpu") for k in autoencoder.KINDS]
        for cae in pair if parameters["constraint"] != "cae_reinitialised" else ():
            cae.network.shown += 1  # as if it were trained
        options["codes"] = tuple(pair)
    chosen = settings(**{name: parameters[name] for name in names} | small)
    return getattr(*kind)(chosen, seed=parameters["seed"], **options)


def tensors(network) -> dict[str, torch.Tensor]:
    state = network.state_dict()
    parts = {part: state[part] for part in state if isinstance(getattr(network, part, None), nn.Module)}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


@pytest.mark.parametrize("study", SWEEPS)
def test_arms_of_one_seed_agree_in_every_tensor_they_both_have(study):
    plan = sweep.load(study)
    arms = {}
    for preset in plan.presets:
        for item in sweep.plan(plan, preset):
            if item.parameters["seed"] == 0:
                arms.setdefault(f"{item.parameters['arm']}, ratio {item.parameters.get('ratio')}", item.parameters)
    made = {arm: method(plan.notebook.name, parameters) for arm, parameters in arms.items()}
    made = {arm: tensors(network) for arm, network in made.items() if network is not None}
    if not made:
        pytest.skip(f"{study} trains nothing")
    for (one, first), (two, second) in itertools.combinations(made.items(), 2):
        shared = [name for name in first if name in second and first[name].shape == second[name].shape]
        assert shared, (one, two)
        differ = [name for name in shared if not torch.equal(first[name], second[name])]
        assert not differ, f"{one} and {two} differ in {differ[:3]} of {len(shared)} shared tensors"


def test_batches_are_a_function_of_seed_and_step():
    array = np.arange(40 * 3 * 4 * 4, dtype=np.uint8).reshape(40, 3, 4, 4)
    photos = Photos(array, [str(i) for i in range(40)], "noise")
    one, two = (Batches(photos, 8, torch.device("cpu"), seed=3) for _ in range(2))
    one.at(0)
    one.at(1)
    assert torch.equal(one.at(7), two.at(7))
    assert not torch.equal(two.at(7), Batches(photos, 8, torch.device("cpu"), seed=4).at(7))
