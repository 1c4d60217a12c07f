"""The effective attention map: how much each key contributes to each query, per head, for random q and k.

Where the output is linear in v, the map holds the weights: the output of row i for a v that is 1 at key j and 0
elsewhere. Where it is not, the map holds the norm of the Jacobian of row i with respect to token j, taken along one
random direction of the output.
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

MAX_TOKENS = 1024
_ROWS_PER_PASS = 64  # rows of the Jacobian that one backward pass computes
_ROUNDING = 1e-12  # relative to the largest entry: smaller ones are set to zero


@dataclass(frozen=True)
class AttentionMap:
    """Weights (heads, n, m); zero where a query does not see a key."""

    weights: Tensor
    linear: bool  # whether the output is linear in v; if not, the entries are norms of the Jacobian

    @property
    def visible_share(self) -> float:
        """The share of the pairs of query and key whose weight is not zero."""
        return (self.weights != 0).double().mean().item()

    @property
    def future_pairs(self) -> int:
        """The number of pairs with a weight in which the key comes after the query."""
        return int((self.weights.triu(1) != 0).sum())


def effective_map(case: Case) -> AttentionMap:
    """Build a case's mechanism and compute its map; `UsageError` where its hyper-parameters or lengths are wrong."""
    if max(case.n, case.m) > MAX_TOKENS:
        raise UsageError(
            f"a map of {case.n} queries and {case.m} keys is too large to draw: at most {MAX_TOKENS} of each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        try:
            mechanism = build_mechanism(registry.load("mechanism", case.mechanism), case.params, slot_of(case))
        except Unsupported:
            raise
        except Exception as error:
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise UsageError(f"mechanism {case.mechanism}: {message}") from error
        mechanism = mechanism.double().eval()
        inputs = RandomInputs(case.seed, torch.float64, torch.device("cpu"))
        arguments = inputs.arguments(mechanism, 1, case.n, case.m)
        weights = weights_of_values(mechanism, arguments) if "v" in mechanism.reads else None
        linear = weights is not None
        if weights is None:
            weights = _jacobian_norms(mechanism, arguments, case.n, case.m)
    return AttentionMap(weights.masked_fill(weights.abs() <= _ROUNDING * weights.abs().max(), 0.0), linear)


@torch.no_grad()
def weights_of_values(mechanism: Mechanism, arguments: dict[str, Tensor]) -> Tensor | None:
    """Return the weights (heads, n, m) of one sample, in float64, or None where the output is not linear in v.

    They are the output for v = identity. Its m columns are computed as slices of value_dim columns, a slice a sample.
    """
    v = arguments["v"]
    m, value_dim = v.shape[2:]
    slices = -(-m // value_dim)
    identity = torch.eye(slices * value_dim, dtype=v.dtype)[:m].view(m, slices, value_dim).transpose(0, 1)
    batched = {name: t.expand(slices, *t.shape[1:]) for name, t in arguments.items()}
    offset = mechanism(**{**arguments, "v": torch.zeros_like(v)})
    out = mechanism(**{**batched, "v": identity.unsqueeze(1).expand(-1, v.shape[1], -1, -1)}) - offset
    weights = out.permute(1, 2, 0, 3).flatten(2)[..., :m]
    from_weights = weights @ v[0].repeat_interleave(weights.shape[0] // v.shape[1], 0)
    output = (mechanism(**arguments) - offset)[0]
    return weights if torch.allclose(from_weights, output, rtol=1e-6, atol=1e-9) else None


def _jacobian_norms(mechanism: Mechanism, arguments: dict[str, Tensor], n: int, m: int) -> Tensor:
    """Return the norm (heads, n, m) of each row's gradient with respect to each token.

    In cross patterns the tokens are the source's. In self patterns a token is q, k, v and the inputs at its position.
    """
    slot = mechanism.slot
    axes = {name: axis for name, (axis, *_) in mechanism.inputs.items()} | {"q": "queries", "k": "keys", "v": "keys"}
    differentiated = [
        name
        for name, t in arguments.items()
        if t.is_floating_point() and (axes[name] == "keys" or not slot.pattern.cross)
    ]
    direction = torch.randn(slot.values, dtype=torch.float64)
    norms = torch.zeros(slot.heads, n, m, dtype=torch.float64)
    if not differentiated:
        return norms
    for start in range(0, n, _ROWS_PER_PASS):
        rows = torch.arange(start, min(start + _ROWS_PER_PASS, n))
        # one copy of the sample for each row, so that one backward pass gives the gradients of all of them
        batched = {name: t.repeat(len(rows), *[1] * (t.dim() - 1)) for name, t in arguments.items()}
        leaves = [batched[name].requires_grad_() for name in differentiated]
        out = mechanism(**batched)[torch.arange(len(rows)), :, rows] @ direction  # (rows, heads)
        if not out.requires_grad:
            return norms
        for head in range(slot.heads):
            gradients = torch.autograd.grad(out[:, head].sum(), leaves, retain_graph=True, allow_unused=True)
            squares = [g.square().sum(-1) for g in gradients if g is not None]
            norms[head, rows] = sum((s.sum(1) if s.dim() == 3 else s) for s in squares).sqrt()  # type: ignore[union-attr]
    return norms
