"""What holds of every method: arms of a seed begin alike, stopping changes nothing, files come back, bad input."""

import functools
import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inpaintlib import ROOT, BadInput
from inpaintlib.data import masks
from inpaintlib.data.photos import Batches, Photos
from inpaintlib.harness import runs, sweep
from inpaintlib.methods import latent_search, medfe_released
from inpaintlib.methods.medfe import CONSTRAINTS
from inpaintlib.studies import medfe as medfe_study
from inpaintlib.training import load_checkpoint, save_checkpoint
from tests.conftest import CLASSES, SMALL, after, batch, coders, noise, trainer

CE, PC, GAN, TEXTURE, STRUCTURE, MEDFE, RELEASED = SMALL.values()
SEARCH = latent_search.Settings()
PLAIN_MEDFE = {"perceptual_weight": 0, "style_weight": 0, "adversarial_weight": 0}
every_method = pytest.mark.parametrize("name", SMALL)


def state_of(method) -> dict[str, torch.Tensor]:
    """The tensors of a method's networks by their names."""
    parts = {part: getattr(method, part) for part in method.state}
    return {f"{part}.{name}": value for part, network in parts.items() if isinstance(network, nn.Module)
            for name, value in network.state_dict().items()}  # fmt: skip


def assert_equal_states(one, other):
    """Networks, optimisers and all that checkpoints hold are equal to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal_states(one[name], other[name])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_equal_states(*pair)
    else:
        assert one == other


# Arms of one seed


CHANGES = [
    (CE, {"noise": 5}), (CE, {"conditional": True}), (CE, {"bottleneck": 0}), (CE, {"bottleneck": 8}),
    (CE, {"ratio": 1.0}), (CE, {"pooling": True}), (CE, {"overlap_visible": True}), (CE, {"region": "random_pixels"}),
    (CE, {"composite": True}), (CE, {"reconstruction": "l1"}),
    (PC, {"conv": "plain"}), (PC, {"conv": "plain", "placeholder": "grey"}), (PC, {"scaling": False}),
    (PC, {"style_weight": 0.0}), (PC, {"pixel_scale": 4.4}), (PC, {"vgg_input": "imagenet"}),
    (GAN, {"g_steps": 2}), (GAN, {"d_steps": 30, "g_steps": 10}), (GAN, {"prior": "normal"}), (GAN, {"latent": 9}),
    (TEXTURE, {"kind": "structure"}), (MEDFE, {"region": "irregular", "bank": 12}),
    *((MEDFE, {"constraint": constraint}) for constraint in CONSTRAINTS),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "change"), CHANGES)
def test_a_change_leaves_every_tensor_that_both_arms_have(settings, change):
    one, arm, other = (state_of(trainer(s, seed)) for s, seed in
                       ((settings, 3), (replace(settings, **change), 3), (settings, 4)))  # fmt: skip
    shared = [name for name in one if name in arm and one[name].shape == arm[name].shape]
    assert all(torch.equal(one[name], arm[name]) for name in shared)
    drawn = [name for name in shared if one[name].ndim == 4]
    assert len(drawn) >= 3
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def method_of(notebook: str, parameters: dict):
    """The method that a notebook trains, of a small width and size; None for a notebook that trains none."""
    settings = {"10": CE, "20": PC, "30": GAN, "40": TEXTURE, "41": MEDFE}.get(notebook[:2])
    if settings is None or parameters.get("filler", "network") != "network":
        return None
    if parameters.get("code") == "released":
        settings = RELEASED
    small = {"width": 4, "bottleneck": 16, "noise": 3, "latent": 8, "bank": 12, "size": 64}
    given = {field.name: parameters[field.name] for field in fields(settings)}
    given |= {name: value for name, value in small.items() if given.get(name)}
    return trainer(replace(settings, **given), parameters["seed"], **({"codes": coders(2)} if "codes" in parameters
                                                                     else {}))  # fmt: skip


@pytest.mark.parametrize("study", sorted(path.stem for path in (ROOT / "notebooks" / "sweeps").glob("*.yaml")))
def test_arms_of_a_sweep_agree_in_every_tensor_they_both_have(study):
    plan, arms = sweep.load(study), {}
    for preset in plan.presets:
        for item in sweep.plan(plan, preset):
            if item.parameters.get("seed", 0) == 0:
                arms.setdefault(f"{item.parameters.get('arm')}, ratio {item.parameters.get('ratio')}", item.parameters)
    made = {arm: method_of(plan.notebook.name, parameters) for arm, parameters in arms.items()}
    made = {arm: state_of(method) for arm, method in made.items() if method is not None}
    if not made:
        pytest.skip(f"{study} trains nothing")
    for (one, first), (two, second) in itertools.combinations(made.items(), 2):
        shared = [name for name in first if name in second and first[name].shape == second[name].shape]
        assert shared, (one, two)
        differ = [name for name in shared if not torch.equal(first[name], second[name])]
        assert not differ, f"{one} and {two} differ in {differ[:3]} of {len(shared)} shared tensors"


def test_batches_are_a_function_of_seed_and_step():
    photos = Photos(noise(40, 4).numpy(), [str(i) for i in range(40)], "noise")
    one, two = (Batches(photos, 8, torch.device("cpu"), seed=3) for _ in range(2))
    one.at(0)
    one.at(1)
    assert torch.equal(one.at(7), two.at(7))
    assert not torch.equal(two.at(7), Batches(photos, 8, torch.device("cpu"), seed=4).at(7))


# Steps


@pytest.mark.parametrize(
    ("settings", "stop"),
    [(CE, 2), (replace(CE, region="random_block", noise=4), 1), (replace(PC, second_stage_kimg=0.008), 1),
     (replace(PC, second_stage_kimg=0.008), 3), (replace(GAN, d_steps=2), 1), (TEXTURE, 2),
     (replace(STRUCTURE, constant_kimg=0.006, decay_kimg=0.02), 2), (replace(MEDFE, pixel_kimg=0.004), 2),
     (RELEASED, 1)],
)  # fmt: skip
def test_resuming_is_bit_identical(tmp_path, settings, stop):
    whole, first, rest = (trainer(settings, seed=5) for _ in range(3))
    last = 4 if isinstance(settings, type(PC)) else stop + 1
    for step in range(last):
        whole.step(batch(whole, step), step)
    for step in range(stop):
        first.step(batch(first, step), step)
    save_checkpoint(tmp_path / "checkpoint.pt", first.state_dict())
    rest.load_state_dict(load_checkpoint(tmp_path / "checkpoint.pt"))
    for step in range(stop, last):
        rest.step(batch(rest, step), step)
    assert_equal_states(whole.state_dict(), rest.state_dict())


WEIGHTS = [
    (PC, ["valid_weight", "hole_weight", "perceptual_weight", "style_weight", "tv_weight"]),
    (MEDFE, ["l1_weight", "perceptual_weight", "style_weight", "adversarial_weight", "structure_weight",
             "texture_weight", "loss_mult"]),
    (TEXTURE, ["l1_weight"]), (CE, ["ratio", "overlap_weight"]),
]  # fmt: skip


@functools.cache
def gradient(settings) -> tuple[torch.Tensor, dict]:
    """Of the network that fills holes, after one step; and the losses of that step."""
    method = trainer(settings)
    losses = method.step(batch(method, n=2), 0)
    return torch.cat([p.grad.flatten() for p in getattr(method, method.exported[0]).parameters()]), losses


@pytest.mark.parametrize(("settings", "name"), [(of, name) for of, names in WEIGHTS for name in names])
def test_each_weight_of_a_loss_changes_its_gradient(settings, name):
    def at(factor: float):
        return gradient(replace(settings, **{name: factor * abs(getattr(settings, name))}) if factor != 1 else settings)

    (once, losses), (thrice, _) = at(1), at(3)
    assert (thrice - once).norm() > 1e-4 * once.norm()
    if isinstance(settings, type(PC)):  # its terms add up, and one of weight 0 is not computed
        never, without = at(0)
        assert name.removesuffix("_weight") in losses.keys() - without.keys()
        torch.testing.assert_close(thrice - once, 2 * (once - never), rtol=1e-3, atol=1e-4 * once.abs().max().item())


CHOICES = [
    (replace(CE, width=4, bottleneck=8),
     [{"ratio": 1.0}, {"ratio": math.inf}, {"ratio": 0.0}, {"reconstruction": "l1"}, {"overlap": 0}, {"pooling": True},
      {"placeholder": "mean"}, {"overlap_visible": True}, {"conditional": True}, {"beta1": 0.9},
      {"generator_lr_factor": 1.0}, {"composite": True}, {"reconstruction": "l2_sum"}], 2),
    (replace(MEDFE, bank=12),
     [{"lr": 1e-3}, {"pixel_kimg": 1.0}, {"region": "irregular"},
      *({"constraint": c} for c in CONSTRAINTS[:1] + CONSTRAINTS[2:])], 1),
    (RELEASED, [{"fixes": fix} for fix in medfe_released.FIXES], 1),
    (TEXTURE, [{"lr": 1e-3}, {"beta1": 0.9}, {"beta2": 0.9}, {"constant_kimg": 0.002, "decay_kimg": 0.02}], 3),
    (PC, [{"scaling": False}, {"lr": 1e-3}, {"vgg_input": "imagenet"}, {"pixel_scale": 4.4},
          {"second_stage_kimg": 0.0}], 1),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "changes", "steps"), CHOICES)
def test_each_choice_changes_the_step(settings, changes, steps):
    seen = [after(each, steps) for each in (settings, *(replace(settings, **change) for change in changes))]
    for i, weights in enumerate(seen):
        same = [j for j in range(i) if torch.equal(weights, seen[j])]
        assert not same, (changes[i - 1], same)


@every_method
def test_photos_and_holes_are_not_written_to(name):
    method = trainer(name)
    photos, bank = batch(method), getattr(method, "bank", None)
    kept = photos.clone(), None if bank is None else bank.clone()
    method.step(photos, 0)
    assert torch.equal(photos, kept[0])
    assert bank is None or torch.equal(bank, kept[1])


@pytest.mark.parametrize(
    ("settings", "loss", "steps", "fraction"),
    [(replace(CE, ratio=math.inf), "rec", 25, 0.6), (replace(PC, lr=2e-3), "total", 40, 0.5),
     (replace(TEXTURE, lr=3e-3), "l1", 60, 0.4), (replace(STRUCTURE, lr=3e-3), "l1", 60, 0.4),
     (replace(MEDFE, width=4, lr=5e-3, **PLAIN_MEDFE), "total", 40, 0.6)],
)  # fmt: skip
def test_losses_fall_on_photos_learned_by_heart(settings, loss, steps, fraction):
    method = trainer(settings, **({"codes": None} if type(settings) is type(MEDFE) else {}))
    size = getattr(settings, "size", 32)
    photos = F.interpolate(batch(method, n=2)[..., :4, :4].float(), size=size, mode="bilinear").byte()
    found = [method.step(photos, step)[loss].item() for step in range(steps)]
    assert found[-1] < fraction * found[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("acceleration", ["graph", "compile"])
@pytest.mark.parametrize("settings", [CE, PC, GAN, replace(STRUCTURE, constant_kimg=0.008, decay_kimg=0.064),
                                      replace(MEDFE, pixel_kimg=0.048)])  # fmt: skip
def test_captured_step_equals_the_eager_one(settings, acceleration):
    arms = [trainer(settings, 3, "cuda", acceleration=mode) for mode in ("eager", acceleration)]
    for step in range(14):  # the pixel terms alone last 6 steps, and 3 more of the others come before their graph
        a, b = ({k: v.item() for k, v in arm.step(batch(arm, step, 8).cuda(), step).items()} for arm in arms)
        assert a == pytest.approx(b, rel=1e-2), step


# Filling


FILLING = [(CE, "centre"), (replace(CE, region="random_block"), "random_block"), (PC, "centre"), (PC, "strokes"),
           (replace(CE, region="random_pixels"), "random_pixels"), (MEDFE, "random_block"),
           (RELEASED, "centre")]  # fmt: skip


@pytest.mark.parametrize(("settings", "kind"), FILLING)
def test_known_pixels_stay_and_the_hole_is_never_read(settings, kind):
    method = trainer(settings)
    photos, mask = noise(3, settings.size) / 255, masks.make(kind, 3, settings.size, 1)
    filled, known = method.inpaint(photos, mask), ~mask.expand(-1, 3, -1, -1)
    assert torch.equal(filled, method.inpaint(torch.where(mask, torch.rand_like(photos), photos), mask))
    assert torch.equal(filled[known], photos[known])
    assert 0 <= filled.min() <= filled.max() <= 1
    assert filled[~known].std() > 0 or kind == "random_pixels"  # which leave an untrained network next to nothing
    alone = torch.cat([method.inpaint(photos[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(filled, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "kind"), FILLING[:3])
def test_training_goes_on_as_if_nothing_was_asked(settings, kind):
    asked, silent = trainer(settings), trainer(settings)
    asked.inpaint(noise(2, settings.size) / 255, masks.make(kind, 2, settings.size, 1))
    assert asked.step(batch(asked), 0) == silent.step(batch(silent), 0)


@pytest.mark.parametrize(
    "settings",
    [CE, replace(CE, noise=4), PC, replace(PC, conv="plain", placeholder="grey"), TEXTURE, STRUCTURE, MEDFE, RELEASED,
     replace(MEDFE, constraint="cae"), replace(RELEASED, constraint="cae"), GAN],
)  # fmt: skip
def test_a_saved_network_comes_back(tmp_path, settings, monkeypatch):
    method = trainer(settings)
    method.step(batch(method), 0)
    (tmp_path / "checkpoint.pt").touch()
    method.save(path := tmp_path / "weights.pt")
    assert (tmp_path / "checkpoint.pt").exists()  # until the run is done
    monkeypatch.setattr("inpaintlib.pretrained.vgg16", None)
    again = (medfe_study if isinstance(settings, type(MEDFE)) else CLASSES[type(settings)]).load(path, "cpu")
    assert type(again) is type(method)
    assert again.settings == settings
    size = getattr(settings, "size", 64)
    given = noise(2, size) / 255, masks.centre(2, size)
    if settings is GAN:
        assert torch.equal(again.samples(2), method.samples(2))
        return
    for use in ("encode", "reconstruct") if isinstance(settings, type(TEXTURE)) else ("inpaint",):
        on = given if use == "inpaint" else given[:1]
        assert torch.equal(getattr(again, use)(*on), getattr(method, use)(*on))


@every_method
def test_other_files_and_other_architectures_are_refused(tmp_path, name):
    kind, title = CLASSES[type(SMALL[name])], CLASSES[type(SMALL[name])].title.split(" (")[0]
    with pytest.raises(BadInput, match=r"absent\.pt: there is no such checkpoint; train first"):
        kind.load(tmp_path / "absent.pt")
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BadInput, match=r"bad\.pt: not a readable checkpoint"):
        kind.load(tmp_path / "bad.pt")
    others = [trainer(other) for other in SMALL if CLASSES[type(SMALL[other])] is not kind]
    for other, older in itertools.product(others, (False, True)):
        other.save(foreign := tmp_path / "foreign.pt")
        if older:  # without the method's name
            save_checkpoint(foreign, {k: v for k, v in load_checkpoint(foreign).items() if k != "kind"})
            if name == "released MEDFE" and other.kind == "medfe":
                continue  # the fields of its settings are among the other's
        with pytest.raises(BadInput, match=rf"foreign\.pt: not a finished {title}"):
            kind.load(foreign)
    for state in ({"kind": "gan", "network": {}, "shown": 1}, {"settings": {}}, {"settings": 1, "network": {}}):
        save_checkpoint(tmp_path / "foreign.pt", state)
        with pytest.raises(BadInput, match=rf"foreign\.pt: not a finished {title}"):
            kind.load(tmp_path / "foreign.pt")
    with pytest.raises(BadInput, match="checkpoint: does not fit these settings"):
        trainer(replace(SMALL[name], width=6), **({"codes": coders(3)} if "MEDFE" in name else {})).load_state_dict(
            trainer(name).state_dict())  # fmt: skip


# Bad input


@pytest.mark.parametrize(
    ("settings", "change", "right"),
    [
        (CE, {"ratio": -1.0}, "a number of at least 0, or inf"), (CE, {"ratio": math.nan}, "a number of at least 0"),
        (CE, {"size": 64.0}, "a power of two"), (CE, {"size": "128"}, "a power of two"), (CE, {"lr": None}, "a number"),
        (CE, {"lr": "fast"}, "a number above 0"), (CE, {"lr": True}, "a number"), (CE, {"width": True}, "a whole"),
        (CE, {"composite": 1}, "True or False"), (RELEASED, {"fixes": 1}, "text"), (CE, {"region": 1}, "centre, r"),
        (CE, {"size": 100}, "a power of two of at least 32 px"), (CE, {"size": 32}, "at least 64 px for a centre hole"),
        (CE, {"region": "corner"}, "centre, random_block, random_region or random_pixels"),
        (CE, {"reconstruction": "l3"}, "l2, l1 or l2_sum"), (CE, {"placeholder": "white"}, "zero or mean"),
        (CE, {"generator_lr_factor": 0.0}, "a number above 0"), (CE, {"width": 0}, "a whole number of at least 1 chan"),
        (CE, {"composite": True, "conditional": True}, "False where conditional is True"),
        (CE, {"overlap": 16}, r"from 0 to less than a quarter patch \(8 px\)"), (CE, {"overlap": -1}, "a whole number"),
        (CE, {"conditional": True, "region": "random_block"}, "False unless region is centre"),
        (CE, {"noise": 3, "bottleneck": 0}, "0 where there is no bottleneck to stand beside"),
        (PC, {"size": 96}, "a power of two of at least 32 px"), (PC, {"size": 16}, "a power of two"),
        (PC, {"conv": "gated"}, "partial or plain"), (PC, {"placeholder": "black"}, "mean or grey"),
        (PC, {"pixel_scale": 0}, "a number above 0"), (PC, {"style_weight": -1}, "a number of at least 0"),
        (PC, {"style_weight": math.inf}, "a number of at least 0"),
        (PC, {"hole_weight": 0} | dict.fromkeys(("valid_weight", "perceptual_weight", "style_weight", "tv_weight"), 0),
         "above 0 where all other weights are 0"),
        (PC, {"vgg_input": "caffe"}, "unit, imagenet or symmetric"),
        (PC, {"second_stage_kimg": -1}, "a number of at least 0 kimg, or inf"),
        (PC, {"bank": 5}, "a whole number of at least 6 masks, one a bin"),
        (GAN, {"size": 60}, "a power of two of at least 16 px"), (GAN, {"prior": "cauchy"}, "uniform or normal"),
        *((GAN, {name: 0}, "a whole number of at least 1") for name in ("width", "latent", "d_steps", "g_steps")),
        (GAN, {"lr": 0.0}, "a number above 0"), (TEXTURE, {"kind": "colour"}, "texture or structure"),
        (TEXTURE, {"width": 2.5}, "a whole number of at least 1 channels"),
        (TEXTURE, {"l1_weight": 0}, "a number above 0"),
        (TEXTURE, {"lr": math.nan}, "a number above 0"),
        (TEXTURE, {"beta1": 1.0}, "a number of at least 0 and below 1"),
        (TEXTURE, {"constant_kimg": -1}, "a number of at least 0 kimg, or inf"),
        (TEXTURE, {"decay_kimg": math.inf}, "a number of at least 0 kimg"),
        (MEDFE, {"size": 96}, "a power of two of at least 64 px"), (MEDFE, {"region": "corner"}, "centre or irregular"),
        (MEDFE, {"constraint": "vae"}, "conv1x1, none, cae, cae_reinitialised or cae_no_norm"),
        (MEDFE, {"pixel_kimg": -1.0}, "a number of at least 0 kimg"), (MEDFE, {"loss_mult": -0.5}, "at least 0, or -1"),
        (MEDFE, {"loss_mult": math.inf}, "a number of at least -1"), (MEDFE, {"style_weight": -1.0}, "a number of at"),
        (MEDFE, {"l1_weight": 0} | PLAIN_MEDFE, "above 0 where all other weights of the output are 0"),
        (MEDFE, {"bank": 1}, "a whole number of at least 6 masks"),
        (RELEASED, {"fixes": "init+masks"}, r"of mask, init, bpa, vgg, crop, joined by \+"),
        *((SEARCH, change, "") for change in (
            {"context": "l3"}, {"weights": "none"}, {"prior": "wgan"}, {"reduction": "max"}, {"optimiser": "sgd"},
            {"stop": "l2"}, {"lambda_prior": -1.0}, {"lr": 0.0}, {"momentum": 1.0}, {"iterations": -1},
            {"tolerance": 0.0}, {"restarts": 0}, {"coarse_iterations": -1})),
        (SEARCH, {"window": 4}, "an odd number of at least 3 px"),
        (SEARCH, {"coarse_restarts": 2, "restarts": 4}, r"0 or at least restarts \(4\)"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_clear_sentence(settings, change, right):
    name, value = next(iter(change.items()))
    with pytest.raises(BadInput, match=rf"^{name}: {value!r} will not do; it must be {right}".replace("+m", r"\+m")):
        replace(settings, **change)


@every_method
def test_bad_ways_of_running_are_one_clear_sentence(name):
    for option, value in (("precision", "fp8"), ("acceleration", "warp"), ("acceleration", "graph"), ("device", "x9")):
        with pytest.raises(BadInput, match=f"^{option}: '{value}'"):
            trainer(name, **{option: value})


@pytest.mark.parametrize(
    ("settings", "size", "hole", "words"),
    [
        (CE, 32, 16, "photos: 32x32 px, but this network was trained for 64x64"),
        (CE, 64, 40, "mask: has holes outside the central 32x32 px"),
        (replace(CE, overlap_visible=True), 64, 32, "mask: has holes outside the central 24x24 px"),
        (PC, 8, 4, "photos: 8x8 px will not do; .* multiples of 16 px, at least 16"), (PC, 40, 4, "photos: 40x40 px"),
        (MEDFE, 72, 36, "72x72 px will not do; .* trained at 64 px and needs multiples of 16 px a side, at least 48"),
        (MEDFE, 32, 16, "photos: 32x32 px will not do"),
    ],
)  # fmt: skip
def test_photos_and_masks_that_a_network_cannot_fill(settings, size, hole, words):
    with pytest.raises(BadInput, match=words):
        trainer(settings).inpaint(torch.zeros(1, 3, size, size), masks.centre(1, size, hole=hole))


@pytest.mark.parametrize(("notebook", "settings"), [
    ("10_context_encoder", CE), ("20_partial_conv", PC), ("30_dcgan", GAN), ("31_latent_search", SEARCH),
    ("40_autoencoder", TEXTURE), ("41_medfe", RELEASED),
])  # fmt: skip
def test_every_setting_is_a_parameter_of_its_notebook(notebook, settings):
    declared = runs.notebook_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")
    for field in fields(settings):
        assert declared[field.name].type is type(field.default), field.name
        if (allowed := field.metadata.get("allowed", ""))[:1] == "{":
            assert declared[field.name].choices == tuple(allowed[1:-1].split(", ")), field.name
