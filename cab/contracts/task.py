"""What a task is: it owns data, model, loss and score, and knows no mechanism."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from cab.contracts.slot import Slot


@dataclass(frozen=True)
class Source:
    """Real data that is at hand: what numbers from it are called and may be compared with."""

    name: str
    comparable: bool  # with published numbers
    counts: dict[str, int]  # examples of each split
    note: str = ""


@dataclass(frozen=True)
class Missing:
    """No data is at hand; `run` tells the user which command brings it."""

    run: str


@dataclass(frozen=True)
class Batch:
    """Examples put together. Masks are (batch, length), True = real token."""

    x: Tensor
    x_mask: Tensor | None = None
    y: Tensor | None = None
    y_mask: Tensor | None = None
    target: Tensor | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: Any) -> "Batch":
        """Move every tensor to `device`."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        return replace(
            self,
            x=self.x.to(device, non_blocking=True),
            x_mask=move(self.x_mask),
            y=move(self.y),
            y_mask=move(self.y_mask),
            target=move(self.target),
            inputs={name: t.to(device, non_blocking=True) for name, t in self.inputs.items()},
        )


class Split(Protocol):
    """Map-style examples: item i depends on the data, the seed and i alone.

    A split may have `lengths`, a number an example; batches are then made of examples of like lengths.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Stream(Protocol):
    """A target of a batch that a model decodes token by token."""

    @property
    def states(self) -> Any:
        """What is kept of the tokens so far: any nesting of tensors."""
        ...

    def next(self) -> Any:
        """Decode one more token of each example."""
        ...


LayerFactory = Callable[[Slot], nn.Module]  # builds the attention layer of a slot


class Task:
    """A card (plain literals, read from the source), and the methods below.

    Training tasks write all of them; a task with `trains = False` gives random tensors for timing and writes none.
    """

    slots: ClassVar[tuple[str, ...]] = ("NS",)  # patterns that it can put under test
    trains: ClassVar[bool] = True
    metrics: ClassVar[dict[str, tuple[str, bool]]] = {}  # name -> (unit, higher is better); the first is the headline
    inputs: ClassVar[tuple[str, ...]] = ()  # what its batches offer mechanisms beside x and y
    # the number of axes of its slots' rasters, 1 for sequences; where it depends on hyper-parameters, the first entry
    # that holds: ((2, {"raster": True}), 1)
    rasters: ClassVar[Any] = (1,)
    holes: ClassVar[Any] = (
        False  # whether any token of a raster may be masked: True, or hyper-parameters that make it so
    )
    # where it departs from what was published of it: words, or (words, hyper-parameters that make it so). A row's
    # `protocol` is those that hold
    departures: ClassVar[tuple[Any, ...]] = ()
    # hyper-parameters that came later -> their defaults: at these they are no part of a case's question, so that what
    # was measured before they came stays the answer
    added: ClassVar[dict[str, Any]] = {}
    data: ClassVar[tuple[str, ...]] = ()  # names in the data folder that `source` looks for: other data, other numbers
    # what a case of this task is by default, and at each scale: pieces of the root configuration. A YAML of the task's
    # name (conf/task/, or beside a file of the user's own) replaces both
    case: ClassVar[dict[str, Any]] = {}
    scales: ClassVar[dict[str, dict[str, Any]]] = {}
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def __init__(self, *, seq_len: int, source_len: int | None = None) -> None:
        """Keep the lengths: n (most target tokens) and m (most source tokens, n by default)."""
        if seq_len < 1:
            raise ValueError(f"seq_len={seq_len}: at least 1 token is needed")
        self.seq_len = seq_len
        self.source_len = seq_len if source_len is None else source_len

    def fetch(self, folder: Path) -> None:
        """Download or generate the data into `folder`: verified, and moved into place whole."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to fetch")

    def source(self, folder: Path) -> Source | Missing:
        """Say which data a run would use now, or what to run to get it."""
        raise NotImplementedError

    def split(self, name: str, seed: int) -> Split:
        """Return "train", "validation" or "test" of the data that the last `source` found."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Put examples together into one batch, padded to the task's lengths, so that timing sees n and m tokens.

        With `trim` padding may end where the longest example does; training and scoring ask for that.
        """
        raise NotImplementedError

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build the model, asking `attention` for the layer of each slot."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scalar that training minimises."""
        raise NotImplementedError

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return, per metric, one value an example (batch,) or sum and count an example (batch, 2)."""
        raise NotImplementedError

    def stream(self, model: nn.Module, batch: Batch) -> Stream:
        """Begin to decode the targets of a batch, of at most n tokens: what `pass=decode level=model` measures."""
        raise NotImplementedError

    def floors(self) -> dict[str, dict[str, float]]:
        """Return name -> metric -> value of what needs no model: majority class, chance, simple rules."""
        return {}
