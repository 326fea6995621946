"""DCGAN: sizes, objective and its gradients, turns, and checkpoints that say what they are."""

from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from torch import nn

from inpaintlib import BadInput
from inpaintlib.methods import dcgan
from inpaintlib.methods.dcgan import Settings
from inpaintlib.training import generator, save_checkpoint
from tests.conftest import SMALL, noise, parameters, trainer

photos = partial(noise, 8, 16)


def small(seed=0, **settings):
    return trainer(replace(SMALL["DCGAN"], **settings), seed)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_published_parameter_counts():
    settings = Settings()
    assert parameters(dcgan.Generator(settings)) == 3_576_704
    assert parameters(dcgan.Discriminator(settings)) == 2_765_568


def test_initialisation_follows_the_paper():
    net = small(size=64, width=16).generator
    convolutions = torch.cat([m.weight.detach().flatten() for m in net.modules() if isinstance(m, nn.ConvTranspose2d)])
    scales = torch.cat([m.weight.detach() for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert convolutions.mean().abs() < 1e-4
    assert convolutions.std() == pytest.approx(0.02, rel=0.01)
    assert scales.mean() == pytest.approx(1, abs=0.01)
    assert scales.std() == pytest.approx(0.02, rel=0.3)


def test_priors():
    uniform, normal = (dcgan.draw(p, 1000, 100, generator(0)) for p in ("uniform", "normal"))
    assert uniform.min() >= -1
    assert uniform.max() <= 1
    assert uniform.var() == pytest.approx(1 / 3, rel=0.02)
    assert normal.var() == pytest.approx(1, rel=0.02)


def test_one_step_is_the_textbook_step():
    """Against plain PyTorch, written out: D on real and fake apart, then G on fresh latents with the new D."""
    ours, x = small(), photos()
    reference = small()
    g, d = reference.generator, reference.discriminator
    adams = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (g, d)]
    random, bce = generator(0, 5), nn.BCEWithLogitsLoss()
    draws = [torch.rand(8, 8, generator=random) * 2 - 1 for _ in range(2)]
    fake = g(draws[0]).detach()
    real_loss = bce(d(x.float() / 127.5 - 1), torch.ones(8))
    fake_loss = bce(d(fake), torch.zeros(8))
    adams[1].zero_grad()
    (real_loss + fake_loss).backward()
    adams[1].step()
    g_loss = bce(d(g(draws[1])), torch.ones(8))
    adams[0].zero_grad()
    g_loss.backward()
    adams[0].step()

    losses = ours.step(x, 5)
    for name, expected in (("d_real", real_loss), ("d_fake", fake_loss), ("g", g_loss)):
        torch.testing.assert_close(losses[name], expected.detach(), rtol=1e-3, atol=0)
    for network, other in ((ours.generator, g), (ours.discriminator, d)):  # the sign of a gradient near 0 is chance
        assert ((weights(network) - weights(other)).abs() < 1e-6).double().mean() > 0.95


def test_turns_of_d_and_g():
    """d_steps 3, g_steps 2: G moves at every third step only, and twice; D at every step."""
    gan, updates, given = small(d_steps=3, g_steps=2), [], []
    update_d, update_g = gan._update_d, gan._update_g
    gan._update_d = lambda **tensors: updates.append("d") or update_d(**tensors)
    gan._update_g = lambda **tensors: updates.append("g") or given.append(update_g(**tensors)) or given[-1]
    before, moved = weights(gan.generator), []
    for step in range(6):
        losses = gan.step(photos(seed=step), step)
        assert losses.keys() == {"d_real", "d_fake", "g", "g_first"}
        paid = [float(values["g"]) for values in given[-2:]] if step % 3 == 2 else [float(losses["g"])] * 2
        assert [float(losses["g_first"]), float(losses["g"])] == paid
        after = weights(gan.generator)
        moved.append(not torch.equal(before, after))
        before = after
    assert moved == [False, False, True] * 2
    assert "".join(updates) == "dddgg" * 2


def test_updates_leave_the_other_network_alone():
    gan, x = small(), photos()
    g, d = weights(gan.generator), weights(gan.discriminator)
    gan.update_d(x, torch.zeros(8, 8))
    assert torch.equal(weights(gan.generator), g)
    assert not torch.equal(weights(gan.discriminator), d)
    d = weights(gan.discriminator)
    gan.adam_d.zero_grad(set_to_none=True)
    gan.update_g(torch.randn(8, 8))
    assert all(p.grad is None for p in gan.discriminator.parameters())
    assert torch.equal(weights(gan.discriminator), d)
    assert not torch.equal(weights(gan.generator), g)


def test_generate_is_in_eval_mode_and_leaves_no_trace():
    gan = small()
    gan.step(photos(), 0)
    buffers = {name: b.clone() for name, b in gan.generator.named_buffers()}
    z = torch.rand(4, 8)
    together = gan.generate(z)
    apart = torch.cat([gan.generate(row[None]) for row in z])
    torch.testing.assert_close(together, apart)
    assert together.min() >= 0
    assert together.max() <= 1
    assert gan.generator.training
    assert all(torch.equal(b, buffers[name]) for name, b in gan.generator.named_buffers())
    assert torch.equal(gan.samples(3), gan.samples(3))


def test_a_checkpoint_of_before_that_holds_settings_is_continued():
    gan, other = small(), small(seed=1)
    gan.step(photos(), 0)
    other.load_state_dict({"kind": "dcgan", "settings": asdict(gan.settings)} | gan.state_dict())
    assert torch.equal(weights(other.generator), weights(gan.generator))


def test_a_file_with_settings_of_other_networks_is_named(tmp_path):
    gan = small()
    gan.save(tmp_path / "gan.pt")
    state = torch.load(tmp_path / "gan.pt", weights_only=True)
    state["settings"]["latent"] = 9
    save_checkpoint(tmp_path / "lies.pt", state)
    with pytest.raises(BadInput, match=r"lies\.pt: does not fit these settings"):
        dcgan.DCGAN.load(tmp_path / "lies.pt", "cpu")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "gan.pt").read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"cut\.pt: not a readable checkpoint .*; give a weights.pt of this study"):
        dcgan.DCGAN.load(tmp_path / "cut.pt", "cpu")
