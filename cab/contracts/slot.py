"""A slot: the place in a backbone, for one pattern, that a mechanism is built for."""

from dataclasses import dataclass
from math import prod

from cab.contracts.pattern import Pattern


@dataclass(frozen=True)
class Slot:
    """Where a mechanism stands. The harness fills it in; what is None takes the value after "or".

    Sizes are counts; `dim` and `value_dim` are per head. A causal mechanism takes every length that it needs from
    here, because nothing causal may depend on the number of tokens at hand.
    """

    pattern: Pattern
    heads: int
    dim: int  # of q and k, per head
    max_len: int  # most queries
    source_len: int | None = None  # most keys, or max_len
    kv_heads: int | None = None  # heads of k and v, or heads
    value_dim: int | None = None  # of v, per head, or dim
    width: int | None = None  # of the layer's tokens, or heads * dim
    raster: tuple[int, ...] | None = None  # layout of the queries; its product is max_len
    source_raster: tuple[int, ...] | None = None  # layout of the keys; in self patterns, or raster
    layer: int = 0  # of `layers`, for schedules over depth
    layers: int = 1
    rotary: float | None = None  # base of rotary positions, None for none

    def __post_init__(self) -> None:
        def fill(name: str, value: object) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        fill("source_len", self.max_len)
        fill("kv_heads", self.heads)
        fill("value_dim", self.dim)
        fill("width", self.heads * self.dim)
        if not self.pattern.cross:
            fill("source_raster", self.raster)
        for name in ("heads", "dim", "max_len", "source_len", "kv_heads", "value_dim", "width", "layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}: a slot needs a whole number of at least 1")
        if self.heads % self.key_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        if not self.pattern.cross and self.source_len != self.max_len:
            raise ValueError(f"source_len={self.source_len} differs from max_len={self.max_len} in a self pattern")
        for name, length in (("raster", self.max_len), ("source_raster", self.keys)):
            raster = getattr(self, name)
            if raster is not None and len(raster) < 2:
                raise ValueError(f"{name}={raster}: a raster has two axes or more")
            if raster is not None and prod(raster) != length:
                raise ValueError(f"{name}={raster} has {prod(raster)} places, but the slot has {length} tokens")

    @property
    def text(self) -> str:
        """Write the pattern, the sizes, and what is not as it is where nobody says otherwise: `CS, heads=4, ...`."""
        usual = Slot(self.pattern, self.heads, self.dim, self.max_len)
        always = ("heads", "dim", "max_len")
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "pattern"}
        told = [f"{name}={each}" for name, each in values.items() if name in always or each != getattr(usual, name)]
        return ", ".join([self.pattern.value, *told])

    @property
    def layout(self) -> str:
        """Say in words how its tokens lie."""

        def one(raster: tuple[int, ...] | None) -> str:
            return "a sequence" if raster is None else f"a raster of {' x '.join(map(str, raster))}"

        target, source = one(self.raster), one(self.source_raster)
        return target if not self.pattern.cross or target == source else f"{target} that reads {source}"

    @property
    def sides(self) -> tuple[int, ...]:
        """The raster of the queries; a sequence is one with a single axis."""
        return self.raster or (self.max_len,)

    @property
    def source_sides(self) -> tuple[int, ...]:
        """The raster of the keys; a sequence is one with a single axis."""
        return self.source_raster or (self.keys,)

    # the filled-in values, as the type checker sees them
    @property
    def keys(self) -> int:
        """Most keys: `source_len`, filled in."""
        assert self.source_len is not None
        return self.source_len

    @property
    def key_heads(self) -> int:
        """Heads of k and v: `kv_heads`, filled in."""
        assert self.kv_heads is not None
        return self.kv_heads

    @property
    def values(self) -> int:
        """Size of a value, per head: `value_dim`, filled in."""
        assert self.value_dim is not None
        return self.value_dim

    @property
    def tokens(self) -> int:
        """Size of the layer's tokens: `width`, filled in."""
        assert self.width is not None
        return self.width
