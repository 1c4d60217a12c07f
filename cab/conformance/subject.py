"""The subject of a law: a mechanism class in one pattern with one set of hyper-parameters, and inputs for it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cab.attention.build import INNERS, build_mechanism
from cab.attention.random_inputs import other_ids, random_ids
from cab.attention.reference import by_reference
from cab.conformance.settings import Setting, on_layout
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import Layout
from cab.contracts.slot import Slot
from cab.errors import Unsupported, UsageError
from cab.plugins import registry

if TYPE_CHECKING:
    from cab.conformance.exemptions import Exemptions

# A law runs with the first of these that the backend accepts: some kernels take only larger heads or coarser dtypes.
HEAD_SIZES = ({"dim": 8, "value_dim": 6}, {"dim": 16, "value_dim": 16})
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
TOLERANCE = 1e-9  # in float64; in a coarser dtype, the square root of its epsilon
CUTS = (1, 3, 4, 5, 17, 18, 36)  # positions of a cut, for laws that are too slow to try every one
# factors of an argument in a limit case, of the size of a head
SCALES: dict[str, Callable[[int], float]] = {"sqrt(dim)": lambda dim: dim**0.5, "1 / sqrt(dim)": lambda dim: dim**-0.5}
WAYS = (0, 1)  # in which ids are changed
Call = dict[str, Tensor]  # the arguments of one call of a mechanism, by name


class LawBroken(Exception):
    """A law does not hold; the message says where and by how much.

    Where it fails for arguments or parameters by name, `names` says what is wrong with each.
    """

    def __init__(self, message: str = "", names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})
        super().__init__(message or "; ".join(self.names.values()))


@dataclass(frozen=True)
class Subject:
    """Builds instances of a mechanism and draws their inputs. Equal seeds give equal instances and inputs."""

    cls: type[Mechanism]
    pattern: Pattern
    params: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "eager"
    device: str = "cpu"
    setting: Setting | None = None  # the first that the mechanism takes, where it is not given
    case_slot: Slot | None = None  # replaces the small slot
    every_backend: bool = True  # laws about backends test each one that runs here, not only `backend`
    seed: int = 0  # of the inputs
    only: tuple[str, ...] | None = None  # the patterns that these hyper-parameters have; None: all of the card

    def __str__(self) -> str:
        return f"{self.cls.__name__} {self.pattern.value} {json.dumps(dict(self.params))} {self.surroundings.name}"

    @property
    def name(self) -> str:
        """Say what it stands in."""
        return self.surroundings.name

    @property
    def surroundings(self) -> Setting:
        """The setting that instances are built in."""
        return self.setting or on_layout(self.pattern, self.layouts[0])

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The numbers of axes of queries and keys that the mechanism takes; of a wrapper, what all inside take."""
        taken = [cls.layouts(self.pattern, params) for cls, params in self._plain]
        first = taken[0] if taken else ()
        return tuple(layout for layout in first if all(layout in others for others in taken)) or ((1, 1),)

    @cached_property
    def plain_classes(self) -> list[type[Mechanism]]:
        """The class itself; of a wrapper, the classes of what is inside, whatever it is wrapped in."""
        return [cls for cls, _ in self._plain]

    @cached_property
    def _plain(self) -> list[tuple[type[Mechanism], Mapping[str, Any]]]:
        return _plain_mechanisms(self.cls, self.params)

    @cached_property
    def declared(self) -> bool:
        """Whether card and hyper-parameters have the pattern; of a wrapper, whether all inside have."""
        if self.only is not None and self.pattern.value not in self.only:
            return False
        return all(self.pattern.value in cls.patterns for cls in self.plain_classes)

    @cached_property
    def buildable(self) -> bool:
        """Whether an instance can be built."""
        try:
            _ = self.mechanism
        except Exception:  # the law `refuses` reports it
            return False
        return True

    @cached_property
    def exemptions(self) -> "Exemptions":
        """The card's exemptions; of a wrapper, also those of what is inside."""
        from cab.conformance.exemptions import Exemptions

        reasons = dict(self.cls.exempt)
        for cls in self.plain_classes:
            reasons = {**cls.exempt, **reasons}
        return Exemptions(reasons)

    def slot(self, **changes: Any) -> Slot:
        """Return the slot that instances are built for, with changes.

        It is the case's, or a small one in which no two sizes are equal, as far as the backend permits.
        """
        return self._slot(**{**self._supported[0], **changes})

    def _slot(self, **sizes: Any) -> Slot:
        if self.case_slot is not None:
            return replace(self.case_slot, **{name: size for name, size in sizes.items() if name not in HEAD_SIZES[0]})
        return Slot(self.pattern, **{"heads": 2, "width": 20, **self.surroundings.slot, **sizes})

    def build(
        self,
        slot: Slot | None = None,
        seed: int = 0,
        training: bool = False,
        definition: bool = False,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mechanism:
        """Build a fresh instance. Noise is added to its parameters, because zeros would hide what they multiply.

        With `definition`, `forward` computes what `reference` says of each sample (`cab.attention.reference`).
        """
        with fixed_seed("cpu", seed):
            mechanism = build_mechanism(self.cls, self.params, slot or self.slot()).double()
            with torch.no_grad():
                for parameter in mechanism.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        mechanism.to(self.device, dtype or self.dtype).train(training).use(backend or self.backend)
        if definition:
            mechanism._compute = partial(by_reference, mechanism)
        return mechanism

    @property
    def dtype(self) -> torch.dtype:
        """The finest dtype that the backend accepts; `Unsupported` where it accepts none."""
        return self._supported[1]

    @cached_property
    def _supported(self) -> tuple[dict[str, int], torch.dtype]:
        """The first head sizes, and with them the finest dtype, that the backend accepts."""
        refusal = Unsupported("")
        for head_sizes, dtype in product(HEAD_SIZES, DTYPES):
            slot = self._slot(**head_sizes)
            try:
                mechanism = self.build(slot, dtype=dtype)
                with torch.no_grad():
                    mechanism(**self._draw(mechanism, dtype, slot, 1, 1, 1, False))
            except Unsupported as reason:
                refusal = reason
                continue
            except UsageError:  # an unknown backend
                raise
            except Exception:  # a crash is no refusal: the laws will report it
                pass
            return head_sizes, dtype
        raise refusal

    @cached_property
    def mechanism(self) -> Mechanism:
        """An instance in eval mode that laws share; no law may change it."""
        return self.build()

    @property
    def causal(self) -> bool:
        """Whether the laws of causality must hold. For an instance graded leaky they must not: see `leaks`."""
        return self.pattern.causal and self.mechanism.grade != "leaky"

    @property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """(queries, keys): in cross patterns one pair with fewer keys than queries and one with more, else equal."""
        return self.surroundings.lengths

    def draw(
        self, n: int | None = None, m: int | None = None, batch: int = 2, slot: Slot | None = None, masks: bool = False
    ) -> Call:
        """Draw the arguments of a call, of the setting's first lengths by default. Masks are of real tokens only.

        Without `masks` a call has no mask, except where nothing else says how many queries there are.
        """
        usual_n, usual_m = self.lengths[0]
        n = usual_n if n is None else n
        m = (usual_m if m is None else m) if self.pattern.cross else n
        return self._draw(self.mechanism, self.dtype, slot or self.slot(), n, m, batch, masks)

    def _draw(
        self, mechanism: Mechanism, dtype: torch.dtype, slot: Slot, n: int, m: int, batch: int, masks: bool
    ) -> Call:
        generator = torch.Generator().manual_seed(1000 * n + m + 1_000_003 * self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        shapes = {
            "q": (slot.heads, n, slot.dim),
            "k": (slot.key_heads, m, slot.dim),
            "v": (slot.key_heads, m, slot.values),
        }
        call = {name: normal(batch, *shapes[name]) for name in mechanism.reads}
        for name, (axis, kind, size) in mechanism.inputs.items():
            length = n if axis == "queries" else m
            width: int = size if isinstance(size, int) else getattr(slot, size)
            if kind == "real":
                call[name] = normal(batch, length, width)
            else:
                call[name] = random_ids(kind, width, batch, length, generator)
        length_unknown = "q" not in mechanism.reads if self.pattern.cross else not call
        if masks or length_unknown:
            call["key_mask"] = torch.ones(batch, m, dtype=torch.bool)
            if self.pattern.cross:
                call["query_mask"] = torch.ones(batch, n, dtype=torch.bool)
        return {name: t.to(self.device, dtype if t.is_floating_point() else None) for name, t in call.items()}

    def axis(self, name: str) -> str:
        """Return the axis, queries or keys, that an argument's length belongs to."""
        if name in self.mechanism.inputs:
            return str(self.mechanism.inputs[name].axis)
        return "queries" if name in ("q", "query_mask") else "keys"

    def has_axis(self, name: str, axis: str) -> bool:
        """Whether an argument has an entry for each token of an axis; in self patterns both axes are the same."""
        return not self.pattern.cross or self.axis(name) == axis

    def truncate(self, call: Call, length: int, axis: str = "queries") -> Call:
        """Keep the first `length` tokens of an axis."""
        return {
            name: t.narrow(2 if name in ("q", "k", "v") else 1, 0, length) if self.has_axis(name, axis) else t
            for name, t in call.items()
        }

    def perturb(
        self,
        call: Call,
        where: Tensor,
        axis: str = "queries",
        names: str | None = None,
        scale: float = 1.0,
        way: int = 0,
    ) -> Call:
        """Change the tokens of an axis at `where` (batch, length): all arguments but the masks, or only `names`.

        Ids are changed in one of two ways (`cab.attention.random_inputs.other_ids`).
        """
        perturbed = dict(call)
        for name, t in call.items():
            if name.endswith("_mask") or not self.has_axis(name, axis):
                continue
            if names is not None and name not in names.split():
                continue
            if name in ("q", "k", "v"):
                perturbed[name] = torch.where(where[:, None, :, None], scale * (3 - 2 * t), t)
            elif t.is_floating_point():
                perturbed[name] = torch.where(where[:, :, None], scale * (3 - 2 * t), t)
            else:
                _, kind, size = self.mechanism.inputs[name]
                width: int = size if isinstance(size, int) else getattr(self.slot(), size)
                perturbed[name] = other_ids(kind, width, t, where.expand(t.shape), way)
        return perturbed


def _plain_mechanisms(
    cls: type[Mechanism], params: Mapping[str, Any]
) -> list[tuple[type[Mechanism], Mapping[str, Any]]]:
    """Return the mechanism with its hyper-parameters; of a wrapper, those of what is inside."""
    if cls.patterns != "inner":
        return [(cls, params)]
    found = []
    for name in INNERS:
        if name in params:
            inner = dict(params[name])
            found += _plain_mechanisms(registry.load("mechanism", inner.pop("name")), inner)
    return found


def repeat_sample(call: Call, copies: int) -> Call:
    """Return a batch of copies of the first sample."""
    return {name: t[:1].repeat(copies, *[1] * (t.dim() - 1)) for name, t in call.items()}


def as_leaves(call: Call) -> Call:
    """Copy a call; its floating-point tensors become leaves that require a gradient."""
    return {name: t.detach().clone().requires_grad_(t.is_floating_point()) for name, t in call.items()}


def weighted_sum(out: Tensor) -> Tensor:
    """Sum the output with fixed random weights, so that gradients do not cancel."""
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (out * weight.to(out)).sum()


@contextmanager
def fixed_seed(device: str, seed: int = 0) -> Iterator[None]:
    """Seed the generators inside, and restore them afterwards."""
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        if device == "cpu":  # not torch.manual_seed, which asks every kind of device and takes a millisecond
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


def require_equal(actual: Tensor, expected: Tensor, what: str) -> None:
    """Raise `LawBroken` unless the tensors agree: to the tolerance of their dtype, times 1 + the largest entry."""
    tolerance = TOLERANCE if actual.dtype is torch.float64 else torch.finfo(actual.dtype).eps ** 0.5
    if actual.shape != expected.shape:
        raise LawBroken(f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    if not actual.numel():
        return
    error, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    limit = tolerance * (1 + largest)
    if not error <= limit:  # this is also true of NaN
        found = f"off by {error:.2e} where entries reach {largest:.2e}" if isfinite(error) else "not finite"
        raise LawBroken(f"{what}: {found}; rounding explains at most {limit:.0e}")
