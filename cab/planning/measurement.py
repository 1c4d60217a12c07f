"""A measurement: one meter on one case, which is one file of the store."""

from dataclasses import dataclass
from typing import Any

from cab.contracts.case import Case


@dataclass(frozen=True)
class Measurement:
    """One meter on one case: what is asked, what its result depends on, and how it is carried out."""

    case: Case
    meter: str
    version: int  # of the meter's method
    metrics: dict[str, tuple[str, bool | None]]  # name -> unit, higher is better
    key: str  # the hash of what the result depends on besides the case
    identity: dict[str, Any]  # of the environment that the key holds for
    processes: int  # how many fresh processes one value takes
    pinned: bool  # whether the child pins its allocator
    hosted: bool  # whether the host matters
    grade: str
    task_version: int
    timeout: float  # seconds
    memory_limit: int | None  # bytes
    source: str = ""  # fingerprint of mechanism and task
    files: tuple[str, ...] = ()  # the files that `source` is the fingerprint of
    refusal: tuple[str, str] | None = None  # a status and its reason, known before anything runs
    trains: bool = False  # the case's model is trained, and scored
    searches: bool = False  # the meter chooses the cases that are measured

    @property
    def file(self) -> str:
        """Name the file of the store that holds this measurement."""
        return f"{self.case.id}-{self.key}"
