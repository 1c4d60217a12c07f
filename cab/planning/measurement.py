"""A measurement: one meter on one case, which is one file of the store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cab.contracts.case import Case, digest


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
    # the file of the store that holds the scores of the case's training, where the result is of the trained model
    training: str = ""
    searches: bool = False  # the meter chooses the cases that are measured
    data: str = ""  # fingerprint of the task's data, where the result depends on them
    protocol: str = ""  # where the task departs from what was published of it
    more_processes: int = 0  # how many more it takes where a value has not converged with `processes`
    unavailable: str = ""  # why the meter cannot be used on the machine that `key` holds for

    @property
    def file(self) -> str:
        """Name the file of the store that holds this measurement."""
        return f"{self.case.id}-{self.key}"

    @property
    def most_processes(self) -> int:
        """Return how many processes it takes where a value has not converged with the usual number."""
        return self.processes + self.more_processes

    @property
    def trains(self) -> bool:
        """Whether the case's model is trained for it: to be scored, or to be measured by a meter that `trains`."""
        return bool(self.training)

    def on(self, identity: Mapping[str, Any], unavailable: str = "") -> "Measurement":
        """Return the same measurement with the key and the refusal that it has on another machine."""
        refusal = self.refusal
        if refusal and self.unavailable and refusal[1] == self.unavailable:
            refusal = None
        if unavailable and not refusal:
            refusal = ("unsupported", unavailable)
        key = key_of(self.meter, self.version, self.source, identity if self.hosted else None, self.data, unavailable)
        return replace(self, identity=dict(identity), key=key, unavailable=unavailable, refusal=refusal)

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as it travels to another machine."""
        return {**asdict(self), "case": self.case.question()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Measurement":
        """Read what `to_json` wrote; `KeyError` or `TypeError` where it is of another version."""
        fields = dict(data)
        fields["case"] = Case.of(fields["case"])
        fields["metrics"] = {name: tuple(metric) for name, metric in fields["metrics"].items()}
        fields["files"] = tuple(fields["files"])
        fields["refusal"] = tuple(fields["refusal"]) if fields["refusal"] else None
        return cls(**fields)


def key_of(
    meter: str, version: int, source: str, identity: Mapping[str, Any] | None, data: str, unavailable: str
) -> str:
    """Hash what a result depends on besides its case; `identity` is None where the host does not matter."""
    # what is missing now may be installed later
    return digest([meter, version, source, identity, *(text for text in (data, unavailable) if text)])
