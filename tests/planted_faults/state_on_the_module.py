"""The keys of a decoding are kept on the module, so that two decodings share them; the state is one number."""

import torch

from planted_faults.state_differs import Twin as Streams

BREAKS = "streaming"
ALSO = set()


class Twin(Streams):
    pass


class Faulty(Twin):
    def init_state(self, k, v, key_mask=None):
        self.own = super().init_state(k, v, key_mask)
        return torch.zeros(k.shape[0])

    def step(self, state, q, k=None, v=None, key_mask=None):
        out, self.own = super().step(self.own, q, k, v, key_mask)
        return out, state + 1
