"""What travels between supervisor, fork server and child: every job, every answer, and their form on the wire.

The supervisor sends a `Request` over a socket. The fork server forks a child for its job and sends a `ChildExit` when
the child is gone. The child leaves its answer in a file: the answer of its kind of job, or a `Failure`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args

from cab.contracts.case import Case


@dataclass(frozen=True)
class Failure:
    """Why a job, or one meter in it, has no answer."""

    status: str  # of cab.contracts.case.STATUSES, or "usage"
    reason: str


@dataclass(frozen=True)
class PreflightJob:
    """Import every plug-in and construct every mechanism and task of the cases."""

    cases: Sequence[Case]
    data: str  # the folder of the tasks' data


@dataclass(frozen=True)
class PreflightAnswer:
    """Everything imports; some cases may be refused."""

    refused: Mapping[str, str]  # case id -> reason
    grades: Mapping[str, str]  # case id -> the mechanism's grade with these hyper-parameters in this slot


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
    """What became of the laws."""

    failures: Sequence[str]  # "law: reason" of each that is broken
    exempt: Mapping[str, str]  # law -> reason of each that is exempted
    count: int  # of the laws that were run


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
    """What one meter measured."""

    metrics: Mapping[str, dict[str, Any]]  # metric -> {"samples": [numbers], and how they came about}


@dataclass(frozen=True)
class MeasureAnswer:
    """What the meters measured."""

    meters: Mapping[str, Samples | Failure]  # meter -> its samples, or why it has none
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
    """The scores of a finished training, and what led to them."""

    metrics: Mapping[str, dict[str, Any]]  # metric -> {"samples": one value an example}
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
    """What one pass of a case would take."""

    flops: float | None = None
    bytes: float | None = None  # peak
    reason: str = ""  # why they cannot be counted


@dataclass(frozen=True)
class ForecastAnswer:
    """What each case would take."""

    cases: Mapping[str, CaseForecast]  # by case id
    rate: float  # the best FLOP/s of a product of matrices on this machine


@dataclass(frozen=True)
class PeakJob:
    """Measure what a device can do at most."""

    device: str
    threads: int


@dataclass(frozen=True)
class PeakAnswer:
    """What a device can do at most."""

    matmul: Mapping[str, float]  # dtype -> FLOP/s of a product of matrices
    copy: float  # bytes a second of a copy, read and written


Job = PreflightJob | LawsJob | MeasureJob | CompareJob | TrainJob | ForecastJob | PeakJob
Answer = PreflightAnswer | LawsAnswer | MeasureAnswer | CompareAnswer | TrainAnswer | ForecastAnswer | PeakAnswer


@dataclass(frozen=True)
class Request:
    """A job for the fork server, the limits of its child, and the files that the child writes."""

    job: Job
    deadline: float  # seconds
    memory: int | None  # bytes beyond what the forked process has at its start; None: no limit
    answer: str  # the file for its answer
    output: str  # the file for what it prints
    progress: str  # the file for one line, replaced as the job goes on
    folder: str  # its working folder


@dataclass(frozen=True)
class Ready:
    """The fork server has loaded everything and takes requests."""


@dataclass(frozen=True)
class ChildExit:
    """How a child ended."""

    why: str  # ended (by itself), deadline
    exit: int | None  # its code, where it exited
    signal: int | None  # its number, where a signal killed it
    peak: int  # bytes of its largest resident set
    seconds: float


_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (Case, Failure, Samples, CaseForecast, Request, Ready, ChildExit, *get_args(Job), *get_args(Answer))
}
_CLASS = "__dataclass__"  # the key that names the class of an encoded message
_ITEMS = "__items__"  # its value for a dictionary that JSON alone cannot hold, or that has the key `_CLASS` itself


def encode(message: Any) -> str:
    """Write a message as one line of JSON; `TypeError` or `ValueError` where JSON cannot hold a value of it."""
    return json.dumps(_to_json(message), allow_nan=False)


def decode(text: str | bytes) -> Any:
    """Read a message that `encode` wrote; `ValueError` where it is none. Tuples come back as lists."""
    return _from_json(json.loads(text))


def _to_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            raise TypeError(f"{name} is no message")
        return {_CLASS: name, **{field.name: _to_json(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, Mapping):
        if _CLASS in value or not all(isinstance(key, str) for key in value):
            return {_CLASS: _ITEMS, "items": [[key, _to_json(item)] for key, item in value.items()]}
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {key: _from_json(item) for key, item in value.items() if key != _CLASS}
    if _CLASS not in value:
        return items
    try:
        return dict(items["items"]) if value[_CLASS] == _ITEMS else _CLASSES[value[_CLASS]](**items)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a message of this version: {value[_CLASS]}: {error}") from error
