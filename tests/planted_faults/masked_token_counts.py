"""Masked tokens are added to the count of tokens in the state."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "ragged"
ALSO = set()


class Twin(Softmax):
    """The mean of the values up to each token; the state is their sum and count."""

    patterns = {"CS": "native"}
    reads = "v"

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        real = torch.ones_like(v[:, 0, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        return self.mean(v.new_zeros(1), v.new_zeros(1), v, real)[0]

    def mean(self, total, count, v, real):
        total = total + (v * real[:, None, :, None]).cumsum(2)
        count = count + self.tokens_to_count(real)[:, None, :, None].to(v.dtype).cumsum(2)
        return total / count.clamp(min=1), total[:, :, -1:], count[:, :, -1:]

    def tokens_to_count(self, real):
        return real

    def flops(self, n, m, backend="eager"):
        return 0.0

    def init_state(self, k, v, key_mask=None):
        zero = v.new_zeros(v.shape[0], v.shape[1], 1, v.shape[3])
        return zero, zero[..., :1]

    def step(self, state, q, k=None, v=None, key_mask=None):
        real = torch.ones_like(v[:, 0, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        out, *state = self.mean(*state, v, real)
        return out, state


class Faulty(Twin):
    def tokens_to_count(self, real):
        return torch.ones_like(real)
