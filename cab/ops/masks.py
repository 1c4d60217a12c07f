"""Rules by which query i sees key j: a catalogue of masks, each from positions, ids and the head alone.

A rule takes `Pairs` and the hyper-parameters of its mechanism. It returns a boolean tensor that broadcasts to
(batch, heads, queries, keys), or, where pairs are seen in part, the numbers from 0 to 1 that multiply e^score.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

IMAGE, QUESTION = 1, 2  # of the input `modality`
ROWS = 1024  # of a user's mask that are asked for at once


@dataclass(frozen=True)
class Pairs:
    """Queries and keys, in shapes that broadcast to (batch, heads, queries, keys)."""

    i: Tensor  # place of each query among the keys, (batch or 1, 1, queries, 1)
    j: Tensor  # position of each key, (keys,)
    own: Mapping[str, Tensor]  # ids of the queries, (batch, 1, queries, 1)
    other: Mapping[str, Tensor]  # ids of the keys, (batch, 1, 1, keys)
    real: Tensor | None  # which keys there are, (batch, 1, 1, keys); None: all
    heads: int
    cross: bool  # the queries are of another sequence
    dtype: torch.dtype = torch.float32  # of numbers between 0 and 1

    def last_heads(self, share: float) -> Tensor:
        """Return which heads the last `share` of them are, (heads, 1, 1)."""
        head = torch.arange(self.heads, device=self.j.device)
        return (head >= self.heads - round(share * self.heads))[:, None, None]


class Sizes(Protocol):
    """The hyper-parameters of a mechanism that has these rules."""

    window: int
    sinks: int
    shift: float
    growths: Sequence[float]
    frame_size: int
    frames: int
    every: int
    soft: float


Rule = Callable[[Pairs, Any], Tensor]


def window(p: Pairs, of: Sizes) -> Tensor:
    """See what is near, and the first keys (StreamingLLM, arXiv 2309.17453)."""
    return ((p.i - p.j).abs() <= of.window) | (p.j < of.sinks)


def spans(p: Pairs, of: Sizes) -> Tensor:
    """See a span that grows along the sequence at the head's own rate, and the first keys (MoA, arXiv 2406.14909)."""
    rates = torch.tensor([of.growths[head % len(of.growths)] for head in range(p.heads)], device=p.j.device)
    span = of.window + rates[:, None, None] * (p.i + 1 - of.window).clamp(min=0)
    return ((p.i - p.j).abs() < span) | (p.j < of.sinks)


def shifted(p: Pairs, of: Sizes) -> Tensor:
    """See the query's block of `window` keys; a share of the heads has blocks that lie half a block further on.

    S2-Attn (LongLoRA, arXiv 2309.12307): half of the heads, no sinks. SF-Attn (SinkLoRA, arXiv 2406.05678): a quarter,
    and the first `sinks` tokens see, and are seen by, all. Neither joins the two ends of the sequence.
    """
    half = of.window // 2
    offset = half * p.last_heads(of.shift)
    same = (p.i + offset) // of.window == (p.j + offset) // of.window
    return same | (p.j < of.sinks) | (p.i < (0 if p.cross else of.sinks))


def tile(p: Pairs, of: Sizes) -> Tensor:
    """See the query's frame of `frame_size` tokens, and the frames of reference, which see all (arXiv 2502.06155)."""
    own, other = p.i // of.frame_size, p.j // of.frame_size
    return (own == other) | (other % of.every == 0) | (own % of.every == 0)


def frames_channels(p: Pairs, of: Sizes) -> Tensor:
    """See the frames of `frame_size` channels that are at most `frames` away (MFCCA, arXiv 2210.05265)."""
    return (p.i // of.frame_size - p.j // of.frame_size).abs() <= of.frames


def soft_causal(p: Pairs, of: Sizes) -> Tensor:
    """See the past, and of what follows a share `soft` (iLLaMA, arXiv 2404.06773)."""
    if not of.soft:
        return p.j <= p.i
    whole, part = (torch.full((), share, dtype=p.dtype, device=p.j.device) for share in (1.0, of.soft))
    return torch.where(p.j <= p.i, whole, part)


def groups(p: Pairs, of: Sizes) -> Tensor:
    """See the members of the query's group (DSTA, arXiv 2403.19926)."""
    return p.own["group"] == p.other["group"]


def space(p: Pairs, of: Sizes) -> Tensor:
    """See the query's frame: attention along the axes of space."""
    return p.own["frame"] == p.other["frame"]


def tubes(p: Pairs, of: Sizes) -> Tensor:
    """See the query's cell in all frames: along time, or, with cells of several places, SAMWISE's tubes."""
    return p.own["cell"] == p.other["cell"]


def frame_causal(p: Pairs, of: Sizes) -> Tensor:
    """See the past, and all of the query's frame (TC-LLaVA, arXiv 2409.03206).

    Its frames are of images: a token of a text has a frame of its own.
    """
    return (p.j <= p.i) | (p.own["frame"] == p.other["frame"])


def modality_mutual(p: Pairs, of: Sizes) -> Tensor:
    """See the past, and from an image the question about it (AKI, arXiv 2503.02597)."""
    return (p.j <= p.i) | ((p.own["modality"] == IMAGE) & (p.other["modality"] == QUESTION))


def subject(p: Pairs, of: Sizes) -> Tensor:
    """See the query's frame, and the subject's tokens in all frames (Ouroboros-Diffusion, arXiv 2501.09019)."""
    return (p.own["frame"] == p.other["frame"]) | (p.other["subject"] > 0)


def selection(p: Pairs, of: Sizes) -> Tensor:
    """See every `every`-th token of each component, its first one among them; the others see nothing (ShowUI).

    (arXiv 2411.17465.) Which token of its component a token is depends on those before it alone.
    """
    ids = p.other["component"]
    before = (ids.mT == ids) & (p.j[:, None] < p.j)  # k before j, of one component
    if p.real is not None:
        before = before & p.real.mT
    kept = before.sum(-2, keepdim=True) % of.every == 0  # (batch, 1, 1, keys)
    if p.cross:
        return kept
    reads = ((p.i == p.j) & kept).any(-1, keepdim=True)
    return kept & reads


EVERYWHERE = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
OURS = dict.fromkeys(EVERYWHERE, "extension")  # of what the paper leaves undefined
OF_DECODERS = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
# the rule, what it knows of tokens, and its grade in the patterns that have it
CATALOGUE: dict[str, tuple[Rule, tuple[str, ...], dict[str, str]]] = {
    "window": (window, (), OF_DECODERS),
    "spans": (spans, (), OF_DECODERS),
    "shifted": (shifted, (), OF_DECODERS),
    "tile": (tile, (), OURS),
    "frames_channels": (frames_channels, (), EVERYWHERE),
    "soft_causal": (soft_causal, (), {"NS": "extension", "CS": "leaky"}),
    "groups": (groups, ("group",), EVERYWHERE),
    "space": (space, ("frame",), EVERYWHERE),
    "tubes": (tubes, ("cell",), EVERYWHERE),
    "frame_causal": (frame_causal, ("frame",), {"NS": "extension", "CS": "leaky"}),
    "modality_mutual": (modality_mutual, ("modality",), {"NS": "native", "CS": "leaky"}),
    "subject": (subject, ("frame", "subject"), OURS),
    "selection": (selection, ("component",), EVERYWHERE),
}


def users_rule(text: str, queries: int, keys: int) -> tuple[Rule, bool]:
    """Return the rule of `./file.py:name`, and whether it shows a query a later key.

    The file's function takes positions of queries (queries, 1) and of keys (keys,) and returns a boolean tensor that
    broadcasts to (queries, keys). It is asked for all pairs at once, ROWS queries at a time. `ValueError` says in a
    sentence what is wrong with the file, the name, or what the function returns.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"mask={text}: there is no file {path.absolute()}")
    spec = importlib.util.spec_from_file_location(f"cab_mask_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"mask={text}: {path} does not import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"mask={text}: {path} has no function {name}")
    j, ahead = torch.arange(keys, device="cpu"), False
    for start in range(0, queries, ROWS):
        i = torch.arange(start, min(start + ROWS, queries), device="cpu")[:, None]
        shown = _asked(function, i, j, text)
        ahead = ahead or bool((shown & (j > i)).any())
    return lambda p, of: function(p.i, p.j), ahead


def _asked(function: Callable[[Tensor, Tensor], Any], i: Tensor, j: Tensor, text: str) -> Tensor:
    try:
        shown = function(i, j)
    except Exception as error:
        raise ValueError(f"mask={text} raised {type(error).__name__}: {error}") from error
    if not isinstance(shown, Tensor) or shown.dtype is not torch.bool:
        what = shown.dtype if isinstance(shown, Tensor) else type(shown).__name__
        raise ValueError(f"mask={text} returned {what}: a boolean tensor is needed")
    try:
        return shown.expand(len(i), len(j))
    except RuntimeError:
        shape = tuple(shown.shape)
        raise ValueError(
            f"mask={text} returned the shape {shape}, which does not broadcast to ({len(i)}, {len(j)})"
        ) from None
