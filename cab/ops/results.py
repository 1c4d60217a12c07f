"""What a function of autograd hands out."""

from torch import Tensor


def handed_out(t: Tensor) -> Tensor:
    """Return t, which `forward` changed in place, as a view: before PyTorch 2.13 compiled code loses its gradient."""
    return t.view_as(t)
