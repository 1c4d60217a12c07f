"""CAB's summarisation (Zhang et al., arXiv 2210.07661, table 1): a short text after a long one, by a Transformer.

    y        a : array_like Array to be reshaped. newshape : ...    at most source_len tokens: the source
    x        <start> a newshape                                     at most seq_len tokens: the target
    target   a newshape <end>

Texts are byte pairs, learnt of the training split; longer ones are cut. Summaries are decoded greedily, by the
mechanism's own `step` where it streams. They are compared with the target as it is cut, by ROUGE and without stemming.

`corpus` is docstrings, which `cab data get cab_sum` brings: from the description of a function's parameters to the
names of its arguments, split by these names, so that no list of names is in two splits before it is cut. It is
comparable with nothing.
Or it is multi_news, CAB's own, which is put into the data folder.

Departures at every scale: byte pairs of this corpus in place of BART's, and one table of embeddings for source, target
and logits. At quick scale: docstrings, 2 + 2 layers, pre-norm, rotary positions in self attention.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch, Missing, Pattern, Source
from cab.backbones.encoder import Encoder
from cab.backbones.encoder_decoder import EncoderDecoder, greedy
from cab.backbones.labels import IGNORED, label_loss, sum_nll
from cab.backbones.rouge import rouge, words
from cab.contracts.task import LayerFactory, Stream
from cab.data import docstrings, multi_news
from cab.data.byte_pairs import BYTES, BytePairs
from cab.data.splits import split_of
from cab.errors import unknown
from cab.suites.real_data import RealDataTask

CORPORA = ("docstrings", "multi_news")
SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}  # of the lists of arguments
PADDING, START, END = range(3)
SPECIAL = 3  # tokens before those of byte pairs
LEARNT = 5000  # texts of training at most that byte pairs are learnt of, evenly spread
SCORED = 1000  # examples of the test at most that floors are scored on, evenly spread
ROUGE = ("rouge1", "rouge2", "rougeL")


class CabSum(RealDataTask):
    """An encoder-decoder that writes at most `seq_len` tokens after `source_len`."""

    slots = ("CC", "CS", "NS")
    metrics = {
        "rouge1": ("fraction", True),
        "rouge2": ("fraction", True),
        "rougeL": ("fraction", True),
        "nll": ("nats", False),
    }
    data = ("docstring-arguments", "multi-news")
    paper = "arXiv 2210.07661"
    departures = (
        "byte pairs of this corpus",
        ("rotary positions", {"positions": "rotary"}),
        ("pre-norm", {"norm": "pre"}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 4,
        dim: int = 16,
        corpus: str = "docstrings",
        vocabulary: int = 1024,
        least: int = 0,
        smoothing: float = 0.0,
        layers: int = 2,
        encoder_layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if corpus not in CORPORA:
            raise unknown("corpus", corpus, CORPORA)
        if vocabulary < SPECIAL + BYTES:
            raise ValueError(f"vocabulary={vocabulary}: at least {SPECIAL + BYTES}, for every byte has a token")
        if not 0 <= least <= seq_len:
            raise ValueError(f"least={least}: tokens of a summary, from 0 to seq_len={seq_len}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing}: a share of a label's probability, from 0 and below 1")
        self.corpus, self.vocabulary, self.least, self.smoothing = corpus, vocabulary, least, smoothing
        self.layers, self.encoder_layers = layers, encoder_layers
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
            "embedding_std": embedding_std,
        }
        self._byte_pairs: BytePairs | None = None

    def fetch(self, folder: Path) -> None:
        """Bring the docstrings, 4 MB out of wheels of 77 MB, through pip."""
        docstrings.fetch(folder)

    def source(self, folder: Path) -> Source | Missing:
        """Use the corpus named; one never stands in for the other."""
        if self.corpus == "multi_news":
            examples = multi_news.read_tree(folder)
            if examples is None:
                return Missing(multi_news.BRING)
            left_out = sum(multi_news.EXAMPLES.values()) - sum(map(len, examples.values()))
            note = f"as released; {left_out:,} examples without articles or summary are left out; "
            note += "for non-commercial research and education"
            return self._use(examples, "Multi-News", True, note)
        tree = folder / docstrings.FOLDER
        if not tree.exists():
            return Missing("cab data get cab_sum (docstrings: 77 MB through pip, 4 MB of which are kept)")
        pairs: dict[str, list[tuple[str, str]]] = {name: [] for name in SHARES}
        for pair in docstrings.read(tree):
            pairs[split_of(pair.arguments.encode(), SHARES)].append(pair)
        packages = ", ".join(f"{package} {version}" for package, version, *_ in docstrings.WHEELS)
        return self._use(pairs, "docstrings", False, f"{packages}, all BSD; split by the list of arguments")

    def _use(self, splits: Any, name: str, comparable: bool, note: str) -> Source:
        self.splits = {split: splits[split] for split in ("train", "validation", "test")}
        self._byte_pairs = None
        return Source(name, comparable, self.counts(), note)

    @property
    def byte_pairs(self) -> BytePairs:
        """What texts are encoded by: learnt when it is first used, of training alone."""
        if self._byte_pairs is None:
            texts = (text for pair in self.spread("train", LEARNT) for text in pair)
            self._byte_pairs = BytePairs.of_texts(texts, self.vocabulary - SPECIAL)
        return self._byte_pairs

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without special ones."""
        return [SPECIAL + token for token in self.byte_pairs.encode(text)]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens up to the first `END`."""
        tokens = list(tokens)
        kept = tokens[: tokens.index(END)] if END in tokens else tokens
        return self.byte_pairs.decode(token - SPECIAL for token in kept if token >= SPECIAL)

    def target_tokens(self, text: str) -> list[int]:
        """Return the tokens of a target: as many as it has room for, the last of them `END` if the text fits."""
        return [*self.tokens(text), END][: self.seq_len]

    def collate(self, examples: Sequence[tuple[str, str]], trim: bool = False) -> Batch:
        """Return x (batch, n) and y (batch, m) with their masks, and target (batch, n), `IGNORED` at padding."""
        sources = [self.tokens(source)[: self.source_len] for source, _ in examples]
        targets = [self.target_tokens(target) for _, target in examples]
        n = max(map(len, targets)) if trim else self.seq_len
        m = max(map(len, sources)) if trim else self.source_len
        target, y = _padded(targets, n, IGNORED), _padded(sources, m, PADDING)
        x = torch.cat([torch.full_like(target[:, :1], START), target[:, :-1]], 1)
        x_mask, y_mask = target != IGNORED, _padded([[1] * len(each) for each in sources], m, 0).bool()
        return Batch(x.masked_fill(~x_mask, PADDING), x_mask, y, y_mask, target)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder and a decoder, which share their embeddings."""
        encoder = Encoder(
            attention,
            Pattern.NS,
            vocabulary=self.vocabulary,
            max_len=self.source_len,
            layers=self.encoder_layers,
            **self.sizes,
        )
        return EncoderDecoder(
            attention,
            Pattern.CC,
            encoder,
            classes=self.vocabulary,
            vocabulary=self.vocabulary,
            max_len=self.seq_len,
            source_len=self.source_len,
            layers=self.layers,
            tied=True,
            **self.sizes,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the target's tokens."""
        assert batch.target is not None
        return label_loss(_logits(model, batch), batch.target, self.smoothing)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum and count for each example the nats of its target; compare its decoded summary by ROUGE, (batch,)."""
        assert batch.target is not None
        summaries = self.decode(model, batch)
        references = [self.text([max(token, PADDING) for token in row]) for row in batch.target.tolist()]
        compared = [rouge(*pair) for pair in zip(summaries, references, strict=True)]
        scores = {name: torch.tensor([each[name] for each in compared]) for name in ROUGE}
        return {"nll": sum_nll(_logits(model, batch), batch.target), **scores}

    def decode(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return the summaries of a batch's sources: the most likely token each time."""
        assert isinstance(model, EncoderDecoder) and batch.y is not None
        rows = greedy(model, batch.y, batch.y_mask, first=START, end=END, most=self.seq_len, least=self.least)
        return [self.text(row) for row in rows.tolist()]

    def stream(self, model: nn.Module, batch: Batch) -> Stream:
        """Begin the summaries of a batch."""
        assert isinstance(model, EncoderDecoder) and batch.y is not None
        return model.stream(batch.y, batch.y_mask, START)

    def floors(self) -> dict[str, dict[str, float]]:
        """Return what the first words of the source give, as many as cut targets have, and frequent tokens."""
        train, test = (self.spread(name, SCORED) for name in ("train", "test"))
        trained, tested = ([self.target_tokens(target) for _, target in split] for split in (train, test))
        length = round(mean(len(words(self.text(target))) for target in trained))
        lead = [
            rouge(" ".join(words(source)[:length]), self.text(target))
            for (source, _), target in zip(test, tested, strict=True)
        ]
        counts = np.ones(self.vocabulary)
        for target in trained:
            np.add.at(counts, target, 1)
        nll = -np.log(counts / counts.sum())
        tokens = [token for target in tested for token in target]
        return {
            "first words": {name: mean(each[name] for each in lead) for name in ROUGE},
            "token frequencies": {"nll": float(nll[tokens].mean())},
        }


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch.x, batch.x_mask, batch.y, batch.y_mask, batch.inputs)  # type: ignore[no-any-return]


def _padded(rows: Sequence[Sequence[int]], length: int, padding: int) -> Tensor:
    """Return rows (rows, length), filled with `padding`."""
    return torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows])
