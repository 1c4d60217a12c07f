"""Said to be softmax without decay, and always decays a little."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "limits"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    limits = ({"params": {"decay": 0.0}, "equals": "softmax"},)
    least = 0.0

    def __init__(self, slot, *, decay: float = 0.1):
        super().__init__(slot)
        self.decay = decay

    def weights(self, q, k, key_mask):
        places = torch.arange(k.shape[2], dtype=q.dtype, device=q.device)
        away = (places[:, None] - places[None, :]).abs()
        return super().weights(q, k, key_mask) * (-max(self.decay, self.least) * away).exp()


class Faulty(Twin):
    least = 0.01
