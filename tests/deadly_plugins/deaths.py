"""A mechanism that obeys the laws at their lengths and fails from 512 tokens on, in the way that `how` says."""

import os
import signal
import subprocess
import sys
import time

import torch

from cab import Mechanism


class Deadly(Mechanism):
    """Every query reads the mean of the visible values, unless the call fails."""

    patterns = {"NS": "native"}
    reads = "v"

    def __init__(self, slot, *, how: str = "raise"):
        super().__init__(slot)
        self.how = how

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if v.shape[2] >= 512:
            self.fail(v)
        weight = torch.ones_like(v[:, 0, :, 0]) if key_mask is None else key_mask.to(v.dtype)
        mean = torch.einsum("bm,bhmd->bhd", weight, v) / weight.sum(-1).clamp(min=1)[:, None, None]
        return mean[:, :, None].expand(-1, -1, v.shape[2], -1).contiguous()

    reference = attend

    def flops(self, n, m, backend="eager"):
        return 2.0 * self.slot.heads * m * self.slot.values

    def fail(self, v):
        """Raise, exit, be killed, loop, run out of memory, write NaN, or leave a grandchild behind."""
        if v.device.type == "meta":
            return
        if self.how == "raise":
            raise RuntimeError("it went wrong")
        if self.how == "exit":
            os._exit(9)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "loop":
            while True:
                pass
        if self.how == "memory":
            torch.ones(1 << 40)
        if self.how == "poison":
            v.fill_(float("nan"))
        if self.how == "escape":  # a grandchild in a session of its own, which outlives the child
            marker = "cab-escaped-grandchild"
            subprocess.Popen(
                [sys.executable, "-c", f"import time; {marker!r}; time.sleep(600)"], start_new_session=True
            )
            time.sleep(0.1)
            os._exit(3)
