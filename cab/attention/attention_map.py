"""The effective attention map: how much of each key reaches each query, head by head, for random q and k.

Where the output is linear in v, the weight of key j in row i is what a v of ones at j alone leaves there. Elsewhere it
is the footprint of the Jacobian: how far row i moves with token j, along one random direction of the output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cab.attention.build import build_mechanism, slot_of
from cab.attention.random_inputs import RandomInputs
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported, UsageError
from cab.plugins import registry

MOST = 1024  # tokens
_ROWS = 64  # that are computed together
_NOTHING = 1e-12  # of the largest: what is less is rounding


@dataclass(frozen=True)
class AttentionMap:
    """Weights (heads, n, m), zero where a query does not see a key at all."""

    weights: Tensor
    linear: bool  # in v: else they are the Jacobian's footprint

    @property
    def visible_share(self) -> float:
        """The share of the pairs of query and key that are not zero."""
        return (self.weights != 0).double().mean().item()

    @property
    def future_pairs(self) -> int:
        """How many pairs have a key after the query."""
        return int((self.weights.triu(1) != 0).sum())


def effective_map(case: Case) -> AttentionMap:
    """Build a case's mechanism and draw what it reads; `UsageError` where its hyper-parameters or lengths are wrong."""
    if max(case.n, case.m) > MOST:
        raise UsageError(f"a map of {case.n} queries and {case.m} keys is too large to draw: at most {MOST} of each")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        try:
            mechanism = build_mechanism(registry.load("mechanism", case.mechanism), case.params, slot_of(case))
        except Unsupported:
            raise
        except Exception as error:
            what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise UsageError(f"mechanism {case.mechanism}: {what}") from error
        given = RandomInputs(case.seed, torch.float64, torch.device("cpu")).arguments(
            mechanism.double().eval(), 1, case.n, case.m
        )
        weights = _of_values(mechanism, given) if "v" in mechanism.reads else None
        linear = weights is not None
        if weights is None:
            weights = _of_jacobian(mechanism, given, case.n, case.m)
    return AttentionMap(weights.masked_fill(weights.abs() <= _NOTHING * weights.abs().max(), 0.0), linear)


@torch.no_grad()
def _of_values(mechanism: Mechanism, given: dict[str, Tensor]) -> Tensor | None:
    """Return the weights by values that are the identity, a slice of it a sample; None where v enters otherwise."""
    v = given["v"]
    m, size = v.shape[2:]
    slices = -(-m // size)
    one = torch.eye(slices * size, dtype=v.dtype)[:m].view(m, slices, size).transpose(0, 1)
    many = {name: t.expand(slices, *t.shape[1:]) for name, t in given.items()}
    still = mechanism(**{**given, "v": torch.zeros_like(v)})
    out = mechanism(**{**many, "v": one.unsqueeze(1).expand(-1, v.shape[1], -1, -1)}) - still
    weights = out.permute(1, 2, 0, 3).flatten(2)[..., :m]
    mixed = weights @ v[0].repeat_interleave(weights.shape[0] // v.shape[1], 0)
    return weights if torch.allclose(mixed, (mechanism(**given) - still)[0], rtol=1e-6, atol=1e-9) else None


def _of_jacobian(mechanism: Mechanism, given: dict[str, Tensor], n: int, m: int) -> Tensor:
    """Return how far each row moves with each token: of the source, in self patterns of the sequence."""
    slot = mechanism.slot
    axes = {name: axis for name, (axis, *_) in mechanism.inputs.items()} | {"q": "queries", "k": "keys", "v": "keys"}
    moving = [
        name for name, t in given.items() if t.is_floating_point() and (axes[name] == "keys" or not slot.pattern.cross)
    ]
    pull = torch.randn(slot.values, dtype=torch.float64)
    found = torch.zeros(slot.heads, n, m, dtype=torch.float64)
    if not moving:
        return found
    for start in range(0, n, _ROWS):
        rows = torch.arange(start, min(start + _ROWS, n))
        many = {name: t.repeat(len(rows), *[1] * (t.dim() - 1)) for name, t in given.items()}
        leaves = [many[name].requires_grad_() for name in moving]
        out = mechanism(**many)[torch.arange(len(rows)), :, rows] @ pull  # (rows, heads)
        if not out.requires_grad:
            return found
        for head in range(slot.heads):
            gradients = torch.autograd.grad(out[:, head].sum(), leaves, retain_graph=True, allow_unused=True)
            squares = [g.square().sum(-1) for g in gradients if g is not None]
            found[head, rows] = sum((s.sum(1) if s.dim() == 3 else s) for s in squares).sqrt()  # type: ignore[union-attr]
    return found
