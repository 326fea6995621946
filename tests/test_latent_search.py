"""Latent search: the facts of its weights and losses, its optimisers against others', and what a batch may not do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import latent_search as ls
from inpaintlib.methods import poisson
from inpaintlib.methods.latent_search import LatentSearch, Settings, context_weights

SIZE, LATENT = 16, 8
QUICK = Settings(iterations=12, lr=0.05, lambda_prior=0.3)


@pytest.fixture(scope="module")
def gan(gan):
    """The small DCGAN in double precision."""
    gan = copy.deepcopy(gan)
    gan.generator.double()
    gan.discriminator.double()
    return gan


def photos(n=3, seed=0):
    return torch.rand(n, 3, SIZE, SIZE, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def networks_of(gan):
    return gan.generator.state_dict() | {f"D {key}": value for key, value in gan.discriminator.state_dict().items()}


def holes(n=3, kind="centre"):
    return masks.make(kind, n, SIZE, 0)


# Weights


def test_window_weights_of_the_centre_hole():
    """64 px, hole 32 px, window 7: a ring of 3 px, whose straight edges weigh 21, 14 and 7 of 49."""
    w = context_weights(masks.make("centre", 1, 64, 0))
    assert w.shape == (1, 1, 64, 64)
    assert (w > 0).sum() == 420
    assert w.sum().item() == pytest.approx(106.78, abs=0.005)
    torch.testing.assert_close(w[0, 0, 32, 12:17] * 49, torch.tensor([0.0, 7, 14, 21, 0]))
    assert (~masks.make("centre", 1, 64, 0)).sum() == 3072


def test_window_weights_of_halves_and_pixels():
    for side in masks.SIDES:
        w = context_weights(masks.make("half", 1, 64, 0, side=side))
        assert (w > 0).sum() == 192
        assert w.sum().item() == pytest.approx(64 * (21 + 14 + 7) / 49)
    scattered = masks.make("random_pixels", 4, 64, 0)
    w = context_weights(scattered)
    assert (w.sum() / (~scattered).sum()).item() == pytest.approx(0.784, abs=0.01)  # 0.8 · 48 / 49


@pytest.mark.parametrize("window", [3, 7, 15])
def test_window_weights_by_counting(window):
    mask = torch.cat([masks.make(kind, 1, 12, 3) for kind in ("random_pixels", "strokes", "half")])
    expected, r = np.zeros(mask.shape), window // 2
    for b in range(len(mask)):
        hole = mask[b, 0].numpy()
        for i, j in zip(*np.nonzero(~hole), strict=True):
            near = hole[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1]
            expected[b, 0, i, j] = near.sum() / near.size
    np.testing.assert_allclose(context_weights(mask, window).numpy(), expected, atol=1e-6)


def test_equalised_weights_oppose_the_prior_like_uniform_ones():
    mask = masks.make("centre", 1, 64, 0)
    uniform, window = (Settings(weights=w, equalise=True) for w in ("uniform", "window"))
    assert ls.pixel_weights(mask, window).sum().item() == pytest.approx(ls.pixel_weights(mask, uniform).sum().item())
    ratio = ls.pixel_weights(mask, uniform).sum() / ls.pixel_weights(mask, Settings()).sum()
    assert ratio.item() == pytest.approx(28.8, abs=0.05)


# Losses


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("context", ["l1", "l2"])
def test_context_loss_is_the_published_formula(context, reduction, signed):
    """Written out in the range and reduction the settings name, on photos of that range."""
    y, g, mask = photos(), photos(seed=1), holes()
    settings = Settings(weights="uniform", context=context, reduction=reduction, signed=signed)
    got = ls.context_loss(g, y, ls.pixel_weights(mask, settings).double(), context)
    if signed:
        y, g = y * 2 - 1, g * 2 - 1
    values = (~mask * (y - g)).abs() ** (1 if context == "l1" else 2)
    expected = values.sum((1, 2, 3)) if reduction == "sum" else values.mean((1, 2, 3))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_prior_losses_and_their_gradients():
    """log(1 - D) has the gradient -D by the logit, which vanishes where D is sure of a fake; -log D has D - 1."""
    logits = torch.tensor([-40.0, -2.0, 0.0, 2.0, 40.0], dtype=torch.double, requires_grad=True)
    d = torch.sigmoid(logits).detach()
    for kind, gradient, loss in (("saturating", -d, torch.log(1 - d)), ("non_saturating", d - 1, -torch.log(d))):
        value = ls.prior_loss(logits, kind)
        torch.testing.assert_close(value[1:4].detach(), loss[1:4])
        assert value.isfinite().all()
        torch.testing.assert_close(torch.autograd.grad(value.sum(), logits)[0], gradient)


@pytest.mark.parametrize("context", ["l1", "l2"])
@pytest.mark.parametrize("prior", ["saturating", "non_saturating"])
def test_gradient_of_the_objective_is_the_numerical_one(gan, context, prior):
    settings = replace(QUICK, context=context, prior=prior)
    search, y, w = LatentSearch(gan, settings), photos(2), ls.pixel_weights(holes(2), settings).double()
    z = (torch.rand(4, LATENT, dtype=torch.double) * 2 - 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: search.objective(z, y, w)["total"], z, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"context": "l2"}, {"weights": "uniform"}, {"window": 5}, {"equalise": True}, {"prior": "non_saturating"},
     {"lambda_prior": 0.1}, {"lambda_prior": 0.0}, {"reduction": "mean"}, {"signed": False}],
)  # fmt: skip
def test_every_choice_of_the_objective_changes_its_gradient(gan, change):
    y, mask = photos(1), holes(1)
    z = torch.full((1, LATENT), 0.3, dtype=torch.double, requires_grad=True)

    def gradient(settings):
        loss = LatentSearch(gan, settings).objective(z, y, ls.pixel_weights(mask, settings).double())["total"].sum()
        return torch.autograd.grad(loss, z)[0]

    base, changed = gradient(QUICK), gradient(replace(QUICK, **change))
    assert (base - changed).abs().max() > 1e-4 * base.abs().max()


# Optimisers


@pytest.mark.parametrize("optimiser", ["gd", "nesterov", "adam"])
def test_optimisers_are_the_textbook_ones(gan, optimiser):
    """A search of many rows against one row and the recursions written out, as the ports have them."""
    settings = replace(QUICK, optimiser=optimiser, clip=False, restarts=2, lr=0.02, context="l2", reduction="mean")
    search, y, mask = LatentSearch(gan, settings), photos(), holes()
    result = search.search(y, mask, records=13, path=True)
    w = ls.pixel_weights(mask, settings).double()
    b, k = 1, int(result.restart_losses[1].argmin())
    z, m, v, lr = search.latents(2)[k : k + 1], 0.0, 0.0, settings.lr
    for t in range(13):
        torch.testing.assert_close(result.path[t, b : b + 1], z)
        z = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(search.objective(z, y[b : b + 1], w[b : b + 1])["total"].sum(), z)
        with torch.no_grad():
            if optimiser == "gd":
                z = z - lr * g
            elif optimiser == "nesterov":  # as the TensorFlow ports write it
                m, before = 0.9 * m - lr * g, m
                z = z - 0.9 * before + 1.9 * m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                z = z - lr * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)


def test_lbfgs_agrees_with_torch_on_each_row():
    """Convex quadratics, a different one a row, on which no step is taken back."""
    torch.manual_seed(0)
    root = torch.randn(3, 6, 6, dtype=torch.double) * 0.3
    matrix, centre = root @ root.mT + torch.eye(6, dtype=torch.double), torch.randn(3, 6, dtype=torch.double)

    def loss(z, row):
        d = z - centre[row]
        return (
            0.5 * (d[..., None, :] @ matrix[row] @ d[..., None]).flatten() if z.ndim > 1 else 0.5 * d @ matrix[row] @ d
        )

    z = torch.zeros(3, 6, dtype=torch.double)
    ours, trace = ls.LBFGS(z, lr=1.0), []
    for _ in range(12):
        at = z.clone().requires_grad_()
        values = torch.stack([loss(at[row], row) for row in range(3)])
        trace.append(z.clone())
        ours.step(values.detach(), torch.autograd.grad(values.sum(), at)[0])
    for row in range(3):
        point = torch.zeros(6, dtype=torch.double, requires_grad=True)
        visited = []

        def closure(point=point, row=row, visited=visited):
            visited.append(point.detach().clone())
            point.grad = None
            value = loss(point, row)
            value.backward()
            return value

        torch.optim.LBFGS([point], lr=1.0, max_iter=11, history_size=10, tolerance_grad=0, tolerance_change=0).step(
            closure
        )
        torch.testing.assert_close(torch.stack(trace)[: len(visited), row], torch.stack(visited), atol=1e-8, rtol=1e-6)
        assert (trace[-1][row] - centre[row]).abs().max() < 1e-6


def test_lbfgs_takes_back_what_does_not_help():
    """The Rosenbrock valley, where full steps overshoot: accepted losses never rise, and it arrives."""

    def loss(z):
        return (1 - z[:, 0]) ** 2 + 100 * (z[:, 1] - z[:, 0] ** 2) ** 2

    z = torch.tensor([[-1.2, 1.0], [0.0, 2.0]], dtype=torch.double)
    search, accepted = ls.LBFGS(z, lr=1.0), []
    for _ in range(120):
        at = z.clone().requires_grad_()
        values = loss(at)
        search.step(values.detach(), torch.autograd.grad(values.sum(), at)[0])
        accepted.append(search.loss.clone())
    assert (torch.stack(accepted).diff(dim=0) <= 0).all()
    torch.testing.assert_close(search.accepted, torch.ones_like(z), atol=1e-4, rtol=0)


@pytest.mark.parametrize("optimiser", ["nesterov", "adam", "lbfgs"])
def test_finds_a_planted_latent(gan, optimiser):
    """Where G can make the photo, the search makes it: known pixels and hole."""
    truth = torch.tensor([[0.5, -0.4, 0.3, -0.2, 0.1, 0.6, -0.7, 0.2]], dtype=torch.double)
    lr = {"nesterov": 0.01, "adam": 0.05, "lbfgs": 1.0}[optimiser]
    settings = Settings(context="l2", weights="uniform", lambda_prior=0.0, iterations=250, restarts=4)
    search = LatentSearch(gan, replace(settings, optimiser=optimiser, lr=lr))
    y = search.generate(truth)
    result = search.search(y, holes(1))
    assert result.loss.item() < 1e-9 * result.total[0].min().item()
    torch.testing.assert_close(result.filled, y, atol=1e-5, rtol=0)


# Searching


def test_a_search_changes_no_weight_and_no_buffer(gan):
    before, modes = copy.deepcopy(networks_of(gan)), (gan.generator.training, gan.discriminator.training)
    trainable = [p.requires_grad for p in gan.generator.parameters()]
    LatentSearch(gan, replace(QUICK, restarts=2, coarse_restarts=3, coarse_iterations=2, blend=True)).inpaint(
        photos(), holes()
    )
    assert all(torch.equal(value, before[name]) for name, value in networks_of(gan).items())
    assert (gan.generator.training, gan.discriminator.training) == modes
    assert [p.requires_grad for p in gan.generator.parameters()] == trainable
    assert all(p.grad is None for p in gan.generator.parameters())


def test_folded_networks_are_the_networks_in_eval_mode(gan):
    search, z = LatentSearch(gan, QUICK), torch.rand(4, LATENT, dtype=torch.double)
    generator, discriminator = gan.generator.eval(), gan.discriminator.eval()
    x = generator(z)
    torch.testing.assert_close(search.generate(z) * 2 - 1, x.detach())
    torch.testing.assert_close(search.discriminator(x.detach()).flatten(), discriminator(x).detach())
    gan.generator.train()
    gan.discriminator.train()
    assert not [m for m in search.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("optimiser", ["gd", "nesterov", "adam", "lbfgs"])
@pytest.mark.parametrize("stop", ["none", "blog"])
def test_photos_do_not_depend_on_each_other(gan, optimiser, stop):
    """Nor on how many are searched at once: together, alone, and in another order."""
    settings = replace(
        QUICK, optimiser=optimiser, stop=stop, tolerance=0.5, restarts=2, coarse_restarts=4, coarse_iterations=3
    )
    y, mask = photos(), torch.cat([holes(2), holes(1, "half")])
    together = LatentSearch(gan, settings).search(y, mask, records=5, path=True)
    chunked = LatentSearch(gan, settings, rows=4).search(y, mask, records=5, path=True)
    order = torch.tensor([2, 0, 1])
    turned = LatentSearch(gan, settings).search(y[order], mask[order], records=5)
    for name in ("filled", "latents", "loss", "restart_losses", "coarse_losses"):
        torch.testing.assert_close(getattr(chunked, name), getattr(together, name), atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(getattr(turned, name), getattr(together, name)[order], atol=1e-7, rtol=1e-7)
    assert chunked.iterations == together.iterations == [0, 3, 6, 9, 12]
    for name in ("total", "context", "prior", "path"):
        torch.testing.assert_close(getattr(chunked, name), getattr(together, name), atol=1e-7, rtol=1e-7)


def test_the_seed_decides(gan):
    settings = replace(QUICK, restarts=2)
    first, again, other = (LatentSearch(gan, settings, seed=s).search(photos(), holes()) for s in (0, 0, 1))
    assert torch.equal(first.filled, again.filled)
    assert not torch.equal(first.filled, other.filled)


def test_more_restarts_contain_fewer_and_never_do_worse(gan):
    few, many = (LatentSearch(gan, replace(QUICK, restarts=k)).search(photos(), holes()) for k in (2, 6))
    torch.testing.assert_close(many.restart_losses[:, :2], few.restart_losses)
    assert (many.loss <= few.loss + 1e-9).all()
    assert torch.equal(many.loss, many.restart_losses.min(1).values)


def test_keeps_the_best_iterate(gan):
    """At a rate that overshoots, what is kept is the lowest loss that was ever seen, and its latents have that loss."""
    settings = replace(QUICK, lr=0.5, restarts=3, iterations=20)
    search, y, mask = LatentSearch(gan, settings), photos(), holes()
    result = search.search(y, mask, records=21)
    assert result.iterations == list(range(21))
    torch.testing.assert_close(result.restart_losses, result.total.min(0).values)
    assert (result.total[-1] > result.restart_losses).any()
    torch.testing.assert_close(result.total, result.context + result.prior)
    w = ls.pixel_weights(mask, settings).double()
    torch.testing.assert_close(search.objective(result.latents, y, w)["total"], result.loss)


def test_clipping_keeps_z_in_its_box(gan):
    wild = replace(QUICK, lr=0.5)
    inside, outside = (
        LatentSearch(gan, replace(wild, clip=c)).search(photos(), holes(), 13, True) for c in (True, False)
    )
    assert inside.path.abs().max() == 1
    assert outside.path.abs().max() > 1


def test_stopping_rules(gan):
    """The blog's norm(g, ord=1) of a 1x100 array is max |g|, a hundredth of the l1 norm at most."""
    gradient = torch.tensor([[0.5, -0.9, 0.1]], dtype=torch.double)
    assert np.linalg.norm(gradient.numpy(), ord=1) == 0.9
    for stop, norm in (("blog", 0.9), ("l1", 1.5)):
        for tolerance, expected in ((norm * 1.01, True), (norm * 0.99, False)):
            search = LatentSearch(gan, replace(QUICK, stop=stop, tolerance=tolerance))
            descent = ls._Descent(
                search, torch.zeros(1, LATENT, dtype=torch.double), photos(1), torch.ones(1, 1, 16, 16)
            )
            assert descent.settled(gradient).item() is expected


def test_rows_that_rest_stay_where_they_are(gan):
    at_once = LatentSearch(gan, replace(QUICK, stop="l1", tolerance=1e9, restarts=2))
    result = at_once.search(photos(), holes(), records=5, path=True)
    assert torch.equal(result.path[0], result.path[-1])
    assert torch.equal(result.total, result.total[:1].expand_as(result.total))
    never = LatentSearch(gan, replace(QUICK, stop="l1", tolerance=1e-12, restarts=2)).search(photos(), holes())
    plain = LatentSearch(gan, replace(QUICK, restarts=2)).search(photos(), holes())
    assert torch.equal(never.filled, plain.filled)


def test_coarse_to_fine_searches_on_from_the_best_cheap_restarts(gan):
    y, mask = photos(), holes()
    cheap = LatentSearch(gan, replace(QUICK, restarts=6, iterations=4)).search(y, mask)
    settings = replace(QUICK, restarts=2, coarse_restarts=6, coarse_iterations=4)
    result = LatentSearch(gan, settings).search(y, mask)
    torch.testing.assert_close(result.coarse_losses, cheap.restart_losses)
    torch.testing.assert_close(result.total[0], cheap.restart_losses.sort(1).values[:, :2])
    assert (result.loss < cheap.loss).all()


def test_fills_and_blends(gan):
    y, mask = photos(), torch.cat([holes(1, kind) for kind in ("centre", "half", "random_pixels")])
    pasted, blended = (LatentSearch(gan, replace(QUICK, blend=b)).search(y, mask) for b in (False, True))
    assert torch.equal(pasted.filled, torch.where(mask, pasted.generated, y))
    torch.testing.assert_close(pasted.generated, gan.generate(pasted.latents).double(), atol=1e-6, rtol=0)
    assert torch.equal(blended.generated, pasted.generated)
    assert torch.equal(blended.filled, poisson.blend(y, pasted.generated, mask))


def test_what_lies_in_the_hole_has_no_say(gan):
    y, mask = photos(), holes()
    search = LatentSearch(gan, replace(QUICK, blend=True))
    assert torch.equal(search.inpaint(torch.where(mask, torch.nan, y), mask), search.inpaint(y, mask))


def test_bf16_iterations_end_in_exact_losses(gan):
    """The search is coarser, the loss by which restarts compete is not: it is that of the best iterate, in fp32."""
    single = copy.deepcopy(gan)
    single.generator.float()
    single.discriminator.float()
    settings, y, mask = replace(QUICK, restarts=3, lr=0.5), photos().float(), holes()
    search = LatentSearch(single, settings, precision="bf16")
    result = search.search(y, mask)
    exact = search.objective(result.latents, y, ls.pixel_weights(mask, settings))["total"]
    torch.testing.assert_close(exact, result.loss, rtol=1e-5, atol=0)
    assert (result.loss <= result.total[-1].min(1).values).all()
    assert (result.loss < result.total[0].min(1).values).all()


# Bad input


def test_bad_masks_and_photos(gan):
    search, y = LatentSearch(gan, QUICK), photos(1)
    with pytest.raises(BadInput, match="all hole: leave at least one pixel known"):
        search.inpaint(y, torch.ones_like(holes(1)))
    with pytest.raises(BadInput, match="no hole"):
        context_weights(torch.zeros_like(holes(1)))
    with pytest.raises(BadInput, match=r"photos: have shape \(1, 3, 32, 32\).*\(B, 3, 16, 16\)"):
        search.inpaint(torch.rand(1, 3, 32, 32), masks.make("centre", 1, 32, 0))
    with pytest.raises(BadInput, match="known pixels that are not finite"):
        search.inpaint(torch.where(holes(1), y, torch.inf), holes(1))
    with pytest.raises(BadInput, match=r"z: has shape \(1, 9\).*\(B, 8\)"):
        search.generate(torch.zeros(1, 9))
    for window in (4, 1):
        with pytest.raises(BadInput, match=r"^window: .* odd number"):
            context_weights(holes(1), window)


@pytest.mark.parametrize("lr", [1e6, 1e300])
@pytest.mark.parametrize("optimiser", ["gd", "nesterov", "adam"])
def test_a_search_that_diverges_says_so(gan, optimiser, lr):
    search = LatentSearch(gan, replace(QUICK, optimiser=optimiser, lr=lr, clip=False))
    with pytest.raises(BadInput, match=r"^lr: at 1.* diverged .*3 photos.* lower learning rate, or clip=True"):
        search.inpaint(photos(), holes())


def test_bad_ways_of_running(gan):
    with pytest.raises(BadInput, match=r"^precision: 'fp8'"):
        LatentSearch(gan, QUICK, precision="fp8")
    with pytest.raises(BadInput, match=r"^acceleration: 'graph' needs a GPU"):
        LatentSearch(gan, QUICK, acceleration="graph")
