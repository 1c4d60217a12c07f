"""What the page shows of a row beside the tables: the medians of its processes, and what became of the laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evidence:
    """What is not in the tables. Bundles hold none of it."""

    # (case id, environment id, metric) -> the median of each process
    medians: Mapping[tuple[str, str, str], Sequence[float]] = field(default_factory=dict)
    # (mechanism, params as canonical JSON, pattern, backend, dtype, device) -> what became of the laws
    laws: Mapping[tuple[str, ...], str] = field(default_factory=dict)
