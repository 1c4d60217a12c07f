"""Training throughput of lra_text at scale=small: ours beside transformers' models, and bucketed beside padded batches.

    .venv-parity/bin/python benchmarks/throughput.py

Each contest makes whole optimiser steps (AdamW) on the same real batches with the same recipe, in rounds of alternating
order. It prints real tokens a second and the ratio of ours to theirs, with half the width of its 95 % interval. The
ratio must be at least 0.95. The peers have our sizes, dropout, head and pooling; BERT runs SDPA without dropout on the
weights, and so does our softmax (backend=sdpa). Bucketed batches are those of a training, padded ones are 4,096 tokens
long; bucketed ones must be at least twice as fast. One thread, 8 examples a batch.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from cab.instruments import allocator

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cab.attention.build import LayerBuilder  # noqa: E402
from cab.backbones.encoder import pooled  # noqa: E402
from cab.contracts.recipe import Recipe  # noqa: E402
from cab.contracts.task import Batch, Missing  # noqa: E402
from cab.intervals import half_width_of_median  # noqa: E402
from cab.planning.plan import plan  # noqa: E402
from cab.plugins import registry  # noqa: E402
from cab.training import optimiser, step  # noqa: E402
from cab.training.batch_sampler import BatchSampler  # noqa: E402
from cab.worker.task_setup import build_task  # noqa: E402

ROUNDS, BATCH = 11, 8
VOCABULARY, CLASSES = 257, 2


class Peer(nn.Module):
    """A model of transformers with our pooling and head, called as our classifier is."""

    def __init__(self, body: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def forward(self, ids: Tensor, mask: Tensor, inputs: Any = None) -> Tensor:
        # a mask of four axes, added to the scores: Nystromformer fails with one of two, since its scores are not square
        added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]
        x = self.body(input_ids=ids, attention_mask=added).last_hidden_state
        return self.head(pooled(x, mask, "mean"))


def peers(case: Any, length: int) -> dict[str, Callable[[], nn.Module]]:
    """Return mechanism -> its public model, of the case's sizes; Nystromformer is built for one length."""
    from transformers import BertConfig, BertModel, NystromformerConfig, NystromformerModel

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": case.heads * case.dim,
        "num_hidden_layers": case.task_params["layers"],
        "num_attention_heads": case.heads,
        "intermediate_size": case.task_params["mlp"],
        "hidden_dropout_prob": case.task_params["dropout"],
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": case.n,
    }

    def bert() -> nn.Module:
        return BertModel(BertConfig(**sizes, attn_implementation="sdpa"), add_pooling_layer=False)

    def nystromformer() -> nn.Module:
        own = {"num_landmarks": 64, "segment_means_seq_len": length, "conv_kernel_size": 65, "inv_n_iter": 6}
        return NystromformerModel(NystromformerConfig(**sizes, **own))

    def of(body: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: Peer(body(), sizes["hidden_size"], sizes["intermediate_size"])

    return {"softmax": of(bert), "nystrom": of(nystromformer)}


def stepper(task: Any, model: nn.Module, recipe: Recipe) -> Callable[[Batch], float]:
    """Return a function that trains the model on a batch and gives the seconds."""
    model.train()
    descent = optimiser(model, recipe)

    def run(batch: Batch) -> float:
        start = time.perf_counter()
        step(task, model, descent, batch, recipe).item()
        return time.perf_counter() - start

    return run


def contest(ours: Callable[[Batch], float], theirs: Callable[[Batch], float], batch: Batch) -> str:
    """Train two models on one batch in turn, and say how many tokens a second each takes."""
    assert batch.x_mask is not None
    tokens = int(batch.x_mask.sum())
    rounds: list[tuple[float, float]] = []
    for turn in range(-2, ROUNDS):
        sides = [ours, theirs] if turn % 2 else [theirs, ours]
        seconds = {side: side(batch) for side in sides}
        if turn >= 0:  # the first two are a warm-up
            rounds.append((seconds[ours], seconds[theirs]))
    ratios = [b / a for a, b in rounds]
    pace = [tokens / median(times) for times in zip(*rounds, strict=True)]
    half = half_width_of_median(ratios)
    return f"ours {pace[0]:9,.0f}  theirs {pace[1]:9,.0f} tokens/s  ratio {median(ratios):.3f} ± {half:.3f}"


def main(*chosen: str) -> None:
    """Run every contest, or those named."""
    torch.set_num_threads(1)
    for mechanism in chosen or ("nystrom", "softmax"):
        case = plan(["task=lra_text", "scale=small", f"mechanism={mechanism}", "meters=[quality]"]).cases[0]
        task, recipe = build_task(case), Recipe.of(case.settings["training"])
        if isinstance(source := task.source(Path("data")), Missing):
            raise SystemExit(source.run)
        split = task.split("train", 0)
        batches = BatchSampler(len(split), BATCH, 0, split.lengths)
        backend = "sdpa" if mechanism == "softmax" else "eager"
        attention = LayerBuilder(registry.load("mechanism", mechanism), case.params, case.pattern, backend)
        ours = stepper(task, task.model(attention), recipe)
        seen = sorted((batches(i) for i in range(16)), key=lambda indices: max(split.lengths[i] for i in indices))
        middle = task.collate([split[i] for i in seen[8]], trim=True)
        print(f"{mechanism}: {source.name}, a batch of {tuple(middle.x.shape)}", flush=True)
        theirs = stepper(task, peers(case, middle.x.shape[1])[mechanism](), recipe)
        print("  beside transformers:", contest(ours, theirs, middle), flush=True)
        # a pool of sixteen batches is what training sees in a row
        real = bucketed = 0.0
        for indices in seen:
            batch = task.collate([split[i] for i in indices], trim=True)
            real += float(batch.x_mask.sum())
            bucketed += ours(batch)
        padded = median(ours(task.collate([split[i] for i in seen[at]])) for at in range(0, 16, 8)) * len(seen)
        paces = f"{real / bucketed:,.0f} beside {real / padded:,.0f} real tokens/s"
        print(f"  bucketed beside padded: {paces}, {padded / bucketed:.1f} times", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
