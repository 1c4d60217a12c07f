"""The usual cause of each broken law, printed beside a failure. It may be another; the law itself is what counts."""

from typing import Any

from cab.conformance.use import NOT_FINITE

_AN_EARLIER_ROW_SAW_A_LATER_TOKEN = (
    "a mean, a norm, a softmax or a selection over the whole sequence mixes later tokens into earlier rows; in CC, "
    "row i may read the whole source, but no later query"
)
_A_MASKED_TOKEN_COUNTED = (
    "a masked token was counted: in a mean, a normaliser, a number of tokens taken from the shape, a window, or a "
    "score that was not set to -inf"
)
_SAMPLES_MIX = "a reduction, a `view` or a random draw goes over the batch"

HINTS: dict[str, str] = {
    "refuses": "a pattern of the card raises in `__init__`, or one that the card refuses does not",
    "truncation": _AN_EARLIER_ROW_SAW_A_LATER_TOKEN,
    "suffix": _AN_EARLIER_ROW_SAW_A_LATER_TOKEN,
    "gradient": _AN_EARLIER_ROW_SAW_A_LATER_TOKEN,
    "training": _AN_EARLIER_ROW_SAW_A_LATER_TOKEN,
    "streaming": "the state lacks something: the position, the part of a block that is not full yet, the normaliser",
    "ragged": "`step` counts masked tokens in its state: positions are those of the real tokens",
    "leaks": "the grade `leaky` is wrong: nothing of the future was seen",
    "use": (
        "an input of the card's `reads` or `inputs` is ignored, masks leave nothing of it, or it acts on its own token "
        "alone"
    ),
    "learning": "a `detach`, an `argmax` or a rounding cuts the gradient, or a parameter is not used",
    "rotary": "`rotates` is declared and `slot.rotary` ignored, or the other way round",
    "padding": _A_MASKED_TOKEN_COUNTED,
    "hidden": _A_MASKED_TOKEN_COUNTED,
    "mask": "without a mask another way is taken, which computes something else",
    "empty": "0/0, or a softmax over -inf alone: where no key is left, the row is zero",
    "holes": "real tokens were taken to be the first ones; on a raster any may be masked",
    "padding_training": _A_MASKED_TOKEN_COUNTED,
    "batch": _SAMPLES_MIX,
    "batch_training": _SAMPLES_MIX,
    "heads": "a reduction or a `view` goes over the heads",
    "definition": "`attend` and `reference` differ: in the scale 1/sqrt(dim), in what is masked, at ends of blocks",
    "lengths": "a block, a window or a pool is longer than the sequence, or one token has no neighbour",
    "defaults": "the defaults take a path that those of `checks` do not: a second block, a longer window",
    "grouped": "key heads belong to consecutive query heads: head h reads key head h // (heads / kv_heads)",
    "exact": "`exact` says softmax attention with the scale 1/sqrt(dim)",
    "limits": "the hyper-parameters and weights of this limit do not make it what the card says",
    "randomness": "a draw is not behind `self.training`, or is made anew in each call (draw once, in `__init__`); or "
    "something is kept on `self` from one call to the next",
    "modes": "training computes something else; where the paper wants that, exempt the law and say why",
    "saving": "something drawn in `__init__` is no buffer, so that it is not in the state",
    "untouched": "an operation in place on an input, a parameter or a buffer (`add_`, `masked_fill_`, `out=`)",
    "layout": "`view` where `reshape` is needed, or memory taken as contiguous",
    "bf16": "sums or exponents are kept in 16 bits: compute normalisers in float32",
    "autocast": "autocast casts products to 16 bits: sums and exponents belong in float32",
    "flops": "a term is missing from `flops`, or it counts what `attend` does not compute",
    "meta": "a shape depends on values (`nonzero`, a mask as an index), or a Python number is read from a tensor",
    "compile": "a branch on values or on a Python number from a tensor breaks the graph",
    "inductor": "the generated code changes an order of sums, or reads what was changed in place",
}
TASK_HINTS: dict[str, str] = {
    "items": "a draw from a global generator: use one that is seeded with the split, the seed and i",
    "splits": "the splits are drawn with the same seed, or cut from one list with an overlap",
    "collate": "a mask that is no bool, or tokens that are cut nowhere: pad and cut to `seq_len` and `source_len`",
    "trimming": "padding counts in a mean or a pooled row, or positions are counted from the end",
    "loss": "the loss is not averaged over the batch, or an empty target gives 0/0",
    "score": "a mean over the batch, or another name than in `metrics`: one value an example, or its sum and count",
    "floors": "a metric is misspelt, or a fraction is 0/0",
    "slots": "`model` asks `attention` for other patterns than the card's `slots`",
}
_NOT_FINITE = "0/0, a logarithm or root of what is not positive, or `exp` of scores whose largest was not subtracted"


def hint(failure: Any) -> str:
    """Return the usual cause of a failure, a `Verdict` or a `TaskVerdict`; empty where there is none."""
    return _NOT_FINITE if failure.reason.startswith(NOT_FINITE) else {**HINTS, **TASK_HINTS}.get(failure.law, "")
