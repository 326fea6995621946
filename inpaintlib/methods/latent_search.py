"""Semantic Image Inpainting with Deep Generative Models (Yeh, Chen, Lim, Schwing, Hasegawa-Johnson, Do; CVPR 2017).

No network is trained to inpaint. For a photo y with known pixels M, the latent space of a finished GAN is searched
for the z whose photo G(z) agrees with what is known and looks real to D:

    z* = argmin_z  L_c(z) + L_p(z),    L_c = ||W ⊙ (G(z) - y)||_1,    L_p = λ log(1 - D(G(z))).

The hole is then filled from G(z*), pasted or Poisson-blended. Version 1 of the paper weights the known pixels equally
(W = M), version 2 by how much hole their window holds. Ports differ in nearly every choice, and λ means nothing without
the reduction of L_c and the range of the photos: :class:`Settings` has a field for each.

All photos and all their restarts are searched at once, as rows of one batch. Rows never mix (G and D in eval mode, the
optimisers elementwise or row-wise), and every photo is searched from the same latents, drawn from the seed: so a
photo's result does not depend on the others, the restarts of K = 4 are the first four of K = 16, and arms are paired.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inpaintlib import BadInput
from inpaintlib.data import masks
from inpaintlib.methods import poisson
from inpaintlib.methods.dcgan import DCGAN, check_latent, draw
from inpaintlib.settings import Checked, number, one_of
from inpaintlib.training import Trainer, generator


@dataclass(frozen=True)
class Settings(Checked):
    """Every choice of one search; the defaults are Yeh 2017's, the learning rate (which they do not give) bamos's."""

    context: str = one_of("l1", ("l2",))  # context loss: l1 (Yeh 2017), or l2 (the IFT6266 blog)
    weights: str = one_of("window", ("uniform",))  # of known pixels: window (Yeh 2017), or uniform (Yeh 2016)
    window: int = number(7, least=3, unit="px, odd")  # px, odd
    equalise: bool = False  # scale window weights to the sum of uniform ones
    prior: str = one_of("saturating", ("non_saturating",))  # prior loss: log(1 - D) (Yeh 2017), or -log D (ports)
    lambda_prior: float = number(0.003)  # weight of the prior loss; it depends on the next two
    reduction: str = one_of("sum", ("mean",))  # of the context loss over a photo's values; the IFT6266 blog has mean
    signed: bool = True  # the loss compares photos in -1 to 1; the IFT6266 blog in 0 to 1
    optimiser: str = one_of("adam", ("gd", "nesterov", "lbfgs"))  # what moves z
    lr: float = number(0.01, above=0)  # learning rate; lbfgs: length of its first step
    momentum: float = number(0.9, below=1)  # of nesterov
    iterations: int = number(1500)  # steps, a gradient each; Yeh 2017 has 1500
    clip: bool = True  # keep z in -1 to 1
    stop: str = one_of("none", ("blog", "l1"))  # a restart rests once its gradient is small: max |g|, or sum |g|
    tolerance: float = number(1e-4, above=0)  # of the stopping rule
    restarts: int = number(1, least=1)  # latents a photo; 1, 4, 16, ... of them are measured too
    coarse_restarts: int = number(0)  # cheap restarts, of which the best are searched on; 0 for none
    coarse_iterations: int = number(50)  # of the cheap restarts; 0 ranks them as drawn
    blend: bool = False  # measure the Poisson-blended fill beside the pasted one

    def __post_init__(self):
        super().__post_init__()
        self.require("window", self.window % 2 == 1, "an odd number of at least 3 px")
        enough = self.coarse_restarts == 0 or self.coarse_restarts >= self.restarts
        self.require("coarse_restarts", enough, f"0 or at least restarts ({self.restarts})")


# Objective


def context_weights(mask: Tensor, window: int = 7) -> Tensor:
    """W of version 2, section 3.2: the fraction of hole in each known pixel's window.

    ``W_i = Σ_{j in N(i)} (1 - M_j) / |N(i)|`` where i is known, 0 in the hole. N(i) is the window centred on i, itself
    included; neighbours outside the image are not in it, so |N(i)| is 49 inside and 16 in a corner.

    Args:
        mask: bool (B,1,H,W), True = hole. ``window``: side in px, odd.

    Returns float (B,1,H,W) in [0,1). Raises BadInput for a mask without hole or known pixel, or an even window.
    """
    if window < 3 or window % 2 == 0:
        raise BadInput(f"window: {window!r} will not do; it must be an odd number of at least 3 px")
    masks.check(mask, mask)
    hole = mask.float()
    fraction = F.avg_pool2d(hole, window, stride=1, padding=window // 2, count_include_pad=False)
    return fraction * (1 - hole)


def pixel_weights(mask: Tensor, settings: Settings) -> Tensor:
    """W (B,1,H,W) as the settings have it, times what reduction and range make of one value of L_c.

    With r = 2 for signed photos, else 1, that is r (l1) or r² (l2), over 3·H·W where the reduction is a mean: L_c is
    then the plain sum of W |G(z) - y| or W (G(z) - y)² over photos in [0, 1].
    """
    masks.check(mask, mask)
    known = (~mask).float()
    w = known if settings.weights == "uniform" else context_weights(mask, settings.window)
    if settings.equalise:
        w = w * (known.sum((1, 2, 3), keepdim=True) / w.sum((1, 2, 3), keepdim=True))
    return w * value_scale(settings, 3 * mask[0].numel())


def value_scale(settings: Settings, values: int) -> float:
    """What one |difference| (l1) or squared difference (l2) of photos in [0, 1] counts in L_c over so many values."""
    scale = (2.0 if settings.signed else 1.0) ** (2 if settings.context == "l2" else 1)
    return scale / values if settings.reduction == "mean" else scale


def context_loss(generated: Tensor, photos: Tensor, weights: Tensor, kind: str = "l1") -> Tensor:
    """L_c of photos in [0,1], summed over each: generated (...,3,H,W), weights (...,1,H,W) -> (...)."""
    difference = generated - photos
    return (weights * (difference.square() if kind == "l2" else difference.abs())).sum((-3, -2, -1))


def prior_loss(logits: Tensor, kind: str = "saturating") -> Tensor:
    """L_p / λ from D's logits, elementwise: log(1 - D), or -log D.

    Their gradients by the logit are -D and -(1 - D): the saturating form does not push where D is sure of a fake.
    """
    return -F.softplus(logits) if kind == "saturating" else F.softplus(-logits)


# Optimisers, each row for itself


class LBFGS:
    """L-BFGS on each row of ``z`` (N,L): two-loop recursion over the last 10 steps, backtracking to Armijo.

    A step is kept if the loss fell by 1e-4 of what the gradient promised; else it is taken back and halved, which costs
    an evaluation as well. The first step is ``lr · min(1, 1/|g|_1)`` long, later ones start at 1.
    """

    def __init__(self, z: Tensor, lr: float):
        (n, size), memory = z.shape, 10
        self.z, self.lr = z, lr
        self.accepted, self.loss = z.clone(), z.new_full((n,), torch.inf)
        self.gradient, self.direction = torch.zeros_like(z), torch.zeros_like(z)
        self.length, self.scale = z.new_zeros(n), z.new_ones(n)
        self.steps, self.changes = z.new_zeros(n, memory, size), z.new_zeros(n, memory, size)
        self.rho = z.new_zeros(n, memory)  # 1 / (step · change), 0 where the memory is empty

    def step(self, loss: Tensor, gradient: Tensor) -> None:
        """Moves ``z``, given the loss (N,) and gradient (N,L) where it stands."""
        first = self.loss.isinf()
        moved = self.z - self.accepted  # what clipping left of the step
        good = first | (loss <= self.loss + 1e-4 * (self.gradient * moved).sum(1))
        change = gradient - self.gradient
        curvature = (moved * change).sum(1)
        learn = good & ~first & (curvature > 1e-10)
        self._remember(learn, moved, change, curvature)
        self.scale.copy_(torch.where(learn, curvature / change.square().sum(1).clamp_min(1e-30), self.scale))
        for old, new in ((self.accepted, self.z), (self.gradient, gradient)):
            old.copy_(torch.where(good[:, None], new, old))
        self.loss.copy_(torch.where(good, loss, self.loss))
        self.direction.copy_(torch.where(good[:, None], -self._two_loops(gradient), self.direction))
        fresh = self.lr * (1 / gradient.abs().sum(1).clamp_min(1e-30)).clamp_max(1)
        length = torch.where(self.rho.any(1), torch.ones_like(fresh), fresh)
        self.length.copy_(torch.where(good, length, self.length / 2))
        self.z.copy_(self.accepted + self.length[:, None] * self.direction)

    def _remember(self, rows: Tensor, step: Tensor, change: Tensor, curvature: Tensor) -> None:
        newest = (step, change, torch.where(rows, 1 / curvature, 0))
        for memory, new in zip((self.steps, self.changes, self.rho), newest, strict=True):
            shifted = torch.cat([memory[:, 1:], new[:, None]], 1)
            memory.copy_(torch.where(rows.view(-1, *[1] * (memory.ndim - 1)), shifted, memory))

    def _two_loops(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian's estimate times the gradient."""
        q, alphas = gradient.clone(), []
        for i in reversed(range(self.rho.shape[1])):
            alphas.append(self.rho[:, i] * (self.steps[:, i] * q).sum(1))
            q -= alphas[-1][:, None] * self.changes[:, i]
        q *= self.scale[:, None]
        for i, alpha in enumerate(reversed(alphas)):
            beta = self.rho[:, i] * (self.changes[:, i] * q).sum(1)
            q += (alpha - beta)[:, None] * self.steps[:, i]
        return q


class Elementwise:
    """One of torch's optimisers that treat each number for itself: gd, nesterov or adam."""

    def __init__(self, z: Tensor, settings: Settings):
        self.z = z
        z.grad = torch.zeros_like(z)
        if settings.optimiser == "adam":
            self.optimiser = torch.optim.Adam([z], lr=settings.lr, fused=True, capturable=z.is_cuda)
        else:
            momentum = settings.momentum if settings.optimiser == "nesterov" else 0.0
            self.optimiser = torch.optim.SGD([z], lr=settings.lr, momentum=momentum, nesterov=momentum > 0)

    def step(self, loss: Tensor, gradient: Tensor) -> None:
        self.z.grad.copy_(gradient)
        self.optimiser.step()


# Search


class Search(NamedTuple):
    """What a search of B photos with K restarts of L numbers found; T is the number of iterations recorded."""

    filled: Tensor  # (B,3,S,S) in [0,1], known pixels untouched
    generated: Tensor  # (B,3,S,S) in [0,1], G(z*) whole
    latents: Tensor  # (B,L), z* of the best restart
    loss: Tensor  # (B,), its total loss
    restart_losses: Tensor  # (B,K), the best total loss of each restart
    restart_latents: Tensor  # (B,K,L), where each restart had it
    iterations: list[int]  # T
    total: Tensor  # (T,B,K), losses as they went, not yet the best so far
    context: Tensor  # (T,B,K), L_c
    prior: Tensor  # (T,B,K), L_p, λ included
    path: Tensor | None  # (T,B,L), the best restart's latents as they went, for a film
    coarse_losses: Tensor | None  # (B, coarse_restarts), the best total loss of each cheap restart


class LatentSearch(Trainer):
    """An Inpainter that searches the latent space of a trained GAN (:meth:`inpaint`, or :meth:`search` for all of it).

    It works on copies of G and D, in eval mode, frozen, batch norm folded into the convolutions: ``gan`` is only read.

    Args:
        gan: a trained DCGAN. ``settings``: the choices. ``seed``: of the restarts.
        rows: latents searched at once, photos times restarts (memory: some 3 MB each at 64 px and width 64).
        precision: of the iterations, ``auto`` (bf16 on a GPU, and on a CPU that computes it natively), ``bf16`` or
            ``fp32``; losses that decide between restarts, and fills, are fp32.
        acceleration: ``auto`` (``graph`` on a GPU), ``eager`` or ``graph`` (an iteration as one CUDA graph).
    """

    def __init__(self, gan: DCGAN, settings: Settings, seed: int = 0, rows: int = 4096, precision: str = "auto",
                 acceleration: str = "auto"):  # fmt: skip
        self.gan, self.settings, self.seed, self.rows = gan, settings, seed, rows
        if acceleration == "compile":
            raise BadInput("acceleration: 'compile' will not do; it must be auto, eager or, on a GPU, graph")
        self.set_device(gan.device, precision, acceleration)
        self.generator, self.discriminator = (folded(net.layers) for net in (gan.generator, gan.discriminator))
        self.dtype = next(self.generator.parameters()).dtype

    def generate(self, z: Tensor) -> Tensor:
        """Latents (N,L) -> photos (N,3,S,S) in [0,1]. BadInput for another latent size."""
        check_latent(z, self.gan.settings)
        return (self.generator(z[:, :, None, None]) + 1) / 2

    def objective(self, z: Tensor, photos: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Losses (B*K,) of latents (B*K,L), K in a row for each of photos (B,3,S,S); weights (B,1,S,S) as above."""
        s, (b, channels, height, width) = self.settings, photos.shape
        generated = self.generate(z)
        candidates = generated.to(photos.dtype).view(b, -1, channels, height, width)
        context = context_loss(candidates, photos[:, None], weights[:, None], s.context)
        context, prior = context.flatten(), torch.zeros_like(context.flatten())
        if s.lambda_prior:
            logits = self.discriminator(generated * 2 - 1).flatten().to(photos.dtype)
            prior = s.lambda_prior * prior_loss(logits, s.prior)
        return {"context": context, "prior": prior, "total": context + prior}

    def latents(self, restarts: int) -> Tensor:
        """Where each photo's K restarts begin (K,L), drawn from the GAN's prior; the k-th from (seed, k) alone."""
        g = self.gan.settings
        drawn = [draw(g.prior, 1, g.latent, generator(self.seed, k)) for k in range(restarts)]
        return torch.cat(drawn).to(self.device, self.dtype)

    def inpaint(self, photos: Tensor, mask: Tensor) -> Tensor:
        """An Inpainter: photos (B,3,S,S) in [0,1], mask (B,1,S,S) True = hole -> the completed photos."""
        return self.search(photos, mask).filled

    @torch.no_grad()
    def search(self, photos: Tensor, mask: Tensor, records: int = 50, path: bool = False) -> Search:
        """Searches all photos; losses are recorded at about ``records`` iterations, latents too if ``path``.

        Raises:
            BadInput: photos of another size than the GAN's, a mask without hole or known pixel, a search that diverges.
        """
        masks.check(mask, photos)
        size = self.gan.settings.size
        if photos.shape[1:] != (3, size, size):
            raise BadInput(f"photos: have shape {tuple(photos.shape)}, but this GAN was trained for (B, 3, {size}, "
                           f"{size}); resize them, or train one of their size")  # fmt: skip
        if not torch.where(mask, 0, photos).isfinite().all():
            raise BadInput("photos: have known pixels that are not finite; give numbers from 0 to 1")
        several = max(1, self.rows // max(self.settings.restarts, self.settings.coarse_restarts))
        parts = [
            self._search(*(t.to(self.device) for t in part), records, path)
            for part in zip(photos.split(several), mask.split(several), strict=True)
        ]
        return _join(parts)

    def _search(self, photos: Tensor, mask: Tensor, records: int, path: bool) -> Search:
        s, b, coarse = self.settings, len(photos), None
        y, w = photos.to(self.dtype), pixel_weights(mask, s).to(self.dtype)
        y = torch.where(mask, 0.5, y)  # what lies in the hole has no say, be it NaN
        z = self.latents(s.coarse_restarts or s.restarts).repeat(b, 1)
        if s.coarse_restarts:
            cheap = _Descent(self, z, y, w)
            cheap.run(s.coarse_iterations, records=2)
            coarse = cheap.best_loss.view(b, -1)
            best = coarse.topk(s.restarts, largest=False).indices
            z = cheap.best.view(b, s.coarse_restarts, -1)[torch.arange(b, device=z.device)[:, None], best].flatten(0, 1)
        descent = _Descent(self, z, y, w, path)
        descent.run(s.iterations, records)
        (cheap if s.coarse_restarts and s.coarse_iterations >= 10 else descent).check()
        losses = descent.best_loss.view(b, -1)
        loss, k = losses.min(1)
        row = torch.arange(b, device=z.device) * s.restarts + k
        found = descent.best[row]
        generated = self.generate(found).to(photos.dtype).clamp(0, 1)
        filled = poisson.blend(photos, generated, mask) if s.blend else torch.where(mask, generated, photos)
        curves = {name: torch.stack([kept[name] for kept in descent.kept]).view(-1, b, s.restarts)
                  for name in ("total", "context", "prior")}  # fmt: skip
        film = torch.stack([kept["z"][row] for kept in descent.kept]) if path else None
        each = losses, descent.best.view(b, s.restarts, -1)
        return Search(filled, generated, found, loss, *each, descent.at, **curves, path=film, coarse_losses=coarse)


class _Descent:
    """Rows of latents going downhill: where they are, where each was best, which ones rest."""

    def __init__(self, owner: LatentSearch, z: Tensor, photos: Tensor, weights: Tensor, path: bool = False):
        self.settings, self.owner, self.path = owner.settings, owner, path
        self.photos, self.objective = len(photos), lambda z: owner.objective(z, photos, weights)
        self.z = (z.clamp(-1, 1) if self.settings.clip else z.clone()).requires_grad_()
        self.best, self.best_loss = self.z.detach().clone(), z.new_full((len(z),), torch.inf)
        self.active = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
        s = self.settings
        self.optimiser = LBFGS(self.z.detach(), s.lr) if s.optimiser == "lbfgs" else Elementwise(self.z, s)

    def run(self, iterations: int, records: int) -> None:
        """So many iterations, then one evaluation.

        ``at`` and ``kept`` then hold the recorded iterations and what was there; rows that rest repeat themselves.
        """
        self.at = sorted({round(i * iterations / max(1, records - 1)) for i in range(records)} | {0, iterations})
        self.kept, due = [], set(self.at)
        iterate = self.owner.as_cuda_graph(self.iterate)
        for done in range(iterations):
            if done not in due:
                iterate()
                continue
            if self.settings.stop != "none" and not self.active.any():
                break
            z = self.z.detach().clone() if self.path else self.z.new_empty(0)
            self.kept.append({name: loss.clone() for name, loss in iterate().items()} | {"z": z})
        last = self.objective(self.z.detach())
        if self.owner.bf16:
            self.best_loss.copy_(self.objective(self.best)["total"])
        self._remember(last["total"])
        self.kept += [last | {"z": self.z.detach()}] * (len(self.at) - len(self.kept))

    def iterate(self) -> dict[str, Tensor]:
        """One iteration as device work alone; returns the losses (N,) where it began."""
        with torch.enable_grad(), self.owner.autocast():
            losses = self.objective(self.z)
            (gradient,) = torch.autograd.grad(losses["total"].sum(), self.z)
        losses = {name: loss.detach() for name, loss in losses.items()}
        with torch.no_grad():
            self._remember(losses["total"])
            self.active &= ~self.settled(gradient)
            before = self.z.detach().clone()
            self.optimiser.step(losses["total"], gradient)
            after = self.z.clamp(-1, 1) if self.settings.clip else self.z
            self.z.copy_(torch.where(self.active, after, before))
        return losses

    def _remember(self, loss: Tensor) -> None:
        better = loss < self.best_loss
        self.best_loss.copy_(torch.where(better, loss, self.best_loss))
        self.best.copy_(torch.where(better[:, None], self.z, self.best))

    def settled(self, gradient: Tensor) -> Tensor:
        """(N,1): whose gradient is as small as the stopping rule asks.

        The IFT6266 blog's ``norm(g, ord=1)`` of a 1x100 array is a matrix norm, the largest column sum: max_j |g_j|.
        """
        if self.settings.stop == "none":
            return torch.zeros_like(self.active)
        size = gradient.abs()
        norm = size.amax(1, keepdim=True) if self.settings.stop == "blog" else size.sum(1, keepdim=True)
        return norm < self.settings.tolerance

    def check(self) -> None:
        """BadInput where, in 10 iterations or more, every restart of a photo only rose, or ended in no number."""
        first, last, iterations = self.kept[0]["total"], self.kept[-1]["total"], self.at[-1]
        lost = ~last.isfinite() | ((last > first) & (self.best_loss >= first))
        lost = int(lost.view(self.photos, -1).all(1).sum()) if iterations >= 10 else 0
        if lost:
            raise BadInput(f"lr: at {self.settings.lr!r} the search diverged (no loss of {lost} photos fell in "
                           f"{iterations} iterations); choose a lower learning rate, or clip=True")  # fmt: skip


def folded(layers: nn.Sequential) -> nn.Sequential:
    """A frozen copy in eval mode with each batch norm folded into the convolution before it: the same function."""
    kept = []
    for layer in copy.deepcopy(layers).eval():
        if isinstance(layer, nn.BatchNorm2d):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer, transpose=isinstance(kept[-1], nn.ConvTranspose2d))
        else:
            kept.append(layer)
    return nn.Sequential(*kept).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _join(parts: list[Search]) -> Search:
    """Searches of some photos each as one search of all; the photos are the second axis of what has iterations."""

    def join(name: str, values: tuple):
        if not isinstance(values[0], Tensor):
            return values[0]
        return torch.cat(values, dim=1 if name in ("total", "context", "prior", "path") else 0)

    return Search(*map(join, Search._fields, zip(*parts, strict=True)))
