"""Grid points to measurements: which cases there are, which metrics each gives, and under which key each is kept.

Imports no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import OTHERS, Case
from cab.contracts.meter import Meter
from cab.contracts.pattern import Pattern
from cab.contracts.reads import first_that_holds
from cab.errors import UsageError, unknown
from cab.paths import PACKAGE
from cab.planning.measurement import Measurement, key_of
from cab.planning.overrides import parse
from cab.planning.points import GridPoint, points
from cab.planning.rasters import raster_settings
from cab.planning.refusals import check_backends, check_meters, check_used, grade_of, refusal, refusal_of_meter
from cab.planning.schema import memory_bytes
from cab.plugins import cards, fingerprint, registry
from cab.plugins.cards import Card

# settings that a case's question leaves out at these values: a key that is new in conf/ changes no id
_TIMING_DEFAULTS = {"padding": 0.0, "kv_heads": None, "value_dim": None, "threads": None, "context_parallel": 1}
_TRAINING_DEFAULTS = {"devices": 1, "patience": None, "validate": None, "test": None, "pretrain": None}


@dataclass(frozen=True)
class ClusterSettings:
    """How a cluster is asked for work."""

    bundle_minutes: float = 30.0  # that one job shall take
    retries: int = 2  # times that a lost job's unfinished work is submitted again
    slurm: dict[str, Any] = field(default_factory=dict)  # the keys `slurm.*`
    ray: dict[str, Any] = field(default_factory=dict)  # the keys `ray.*`


@dataclass
class Plan:
    """Everything that was asked for, in the order in which it is measured, and the engine that measures it."""

    measurements: list[Measurement] = field(default_factory=list)
    engine: str = "local"
    workers: int = 1  # children that may run side by side, where they are no timings
    cluster: ClusterSettings = field(default_factory=ClusterSettings)  # of the engines that are no `local`

    @property
    def cases(self) -> list[Case]:
        """Return the cases, each once, in order."""
        return list({each.case.id: each.case for each in self.measurements}.values())


def plan(overrides: Sequence[str], data: Path = Path("data")) -> Plan:
    """Plan what `cab run` is asked; `data` is the folder of the tasks' data.

    `UsageError` where an override cannot be understood, and where nothing of it all can be measured.
    """
    grid_points = points(list(overrides))
    check_backends(grid_points)
    check_meters(grid_points)
    engine, workers = str(_one("engine", grid_points)), int(_one("workers", grid_points))
    settings = {each.name: _one(each.name, grid_points) for each in fields(ClusterSettings)}
    cluster = ClusterSettings(**settings)
    by_file: dict[str, Measurement] = {}
    # data and sources as they are now, each read once
    data_fingerprint, source_fingerprint = cache(partial(fingerprint.of_data, data)), cache(fingerprint.of)
    for point in grid_points:
        for measurement in _measurements(point, case_of(point), data_fingerprint, source_fingerprint):
            first = by_file.setdefault(measurement.file, measurement)  # points that come out identical are one case
            _check_limits(first, measurement)
    cards.keep()
    measurements = list(by_file.values())
    if not measurements:
        meters = ", ".join(grid_points[0].root["meters"])
        raise UsageError(f"no metric of meters=[{meters}] applies to what was asked")
    if all(each.refusal for each in measurements):
        reasons = dict.fromkeys(each.refusal[1] for each in measurements if each.refusal)
        raise UsageError(f"nothing of this can be measured: {'; '.join(list(reasons)[:5])}")
    check_used(parse(list(overrides)), (each.case for each in measurements), engine)
    # seeds outermost: a drift of the machine then hits every mechanism alike, and a cut run has whole comparisons
    return Plan(sorted(measurements, key=lambda each: each.case.seed), engine, workers, cluster)


def _one(key: str, grid_points: list[GridPoint]) -> Any:
    """Return the value of a key that a whole run has one value of."""
    values: list[Any] = []
    for point in grid_points:
        if point.root[key] not in values:
            values.append(point.root[key])
    if len(values) > 1:
        raise UsageError(f"{key}={','.join(map(str, values))}: one run has one {key}")
    return values[0]


def _check_limits(first: Measurement, other: Measurement) -> None:
    """Raise `UsageError` where a measurement is asked for twice, with two limits."""
    for key in ("timeout", "memory_limit"):
        limits = getattr(first, key), getattr(other, key)
        if limits[0] != limits[1]:
            given = ",".join("null" if limit is None else str(limit) for limit in limits)
            raise UsageError(f"{key}={given} for {first.case.title}: one measurement has one {key}, so give one value")


def case_of(point: GridPoint) -> Case:
    """Return the case that a point asks for.

    A mechanism in a self pattern has no source: m is n. The model of a task may have one whichever slot is under test.
    """
    root = point.root
    cross = Pattern.of(root["pattern"]).cross
    has_source = cross or root["level"] == "model"
    n, m = root["seq_len"], (root["source_len"] or root["seq_len"]) if has_source else root["seq_len"]
    settings = {key: root[key] for key, default in _TIMING_DEFAULTS.items() if root[key] != default}
    settings |= raster_settings(root, n, m, cross)
    if point.others != OTHERS[0]:
        settings["others"] = point.others
    if point.task.facts["trains"] and root["pass"] == "train":
        settings["training"] = {
            key: value
            for key, value in root["training"].items()
            if (key not in _TRAINING_DEFAULTS or value != _TRAINING_DEFAULTS[key])
            and (not key.startswith("pretrain_") or root["training"]["pretrain"])
        }
        if root["sharding"] is not None:
            settings["sharding"] = root["sharding"]
    return Case(
        mechanism=point.mechanism.name,
        params=point.params,
        pattern=root["pattern"],
        task=point.task.name,
        task_params=_asked(point.task_params, point.task.facts["added"]),
        n=n,
        m=m,
        batch=root["batch"],
        heads=root["heads"],
        dim=root["dim"],
        dtype=root["dtype"],
        device=root["device"],
        backend=root["backend"],
        level=root["level"],
        pass_=root["pass"],
        seed=root["seed"],
        scale=root["scale"],
        settings=settings,
    )


def _asked(params: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Leave out the hyper-parameters that came later, where they have their defaults."""
    return {key: value for key, value in params.items() if key not in added or value != added[key]}


def _measurements(
    point: GridPoint,
    case: Case,
    data_fingerprint: Callable[[tuple[str, ...]], str],
    source_fingerprint: Callable[..., str],
) -> list[Measurement]:
    """Return one measurement a meter that has a metric for the case."""
    root, measurements = point.root, []
    inner_paths = [card.path for card in point.inners]
    common_files = (
        point.mechanism.path,
        *inner_paths,
        *fingerprint.named_files(case.params),
        point.task.path,
        *_layer_files(case),
    )
    data = data_fingerprint(tuple(point.task.facts["data"])) if case.level == "model" else ""
    refused = refusal(point, case)
    for name in dict.fromkeys(root["meters"]):
        meter = _meter(name)
        own_case = _case_of_meter(meter, case, root)
        own_file = [registry.card("meter", name).path] if registry.is_file(name) else []
        files = (*common_files, *_baseline_files(own_case), *own_file)
        source = source_fingerprint(*files)
        metrics = dict(meter.applies(own_case))
        if name == "quality" and point.task.facts["trains"] and case.pass_ == "train":
            metrics = {metric: (unit, higher) for metric, (unit, higher) in point.task.facts["metrics"].items()}
        methods = [set(card.methods) for card in point.inners or (point.mechanism,)]
        for metric, method in meter.needs_method.items():
            if not all(method in each for each in methods):
                metrics.pop(metric, None)
        for metric, method in meter.needs_task_method.items():
            if method not in point.task.methods:
                metrics.pop(metric, None)
        if not metrics:
            continue
        unavailable = meter.unavailable(case.device)
        reason = refused or refusal_of_meter(name, own_case) or unavailable
        identity = environment.identity(case.device, case.settings.get("threads"), meter.pinned_allocator)
        on_host = identity if meter.environment else None
        measurements.append(
            Measurement(
                case=own_case,
                meter=name,
                version=meter.version,
                metrics=metrics,
                key=key_of(name, meter.version, source, on_host, data, unavailable or ""),
                identity=identity,
                processes=meter.processes,
                more_processes=meter.more_processes,
                pinned=meter.pinned_allocator,
                hosted=meter.environment,
                grade=grade_of(point, case.pattern),
                task_version=point.task.facts["version"],
                protocol=_protocol(point.task, case),
                timeout=root["timeout"],
                memory_limit=memory_bytes(root["memory_limit"]),
                source=source,
                files=files,
                refusal=("unsupported", reason) if reason else None,
                training=_training_file(case, source, data) if name == "quality" or _of_trained(meter, case) else "",
                searches=meter.searches,
                data=data,
                unavailable=unavailable or "",
            )
        )
    return measurements


def _of_trained(meter: Meter, case: Case) -> bool:
    """Whether a meter measures the case's model after its training."""
    return meter.trains and "training" in case.settings


def _training_file(case: Case, source: str, data: str) -> str:
    """Name the file of the store that holds the scores of a case's training: it is one, whichever meters follow it."""
    return f"{case.id}-{key_of('quality', _meter('quality').version, source, None, data, '')}"


def on_this_machine(measurement: Measurement) -> Measurement:
    """Return a measurement that was planned elsewhere with the key and the refusal that it has here."""
    case = measurement.case
    identity = environment.identity(case.device, case.settings.get("threads"), measurement.pinned)
    return measurement.on(identity, _meter(measurement.meter).unavailable(case.device) or "")


def _case_of_meter(meter: Meter, case: Case, root: dict[str, Any]) -> Case:
    """Return the case with the root keys that are part of this meter's question alone."""
    settings = {key: root[key] for key, default in meter.asks.items() if root[key] != default}
    if "memory_limit" in settings:
        settings["memory_limit"] = memory_bytes(settings["memory_limit"])
    return replace(case, settings={**case.settings, **settings}) if settings else case


def _baseline_files(case: Case) -> list[str]:
    """Return the file of the mechanism that the case is held against; `UsageError` where there is no such baseline."""
    baseline = case.baseline()
    if baseline is None:
        return []
    card = registry.card("mechanism", baseline.mechanism)
    if card.facts["patterns"] == "inner":
        raise UsageError(f"baseline={card.name}: a wrapper has no usual mechanism inside; name a mechanism")
    if baseline.backend not in card.backends:
        raise unknown(f"backend of baseline {card.name}", baseline.backend, card.backends)
    return [card.path]


def _protocol(task: Card, case: Case) -> str:
    """Say where a model departs from what was published of it; a task with a `protocol` of its own says it itself."""
    if case.level != "model":
        return ""
    if case.task_params.get("protocol"):
        return str(case.task_params["protocol"])
    holding = (first_that_holds([entry], case.task_params) for entry in task.facts["departures"])
    return "; ".join(words for words in holding if words)


def _layer_files(case: Case) -> list[str]:
    """Return the files that an answer depends on beside the plug-ins: of the layer, and of what is in other slots."""
    if case.level == "attend":
        return []
    others = [registry.card("mechanism", case.others).path] if case.level == "model" and case.others != "same" else []
    return [str(PACKAGE / "attention" / "layer.py"), *others]


@lru_cache
def _meter(name: str) -> Meter:
    meter = registry.load("meter", name)()
    assert isinstance(meter, Meter)
    return meter
