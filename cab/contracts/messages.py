"""What travels between supervisor, fork server and child: every job, every answer, and their form on the wire.

The supervisor sends a `Request` over a socket. The fork server forks a child for its job and sends a `ChildExit` when
the child is gone. The child leaves its answer in a file: the answer of its kind of job, or a `Failure`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from cab.contracts.case import Case

_CLASS = "__dataclass__"  # the key that names the class of an encoded dataclass


@dataclass(frozen=True)
class PreflightJob:
    """Import every plug-in and construct every mechanism and task of the cases."""

    cases: Sequence[Case]
    data: str  # the folder of the tasks' data


@dataclass(frozen=True)
class PreflightAnswer:
    """The cases that are refused: case id -> reason."""

    refused: Mapping[str, str]


@dataclass(frozen=True)
class LawsJob:
    """Run every law on one mechanism in one pattern."""

    mechanism: str
    pattern: str
    params: Mapping[str, Any]
    backend: str
    device: str


@dataclass(frozen=True)
class LawsAnswer:
    """The laws that are broken, as "law: reason"; those exempted, law -> reason; how many were asked."""

    failures: Sequence[str]
    exempt: Mapping[str, str]
    count: int


@dataclass(frozen=True)
class MeasureJob:
    """Let meters measure one case."""

    case: Case
    data: str
    threads: int
    meters: Sequence[str]
    pinned: bool = False  # whether the child pins its allocator first
    compared: bool = False  # whether a process of this run has compared the case with its reference
    device_memory: int | None = None  # bytes that the case may take of a GPU


@dataclass(frozen=True)
class Samples:
    """What one meter measured: metric -> {"samples": [numbers], and how they came about}."""

    metrics: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class MeasureAnswer:
    """Meter -> its samples, or why it has none."""

    meters: "Mapping[str, Samples | Failure]"
    compared: bool  # whether the case has been compared with its reference by now
    seconds: float


@dataclass(frozen=True)
class CompareJob:
    """Compare a case with its reference, in a child without a memory limit."""

    case: Case
    data: str
    threads: int


@dataclass(frozen=True)
class CompareAnswer:
    """The case computes what its reference defines."""


@dataclass(frozen=True)
class TrainJob:
    """Train a case's model and score it."""

    case: Case
    data: str
    threads: int
    checkpoint: str  # the file that keeps the training's state
    device_memory: int | None = None


@dataclass(frozen=True)
class TrainAnswer:
    """The scores of a finished training, one an example, and what led to them."""

    metrics: Mapping[str, dict[str, Any]]  # metric -> {"samples": values}
    curve: Sequence[dict[str, Any]]  # validations, one a step
    best_step: int
    stopped: str  # why it stopped before its last step; "" where it did not
    notes: Sequence[str]
    floors: Mapping[str, Mapping[str, float]]  # name -> metric -> value of what needs no model
    source: Mapping[str, Any]  # name, comparable, counts and note of the data


@dataclass(frozen=True)
class ForecastJob:
    """Count on meta tensors what each case would take."""

    cases: Sequence[Case]
    data: str
    threads: int


@dataclass(frozen=True)
class CaseForecast:
    """FLOPs and peak bytes of one pass; where they cannot be counted, the reason."""

    flops: float | None = None
    bytes: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class ForecastAnswer:
    """Case id -> forecast, and the best FLOP/s of a product of matrices on this machine."""

    cases: Mapping[str, CaseForecast]
    rate: float


@dataclass(frozen=True)
class PeakJob:
    """Measure what a device can do at most."""

    device: str
    threads: int


@dataclass(frozen=True)
class PeakAnswer:
    """Dtype -> the best FLOP/s of a product of matrices; the best bytes a second, read and written, of a copy."""

    matmul: Mapping[str, float]
    copy: float


@dataclass(frozen=True)
class Failure:
    """Why a job, or one meter in it, has no answer: a status of `cab.contracts.case.STATUSES`, or "usage"."""

    status: str
    reason: str


Job = PreflightJob | LawsJob | MeasureJob | CompareJob | TrainJob | ForecastJob | PeakJob
Answer = PreflightAnswer | LawsAnswer | MeasureAnswer | CompareAnswer | TrainAnswer | ForecastAnswer | PeakAnswer


@dataclass(frozen=True)
class Request:
    """A job for the fork server, the limits of its child, and the files that the child writes."""

    job: Job
    deadline: float  # seconds
    memory: int | None  # bytes beyond what the forked process has at its start; None: no limit
    answer: str
    output: str  # what it prints
    progress: str  # one line, replaced as the job goes on
    folder: str  # its working folder


@dataclass(frozen=True)
class Ready:
    """The fork server has loaded everything and takes requests."""


@dataclass(frozen=True)
class ChildExit:
    """How a child ended."""

    why: str  # ended, deadline, cancelled
    exit: int | None
    signal: int | None
    peak: int  # bytes of its largest resident set
    seconds: float


_CLASSES = {
    cls.__name__: cls
    for cls in (
        *(Case, Request, Ready, ChildExit, Failure, Samples, CaseForecast),
        *(PreflightJob, LawsJob, MeasureJob, CompareJob, TrainJob, ForecastJob, PeakJob),
        *(PreflightAnswer, LawsAnswer, MeasureAnswer, CompareAnswer, TrainAnswer, ForecastAnswer, PeakAnswer),
    )
}


def encode(message: Any) -> str:
    """Write a message as one line of JSON; `TypeError` or `ValueError` where JSON cannot hold a value of it."""
    return json.dumps(_plain(message), allow_nan=False)


def decode(text: str | bytes) -> Any:
    """Read a message that `encode` wrote; `ValueError` where it is none."""
    return _message(json.loads(text))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {_CLASS: type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _message(value: Any) -> Any:
    if isinstance(value, list):
        return [_message(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {key: _message(item) for key, item in value.items() if key != _CLASS}
    if _CLASS not in value:
        return items
    try:
        return _CLASSES[value[_CLASS]](**items)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message of this version: {value[_CLASS]}: {error}") from error
