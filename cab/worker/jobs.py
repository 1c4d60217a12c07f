"""What a forked child does: a function for each kind of job of `cab.contracts.messages`.

It returns an answer and writes no results: nothing but the answer's file, the progress file and a training's
checkpoint.
"""

import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case
from cab.contracts.messages import (
    Answer,
    CompareAnswer,
    CompareJob,
    Failure,
    ForecastAnswer,
    ForecastJob,
    Job,
    LawsAnswer,
    LawsJob,
    MeasureAnswer,
    MeasureJob,
    PeakAnswer,
    PeakJob,
    PreflightJob,
    Request,
    Samples,
    TrainAnswer,
    TrainJob,
    decode,
    encode,
)
from cab.errors import Unsupported, UsageError, Wrong
from cab.paths import write_whole
from cab.plugins import registry
from cab.worker.preflight import check_device, preflight
from cab.worker.task_setup import build_task, data_of

TICK = 0.2  # seconds between two lines of progress


def serve(request: Request) -> None:
    """Do the request's job and write its answer."""
    import torch

    # by default PyTorch rounds float32 to 10 bits in a GPU's convolutions, though not in products
    torch.backends.cudnn.allow_tf32 = False
    try:
        text = _encoded(_do(request.job, Path(request.progress)))
    except BaseException as error:
        text = _encoded(failure(error))
    write_whole(Path(request.answer), text)


def _do(job: Job, progress: Path) -> Answer:
    match job:
        case PreflightJob():
            return preflight(job)
        case LawsJob():
            return laws(job)
        case CompareJob():
            return compare(job)
        case MeasureJob():
            return measure(job)
        case TrainJob():
            return train(job, progress)
        case ForecastJob():
            return forecast(job)
        case PeakJob():
            return peak(job)


def _encoded(answer: Any) -> str:
    """Write an answer as JSON; `TypeError` or `ValueError` where a plug-in returned arrays or NaN."""
    try:
        return encode(answer)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}: samples are finite numbers of Python, in lists and dictionaries") from None


def failure(error: BaseException, files: Sequence[str] = ()) -> Failure:
    """Turn an exception into a status and its reason; the traceback goes to the child's output.

    The reason of an error names the innermost line that was running in one of the plug-ins' `files`.
    """
    from cab.worker.workload import is_out_of_memory

    for kind, status in ((Unsupported, "unsupported"), (Wrong, "wrong"), (UsageError, "usage")):
        if isinstance(error, kind):
            return Failure(status, str(error))
    traceback.print_exception(error)
    if is_out_of_memory(error):
        return Failure("oom", str(error).splitlines()[0] if str(error) else "out of memory")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Failure("error", f"{type(error).__name__}: {error}".splitlines()[0][:500] + where)


def laws(job: LawsJob) -> LawsAnswer:
    """Run every law on the mechanism in one pattern, and the case's hyper-parameters against `reference`."""
    import torch

    from cab.conformance import check, check_params
    from cab.conformance.causes import precedence

    torch.set_num_threads(1)
    _use_device(job.device)
    cls = registry.load("mechanism", job.mechanism)
    verdicts = check(cls, patterns=[job.pattern], backend=job.backend, device=job.device)
    verdicts += check_params(cls, job.pattern, job.params, backend=job.backend, device=job.device)
    failures = [verdict for verdict in verdicts if verdict.status == "fail"]
    return LawsAnswer(
        failures=[f"{v.law}: {v.reason}" for v in sorted(failures, key=precedence)],
        exempt={v.law: v.reason for v in verdicts if v.status == "exempt"},
        count=len(verdicts),
    )


def measure(job: MeasureJob) -> MeasureAnswer:
    """Let each of the job's meters measure one case; a meter that fails costs its own metrics alone."""
    if job.pinned:
        from cab.instruments.allocator import pin

        if not pin():
            raise Unsupported("the allocator cannot be pinned: another malloc than glibc's is preloaded")
    if "context_parallel" in job.case.settings:
        return _measure_divided(job)
    import torch

    torch.set_num_threads(job.threads)
    _use_device(job.case.device, job.device_memory)
    start = time.monotonic()
    meters = {name: registry.load("meter", name)() for name in job.meters}
    trained, case = "checkpoint" in job.case.settings, job.case
    workload: Any
    if trained:
        from cab.worker.trained_model import load

        workload = load(job.case, Path(job.data))
        case = workload.case
    else:
        workload = load_workload(job.case, Path(job.data))
    plugins = [registry.load("mechanism", job.case.mechanism), registry.load("task", job.case.task)]
    answers: dict[str, Samples | Failure] = {}
    compared = job.compared
    for name, meter in meters.items():
        try:
            if meter.environment and not trained:  # what is counted on meta tensors runs nothing that could be wrong
                workload.check(compared)
                compared = True
            answers[name] = _samples(meter.measure(workload, case))
        except BaseException as error:
            answers[name] = failure(error, [inspect.getfile(cls) for cls in (type(meter), *plugins)])
    return MeasureAnswer(answers, compared, time.monotonic() - start)


def _measure_divided(job: MeasureJob) -> MeasureAnswer:
    """Let the job's meter measure one case that several processes compute together."""
    import torch

    from cab.training import OneProcess, launch
    from cab.worker.context_parallel import Signals, divided

    start, case = time.monotonic(), job.case
    count = case.settings["context_parallel"]
    (name,) = job.meters
    meter = registry.load("meter", name)()
    signals = Signals(count - 1)

    def measure_share(processes: OneProcess) -> str:
        try:
            torch.set_num_threads(max(1, job.threads // count))
            several_gpus = case.device == "cuda"
            _use_device(f"cuda:{processes.rank}" if several_gpus else case.device, job.device_memory)
            workload = load_workload(case, Path(job.data))
            workload.check(job.compared)
            answer: Samples | Failure = Samples({})
            with divided(workload, processes, signals) as shared:
                if shared is not None:
                    answer = _samples(meter.measure(shared, case))
        except BaseException as error:
            answer = failure(error, [inspect.getfile(type(meter))])
        return _encoded(answer)

    answer = decode(launch(count, case.device, measure_share, key="context_parallel"))
    return MeasureAnswer({name: answer}, True, time.monotonic() - start)


def compare(job: CompareJob) -> CompareAnswer:
    """Compare a case's mechanism with its reference, which may take more memory than the case may."""
    import torch

    torch.set_num_threads(job.threads)
    _use_device(job.case.device)
    load_workload(job.case, Path(job.data)).compare()
    return CompareAnswer()


def _samples(returned: Any) -> Samples:
    """Check what a meter returned, before it is written into one file with the other meters' answers."""
    if not isinstance(returned, dict):
        raise TypeError(f'measure() is {type(returned).__name__}, not {{metric: {{"samples": [...]}}}}')
    for name, metric in returned.items():
        if not isinstance(metric, dict):
            raise TypeError(f'measure()["{name}"] is {type(metric).__name__}, not {{"samples": [...]}}')
        if "samples" not in metric and "status" not in metric:
            raise TypeError(f'measure()["{name}"] has the keys {list(metric)}, not "samples", or "status" and "reason"')
    samples = Samples(returned)
    _encoded(samples)
    return samples


def _use_device(device: str, limit: int | None = None) -> None:
    """Make a GPU the current one, and hold PyTorch's allocator there to `limit` bytes. A CPU needs nothing.

    Events, graphs and the kernels of other packages use the current device alone.
    """
    import torch

    if not device.startswith("cuda"):
        return
    index = environment.index(device)
    torch.cuda.set_device(index)
    if limit is not None:
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)


def load_workload(case: Case, data: Path) -> Any:
    """Import a case's plug-ins and return its workload; `data` is the folder of the tasks' data."""
    from cab.worker.workload import build

    return build(
        case,
        task_class=registry.load("task", case.task),
        mechanism_class=registry.load("mechanism", case.mechanism),
        softmax_class=registry.load("mechanism", "softmax"),
        folder=data,
    )


def again(question: dict[str, Any], folder: str) -> Callable[[], Any]:
    """Return the pass of a case, set up anew in a process that another tool has started."""
    import torch

    torch.set_num_threads(1)
    run: Callable[[], Any] = load_workload(Case.of(question), Path(folder)).run
    return run


def forecast(job: ForecastJob) -> ForecastAnswer:
    """Count what each case would take, on meta tensors."""
    from cab.worker.cost_forecast import forecasts

    return forecasts(job.cases, job.threads, partial(load_workload, data=Path(job.data)))


def peak(job: PeakJob) -> PeakAnswer:
    """Measure what the device can do at most, with the allocator pinned as for a timing."""
    from cab.instruments.allocator import pin
    from cab.worker.peak_throughput import peaks

    pin()
    check_device(job.device)
    _use_device(job.device)
    return peaks(job.device, job.threads)


def train(job: TrainJob, progress: Path) -> TrainAnswer:
    """Train the case's model, and return its test scores and its learning curve."""
    from cab.instruments.allocator import pin
    from cab.training import launch

    pin()  # unpinned, every large tensor comes from fresh pages: the same numbers in twice the time
    processes, sharding = job.case.settings["training"].get("devices", 1), job.case.settings.get("sharding")
    return launch(processes, job.case.device, lambda devices: _train(job, progress, devices), sharding)


def _train(job: TrainJob, progress: Path, devices: Any) -> TrainAnswer:
    import torch

    from cab.training import train as fit
    from cab.worker.trained_model import build_model

    case = job.case
    torch.set_num_threads(max(1, job.threads // devices.size))
    several_gpus = devices.size > 1 and case.device == "cuda"
    _use_device(f"cuda:{devices.rank}" if several_gpus else case.device, job.device_memory)
    task = build_task(case)
    source = data_of(task, case.task, Path(job.data))
    model = build_model(case, task)[0]
    floors = task.floors() if devices.rank == 0 else {}  # before hours of training that they could end
    result = fit(
        task,
        model,
        Path(job.data),
        case.settings["training"],
        batch=case.batch,
        seed=case.seed,
        device=case.device,
        checkpoint=Path(job.checkpoint),
        progress=Progress(progress) if devices.rank == 0 else lambda line: None,
        devices=devices,
    )
    return TrainAnswer(
        metrics={name: {"samples": values} for name, values in result.scores.items()},
        curve=result.curve,
        best_step=result.best_step,
        stopped=result.stopped,
        notes=result.notes,
        floors=floors,
        source={"name": source.name, "comparable": source.comparable, "counts": source.counts, "note": source.note},
    )


class Progress:
    """Writes the latest line of progress into a file, at most every `TICK` seconds."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0

    def __call__(self, line: str) -> None:
        """Write the line, unless another one has just been written."""
        if time.monotonic() - self._last > TICK:
            self._last = time.monotonic()
            write_whole(self._path, line)
