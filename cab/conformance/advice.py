"""What to do about an exception that a first mechanism often raises under the laws."""

import re

from cab.contracts.slot import Slot

_ATTEND = re.compile(r"attend\w*\(\) (takes \d+ positional|got an unexpected keyword argument '(key|query)_mask')")
_NO_SUPER = re.compile(
    r"before Module\.__init__\(\)"
    r"|Mechanism\.__init__\(\) missing 1 required positional argument: 'slot'"
    r"|object has no attribute '(slot|grade|backend|_parameters|_buffers|_modules|training)'"
)


def advice(error: Exception, slot: Slot | None) -> str:
    """Return what to do about the error of a mechanism that was built for `slot`; empty where only the author knows."""
    text = str(error)
    if isinstance(error, TypeError) and _ATTEND.search(text):
        return "key_mask and query_mask are arguments of attend: attend(self, q, k, v, key_mask=None, query_mask=None)"
    if isinstance(error, AttributeError | TypeError) and _NO_SUPER.search(text):
        return "call super().__init__(slot) first in the constructor"
    of_sizes = isinstance(error, RuntimeError | ValueError | IndexError)
    if (
        of_sizes
        and slot is not None
        and slot.dim != slot.values
        and {str(slot.dim), str(slot.values)} <= _numbers(text)
    ):
        return (
            f"values may have another width than keys (here dim={slot.dim}, value_dim={slot.values}): take it from "
            "v.shape[-1], or raise cab.Unsupported in the constructor where slot.values != slot.dim"
        )
    return ""


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+", text))
