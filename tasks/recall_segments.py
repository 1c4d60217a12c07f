"""Recall from documents, in all four patterns: documents of pairs, one of which holds what the questions ask for.

    documents   (a 3) (c 1) | (d 2) (b 0) | (f 5) (e 4)        one token a pair; `segment` 1 1 2 2 3 3
    questions   b?  d?  d?                                     `segment` 4 4 4
    labels      0   2   2

In NS and CS the questions follow the documents, in NC and CC they are the target and the documents the source. Every
example is scored with its answer in each place: in all rotations of the documents' order, as in studies of position
bias (Liu et al., arXiv 2307.03172; PINE, Wang et al., arXiv 2407.01100).

Beside the tokens a batch offers

- `segment` (batch, n): 1 to `documents`, in the order of the documents; `documents` + 1 for questions;
- `modality` (batch, n): 1 for documents, 2 for questions;
- `source_segment`, `source_modality`: those of the keys; in self patterns the same again;
- `score` (batch, keys, 1), from 0 to 1: what a retriever might say of a key's document. It is at least 1/2 for the one
  with the answer, anything for the others, and 1 for questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch, Pattern
from cab.backbones.decoder import TokenClassifier
from cab.backbones.encoder import Encoder
from cab.backbones.encoder_decoder import EncoderDecoder
from cab.backbones.labels import IGNORED, count_correct, label_loss
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.reads import TWIN
from cab.contracts.task import LayerFactory
from cab.data.recall import KeyValuePairs, halved_counts
from cab.suites.generated import GeneratedTask

DOCUMENT, QUESTION = 1, 2  # of the input `modality`
SCORES = 2**16  # different values of the input `score`


class RecallSegments(GeneratedTask):
    """`documents` of equally many pairs. All questions of an example are about pairs of one document.

    Training also has documents that repeat their first pairs: a half of them, a quarter, ..., halved up to `halvings`
    times. Models do not learn from examples with different pairs alone.

    In self patterns `questions` of the `seq_len` tokens are questions, the others pairs. In cross patterns there are
    `seq_len` questions and `source_len` pairs.
    """

    slots = ("NS", "CS", "NC", "CC")
    inputs = ("segment", "modality", "source_segment", "source_modality", "score")
    metrics = {
        "accuracy": ("fraction", True),
        "accuracy_worst_position": ("fraction", True),
        "order_std": ("nat", False),
    }
    paper = "arXiv 2307.03172"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        pattern: str = "NS",
        documents: int = 4,
        questions: int = 32,
        examples: int = 1_000_000,
        halvings: int = 3,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "learned",
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        self.pattern = Pattern.of(pattern)
        if self.pattern.cross:
            self.questions, self.pairs = seq_len, self.source_len
        else:
            self.questions, self.pairs = questions, seq_len - questions
        if documents < 2 or questions < 1 or self.pairs < documents or self.pairs % documents:
            raise ValueError(
                f"documents={documents}, questions={self.questions}: at least 2 and 1, and the other {self.pairs} "
                f"tokens must be a multiple of documents"
            )
        self.documents, self.layers = documents, layers
        self.difficulties = halved_counts(self.pairs // documents, halvings)  # different pairs of a document
        self.counts = {"train": examples, "validation": 256, "test": 1000}
        self.sizes: dict[str, Any] = {"heads": heads, "dim": dim, "mlp": mlp, "dropout": dropout, "norm": norm}
        self.sizes["positions"] = positions

    def collate(self, examples: Sequence[tuple[int, int]], trim: bool = False) -> Batch:
        """Generate the examples; none is padded. Tokens have two ids: x is (batch, n, 2), y (batch, m, 2)."""
        pairs = KeyValuePairs([(number, self.pairs) for number, _ in examples], self.pairs)
        size = self.pairs // self.documents  # tokens of a document
        different = np.array([count for _, count in examples])[:, None]  # of them
        answering = pairs.rng.integers(self.documents, 1)
        asked = size * answering + pairs.rng.integers(different, self.questions)
        keys, labels = (torch.from_numpy(np.take_along_axis(each, asked, 1)) for each in (pairs.keys, pairs.values))
        places = np.arange(self.pairs)
        repeated = places - places % size + places % size % different
        tokens = torch.from_numpy(np.take_along_axis(pairs.tokens(), repeated[:, :, None], 1))
        questions = torch.stack([1 + 2 * self.pairs + keys, torch.zeros_like(keys)], -1)
        scores = torch.from_numpy(pairs.rng.integers(SCORES, self.documents)).float() / SCORES
        scores = torch.where(torch.arange(self.documents) == torch.from_numpy(answering), (1 + scores) / 2, scores)
        segments = torch.arange(1, self.documents + 1).repeat_interleave(size)
        scores = scores.repeat_interleave(size, 1)[:, :, None]
        of_pairs = {
            "segment": segments.expand(len(labels), -1),
            "modality": torch.full_like(tokens[:, :, 0], DOCUMENT),
        }
        of_questions = {
            "segment": torch.full_like(labels, self.documents + 1),
            "modality": torch.full_like(labels, QUESTION),
        }
        if self.pattern.cross:
            inputs = {**of_questions, **_of_source(of_pairs), "score": scores}
            return Batch(questions, None, tokens, None, labels, inputs)
        own = {name: torch.cat([of_pairs[name], of_questions[name]], 1) for name in of_pairs}
        scores = torch.cat([scores, torch.ones(*labels.shape, 1)], 1)
        target = torch.cat([torch.full_like(tokens[:, :, 0], IGNORED), labels], 1)
        inputs = {**own, **_of_source(own), "score": scores}
        return Batch(torch.cat([tokens, questions], 1), target=target, inputs=inputs)

    def rotated(self, batch: Batch, places: int) -> Batch:
        """Return the batch with the documents, and their scores, moved on by `places`; the last ones come first."""
        shift = places * self.pairs // self.documents

        def moved(t: Tensor) -> Tensor:
            return torch.cat([t[:, : self.pairs].roll(shift, 1), t[:, self.pairs :]], 1)

        inputs = {**batch.inputs, "score": moved(batch.inputs["score"])}
        if batch.y is not None:
            return replace(batch, y=moved(batch.y), inputs=inputs)
        return replace(batch, x=moved(batch.x), inputs=inputs)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder with logits at every token (NS, CS), or a decoder that reads the embedded pairs (NC, CC)."""
        vocabulary, cross = 1 + 3 * self.pairs, self.pattern.cross
        encoder = Encoder(
            attention,
            Pattern.NS if cross else self.pattern,
            vocabulary=vocabulary,
            max_len=self.pairs if cross else self.seq_len,
            layers=0 if cross else self.layers,
            **self.sizes,
        )
        encoder.tokens = MultiFieldEmbedding(encoder.tokens)  # type: ignore[assignment]
        if not cross:
            return TokenClassifier(encoder, classes=self.pairs)
        decoder = EncoderDecoder(
            attention,
            self.pattern,
            encoder,
            classes=self.pairs,
            vocabulary=vocabulary,
            max_len=self.seq_len,
            source_len=self.pairs,
            layers=self.layers,
            **self.sizes,
        )
        decoder.tokens = MultiFieldEmbedding(decoder.tokens)  # type: ignore[assignment]
        return decoder

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits (batch, n, pairs) of all values at every target token."""
        source = (batch.y, batch.y_mask) if self.pattern.cross else ()
        return model(batch.x, batch.x_mask, *source, inputs=batch.inputs)  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the questions."""
        assert batch.target is not None
        return label_loss(self.logits(model, batch), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Score the examples in every rotation of their documents, so that the answer stands in each place once.

        accuracy: right answers and questions of all rotations, (batch, 2). accuracy_worst_position: the least share of
        right answers among the rotations of an example, (batch,); at most its accuracy, and less by chance alone where
        answers are wrong at random. order_std: the standard deviation of the right value's log-probability over the
        rotations, averaged over questions, (batch,).
        """
        assert batch.target is not None
        counts, log_probabilities = [], []
        asked = batch.target != IGNORED
        right = batch.target.clamp(min=0)[:, :, None]
        for places in range(self.documents):
            logits = self.logits(model, self.rotated(batch, places))
            counts.append(count_correct(logits, batch.target))
            log_probabilities.append(logits.float().log_softmax(-1).gather(2, right)[:, :, 0])
        by_rotation = torch.stack(counts)  # (documents, batch, 2)
        spread = torch.stack(log_probabilities).std(0, correction=0)
        return {
            "accuracy": by_rotation.sum(0),
            "accuracy_worst_position": (by_rotation[..., 0] / by_rotation[..., 1]).amin(0),
            "order_std": (spread * asked).sum(1) / asked.sum(1),
        }

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance, and a guess among the values of the document that holds the answer."""
        of_document = self.documents / self.pairs
        return {"chance": {"accuracy": 1 / self.pairs}, "a value of the document": {"accuracy": of_document}}


def _of_source(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {TWIN + name: t for name, t in inputs.items()}
