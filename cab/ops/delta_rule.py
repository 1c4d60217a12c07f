"""The gated delta rule in chunks: a state that fades, and rewrites what stands under a key.

With beta_t in [0, 2], a log decay of at most 0 and keys of length 1, per head,

    S_t = alpha_t S_(t-1) + k_t u_t^T,   u_t = beta_t (v_t - alpha_t S_(t-1)^T k_t),   alpha_t = exp(decay_t)

(gated DeltaNet, arXiv 2412.06464, equation 10). In a chunk after the state S_0, let g_i be the product of the alphas up
to i, and A_ij = beta_i (g_i / g_j) k_i . k_j for j < i, else 0. What its tokens write, the rows u_i of U, solves

    (I + A) U = diag(beta) V - diag(beta g) K S_0

(section 3.3): one triangular system a chunk, solved for all chunks at once with V and K on the right, before the states
are known. No exponent is above zero.
"""

import torch
from torch import Tensor

from cab.ops.gated import fade_factors
from cab.ops.precision import full_precision
from cab.ops.prefix import chunked


def delta_rule(
    q: Tensor | None, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor | None, Tensor]:
    """Return S_t^T q_t of each token (None without q), and the last S, where `state` stands before the first token.

    q and k are (batch, heads, n, dim), v is (batch, heads, n, size), beta and decay are (batch, heads, n, 1), a state
    is (batch, heads, dim, size). All are in float32 at least, and n is at least 1. A token with beta and decay of 0
    leaves the state. O(n (dim + chunk) (dim + size)) time.
    """
    n, size, chunk = v.shape[2], v.shape[3], min(chunk, v.shape[2])
    with full_precision(v.device.type):
        k, v, beta, decay = (chunked(t, chunk) for t in (k, v, beta, decay))
        fade, to_end = fade_factors(decay)  # g_i / g_j, and g_j to the end
        total = decay.cumsum(3)  # log g
        right = beta * torch.cat([v, k * total.exp()], -1)
        solved = torch.linalg.solve_triangular(beta * (k @ k.mT) * fade, right, upper=False, unitriangular=True)
        new, old = solved[..., :size], solved[..., size:]
        states, written = [state], []
        # not indexed: the backward of indexing is quadratic in the number of chunks
        parts = (t.unbind(2) for t in (new, old, (k * to_end).mT, total[:, :, :, -1:].exp()))
        for new_values, old_keys, kept_keys, rest in zip(*parts, strict=True):
            written.append(new_values - old_keys @ states[-1])
            states.append(rest * states[-1] + kept_keys @ written[-1])
        if q is None:
            return None, states[-1]
        q = chunked(q, chunk)
        out = (q * total.exp()) @ torch.stack(states[:-1], 2) + ((q @ k.mT) * fade) @ torch.stack(written, 2)
        return out.flatten(2, 3)[:, :, :n], states[-1]


def delta_rule_flops(n: int, dim: int, size: int, chunk: int, read: bool = True) -> float:
    """Count the FLOPs of `delta_rule` for one head; without `read`, those without q."""
    chunk = min(chunk, n)
    writing = 2 * chunk * chunk * dim + chunk * (chunk - 1) * (dim + size) + 4 * chunk * dim * size
    reading = 2 * chunk * (chunk * (dim + size) + dim * size) if read else 0
    return float(-(-n // chunk) * (writing + reading))
