"""The auto-encoders of MEDFE+CAE: counts, ranges, a plain second implementation, files, and what a code keeps."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inpaintlib import BadInput
from inpaintlib.methods.autoencoder import CAE, KINDS, AutoEncoder, Settings
from inpaintlib.studies import autoencoder as study
from tests.conftest import noise as photos
from tests.conftest import parameters, trainer

TEXTURE, STRUCTURE = (Settings(kind, width=4) for kind in KINDS)


class TestNetwork:
    @pytest.mark.parametrize(("kind", "encoder", "whole"), [("texture", 388_384, 776_771),
                                                            ("structure", 2_749_728, 3_138_115)])  # fmt: skip
    def test_parameter_counts_are_the_released_codes(self, kind, encoder, whole):
        with torch.device("meta"):
            network = AutoEncoder(Settings(kind))
        assert (parameters(network.encoder), parameters(network)) == (encoder, whole)

    @pytest.mark.parametrize("kind", KINDS)
    def test_code_of_256_px_is_the_blogs(self, kind):
        with torch.device("meta"):
            network, x = AutoEncoder(Settings(kind)), torch.empty(2, 3, 256, 256)
            assert network.encoder(x).shape == (2, 256, 32, 32)
            assert network(x).shape == x.shape

    def test_bottlenecks(self):
        with torch.device("meta"):
            x, sides = torch.empty(1, 3, 256, 256), {}
            for kind in KINDS:
                y, sides[kind] = x, []
                for layer in AutoEncoder(Settings(kind)).encoder:
                    y = layer(y)
                    sides[kind].append(y.shape[-1])
        assert sides == {"texture": [256, 128, 64, 32], "structure": [256, 128, 64, 32, 16, 8, 16, 32]}

    @pytest.mark.parametrize("settings", [TEXTURE, STRUCTURE])
    def test_only_the_codes_layer_is_without_norm(self, settings):
        *others, last = AutoEncoder(settings).encoder
        assert [type(layer) for layer in last][1:] == [nn.Tanh]
        assert all([type(layer) for layer in other][1:] == [nn.BatchNorm2d, nn.LeakyReLU] for other in others)

    def test_structure_code_sees_farther_than_the_texture_code(self):
        """A pixel of the texture code is made of 17 px of the photo, one of the structure code of far more."""
        reach = {}
        for settings in (TEXTURE, STRUCTURE):
            network = AutoEncoder(settings).eval()
            x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0), requires_grad=True)
            network.encoder(x)[0, :, 16, 16].sum().backward()
            reach[settings.kind] = int((x.grad[0].abs().sum(0) > 0).any(0).sum())
        assert reach["texture"] == 17
        assert reach["structure"] > 64


class PlainCAE:
    """The auto-encoder a second time: functions, a list of weights, PyTorch's own Adam and L1 loss."""

    def __init__(self, network, settings):
        self.kind = settings.kind
        self.weights = [p.detach().clone().contiguous().requires_grad_() for p in network.parameters()]
        self.settings, self.adam = settings, torch.optim.Adam(self.weights, 2e-4, (0.5, 0.999))

    def forward(self, x):
        weights = iter(self.weights)

        def norm(y):
            mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
            scale, shift = (next(weights).view(1, -1, 1, 1) for _ in range(2))
            return F.leaky_relu((y - mean) / (var + 1e-5).sqrt() * scale + shift, 0.2)

        def up(y):
            return F.conv_transpose2d(y, next(weights), stride=2, padding=1, output_padding=1)

        y = norm(F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), next(weights)))
        if self.kind == "texture":
            for _ in range(2):
                y = norm(F.conv2d(y, next(weights), stride=2, padding=1))
            code = torch.tanh(F.conv2d(y, next(weights), stride=2, padding=1))
        else:
            for _ in range(5):
                y = norm(F.conv2d(y, next(weights), stride=2, padding=1))
            code = torch.tanh(up(norm(up(y))))
        y = code
        for _ in range(3):
            y = norm(up(y))
        return torch.tanh(F.conv2d(F.pad(y, (1, 1, 1, 1), "reflect"), next(weights), next(weights)))

    def step(self, photos):
        x = photos.float() / 255 * 2 - 1
        loss = F.l1_loss(self.forward(x), x)
        self.adam.zero_grad()
        (10 * loss).backward()
        self.adam.step()
        return loss.item() / 2


class TestStep:
    @pytest.mark.parametrize("settings", [TEXTURE, STRUCTURE])
    def test_equals_the_plain_one(self, settings):
        fast = trainer(settings, seed=3)
        plain = PlainCAE(fast.network, settings)
        for step in range(4):
            x = photos(seed=step)
            assert fast.step(x, step)["l1"].item() == pytest.approx(plain.step(x), rel=1e-4), step
        for ours, theirs in zip(fast.network.parameters(), plain.weights, strict=True):
            assert (ours - theirs).abs().mean() < 2e-5  # a tenth of one step of Adam

    def test_rate_falls_linearly(self):
        s = replace(TEXTURE, lr=1.0, constant_kimg=2, decay_kimg=8)
        assert [s.rate(kimg) for kimg in (0, 2, 4, 6, 10, 12)] == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
        assert replace(s, decay_kimg=0).rate(2.1) == 0
        assert Settings().rate(1e9) == Settings().lr

    def test_at_rate_zero_nothing_moves(self):
        method = trainer(replace(TEXTURE, constant_kimg=0, decay_kimg=0.004))
        before = [p.clone() for p in method.network.parameters()]
        method.step(photos(), 5)
        assert all(torch.equal(a, b) for a, b in zip(before, method.network.parameters(), strict=True))


class TestUse:
    def test_an_untrained_file_is_refused_and_a_checkpoint_knows_how_many_photos_were_shown(self, tmp_path):
        trained, other = trainer(TEXTURE), trainer(TEXTURE)
        other.save(tmp_path / "weights.pt")
        with pytest.raises(BadInput, match=r"weights.pt: this auto-encoder was never trained, so its codes"):
            CAE.load(tmp_path / "weights.pt", "cpu")
        trained.step(photos(), 0)
        other.load_state_dict(trained.state_dict())
        assert int(other.network.shown) == 4
        assert not other.untrained

    @pytest.mark.parametrize("settings", [TEXTURE, STRUCTURE])
    def test_shapes_and_ranges(self, settings):
        method, x = trainer(settings), photos(2, 64).float() / 255
        method.step(photos(4, 64), 0)
        code = method.encode(x)
        assert code.shape == (2, 32, 8, 8)
        assert code.abs().max() <= 1
        decoded = method.decode(code * 100)
        assert decoded.shape == x.shape
        assert 0 <= decoded.min() <= decoded.max() <= 1
        assert torch.equal(method.reconstruct(x), method.decode(code))
        assert not code.requires_grad

    def test_photos_do_not_see_each_other_and_training_goes_on_as_if_nothing_was_asked(self):
        asked, silent = trainer(TEXTURE), trainer(TEXTURE)
        for method in (asked, silent):
            method.step(photos(), 0)
        x = photos(3).float() / 255
        alone = torch.cat([asked.encode(each[None]) for each in x])
        torch.testing.assert_close(asked.encode(x), alone, atol=1e-6, rtol=1e-5)
        assert asked.step(photos(), 1)["l1"].item() == silent.step(photos(), 1)["l1"].item()

    def test_networks_own_encode_is_the_trainers_once_frozen(self):
        method, x = trainer(STRUCTURE), photos(2).float() / 255
        method.step(photos(), 0)
        torch.testing.assert_close(method.network.eval().encode(x), method.encode(x))

    @pytest.mark.parametrize(
        ("settings", "shape", "words"),
        [
            (TEXTURE, (1, 3, 60, 64), "photos: 60x64 px will not do; a texture auto-encoder needs sides .* of 8 px"),
            (STRUCTURE, (1, 3, 64, 48), "photos: 64x48 px will not do; a structure auto-encoder .* multiples of 32 px"),
            (TEXTURE, (1, 1, 64, 64), r"photos: have shape \(1, 1, 64, 64\), but must be \(B, 3, H, W\)"),
            (TEXTURE, (3, 64, 64), r"photos: have shape \(3, 64, 64\)"),
        ],
    )
    def test_wrong_photos(self, settings, shape, words):
        for ask in (trainer(settings).encode, lambda x: trainer(settings).step(x.byte(), 0)):
            with pytest.raises(BadInput, match=words):
                ask(torch.zeros(shape))

    def test_wrong_code(self):
        with pytest.raises(BadInput, match=r"code: has shape \(1, 256, 8, 8\), but must be \(B, 32, h, w\)"):
            trainer(TEXTURE).decode(torch.zeros(1, 256, 8, 8))


def wave(frequency, side=32, direction=-1):
    """A cosine of that many periods along one direction, mean square 1/2."""
    line = torch.cos(2 * math.pi * frequency * torch.arange(side) / side)
    return (line if direction == -1 else line[:, None]).expand(2, 3, side, side)


class TestWhatACodeKeeps:
    @pytest.mark.parametrize("direction", [-1, -2])
    @pytest.mark.parametrize("k", [1, 5, 16])
    def test_power_of_a_wave_is_in_its_ring(self, k, direction):
        frequency, power = study.radial_power(wave(k, direction=direction))
        assert frequency[k].item() == pytest.approx(k / 32)
        assert power[k].item() == pytest.approx(1 if k == 16 else 0.5, rel=1e-5)
        assert power.sum().item() == pytest.approx(power[k].item(), rel=1e-5)

    @pytest.mark.parametrize("side", [16, 17])
    def test_powers_add_up_to_the_mean_square(self, side):
        x = torch.rand(3, 3, side, side)
        assert study.radial_power(x)[1].sum().item() == pytest.approx(x.square().mean().item(), rel=1e-5)

    def test_lost_share_of_a_low_pass(self):
        low, high = wave(2), wave(9)
        spectrum = study.residual_spectrum(low + 0.25 * high, low + high)
        assert spectrum["lost"][2].item() == pytest.approx(0, abs=1e-6)
        assert spectrum["lost"][9].item() == pytest.approx(0.75**2, rel=1e-4)
        assert spectrum["residual"].sum().item() == pytest.approx(0.75**2 / 2, rel=1e-4)

    def test_resemblance_in_closed_form(self):
        photo, structure = wave(2) / 4 + wave(9) / 8 + 0.5, wave(2) / 4 + 0.5
        same = study.resemblance(structure, photo, structure)
        assert same["correlation"].tolist() == pytest.approx([1, 1])
        assert same["correlation_removed"].tolist() == pytest.approx([1, 1])
        assert same["l1_structure"].tolist() == [0, 0]
        lossless = study.resemblance(photo, photo, structure)
        share = 1 / math.sqrt(1 + 0.25)  # of two waves of amplitudes 2 to 1
        assert lossless["correlation"].tolist() == pytest.approx([share, share], rel=1e-5)
        assert lossless["correlation_removed"].tolist() == [0, 0]
        assert lossless["l1_photo"].tolist() == [0, 0]
        other = study.resemblance(wave(9) / 8 + 0.5, photo, structure)  # keeps what RTV removes
        assert other["correlation_removed"].tolist() == pytest.approx([0, 0], abs=1e-6)

    def test_resemblance_does_not_mind_a_shift_of_colour(self):
        photo, structure = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        decoded, tint = torch.rand(2, 3, 16, 16), torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1)
        one, other = (study.resemblance(x, photo, structure) for x in (decoded, decoded + tint))
        for name in ("correlation", "correlation_removed"):
            torch.testing.assert_close(one[name], other[name])

    def test_rectangles_are_refused(self):
        with pytest.raises(BadInput, match=r"images: have shape \(1, 3, 8, 9\), but must be square"):
            study.radial_power(torch.zeros(1, 3, 8, 9))
