"""What a forked child does: construct, check the laws, train, or measure. It returns samples; it writes no results.

Each job is a dictionary; its answer is {"ok": ...} or {"status": ..., "reason": ...}. Nothing but the answer's file
and the progress file is written.
"""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case
from cab.errors import Unsupported, UsageError, Wrong
from cab.paths import write_whole
from cab.plugins import registry
from cab.worker.preflight import build_task, check_device, preflight


def serve(job: dict[str, Any]) -> None:
    """Do the job and write its answer."""
    import torch

    # float32 is float32: in products PyTorch leaves it so, in a GPU's convolutions it would round to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    try:
        text = _written({"ok": _KINDS[job["kind"]](job)})
    except BaseException as error:
        text = _written(failure(error))
    write_whole(Path(job["result"]), text)


def _written(answer: dict[str, Any]) -> str:
    """Write an answer as JSON; what a plug-in returns may hold arrays or NaN, which no file of ours holds."""
    try:
        return json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}: samples are finite numbers of Python, in lists and dictionaries") from None


def failure(error: BaseException) -> dict[str, Any]:
    """Turn an exception into a status and its reason; the traceback goes to the child's output."""
    from cab.worker.workload import is_out_of_memory

    for kind, status in ((Unsupported, "unsupported"), (Wrong, "wrong"), (UsageError, "usage")):
        if isinstance(error, kind):
            return {"status": status, "reason": str(error)}
    traceback.print_exception(error)
    if is_out_of_memory(error):
        return {"status": "oom", "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
    return {"status": "error", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:500]}


def laws(job: dict[str, Any]) -> dict[str, Any]:
    """Run every law on the mechanism in one pattern, and its own hyper-parameters against `reference`."""
    import torch

    from cab.conformance import check, check_params

    torch.set_num_threads(1)
    _use_device(job["device"], job)
    cls = registry.load("mechanism", job["mechanism"])
    how = {"backend": job["backend"], "device": job["device"]}
    verdicts = check(cls, patterns=[job["pattern"]], **how)
    verdicts += check_params(cls, job["pattern"], job["params"], **how)
    return {
        "failures": [f"{v.law}: {v.reason}" for v in verdicts if v.status == "fail"],
        "exempt": {v.law: v.reason for v in verdicts if v.status == "exempt"},
        "count": len(verdicts),
    }


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Let each of the job's meters measure one case; a meter that fails costs its own metrics only."""
    if job["pinned"]:
        from cab.instruments.allocator import pin

        if not pin():
            raise Unsupported("the allocator cannot be pinned: another malloc than glibc's is preloaded")
    import torch

    case = Case.of(job["case"])
    torch.set_num_threads(job["threads"])
    _use_device(case.device, job)
    start = time.monotonic()
    meters = {name: registry.load("meter", name)() for name in job["meters"]}
    workload = _workload(case, Path(job["data"]))
    answers: dict[str, Any] = {}
    compared = job.get("compared", False)  # by another process of this run
    for name, meter in meters.items():
        try:
            if meter.environment:  # what is counted on meta tensors needs no real inputs
                workload.check(compared)
                compared = True
            answers[name] = {"ok": _samples(meter.measure(workload, case))}
        except BaseException as error:
            answers[name] = failure(error)
    return {"meters": answers, "compared": compared, "seconds": time.monotonic() - start}


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Compare a case's mechanism with its definition, which may take more memory than the case is given."""
    import torch

    case = Case.of(job["case"])
    torch.set_num_threads(job["threads"])
    _use_device(case.device, {})
    _workload(case, Path(job["data"])).compare()
    return {}


def _samples(given: Any) -> dict[str, dict[str, Any]]:
    """Check what a meter returned, before it is written with the other meters' answers."""
    if not isinstance(given, dict) or not all(isinstance(found, dict) for found in given.values()):
        raise TypeError(f"measure returned {type(given).__name__}: a dictionary for each metric is needed")
    _written(given)
    return given


def _use_device(device: str, job: dict[str, Any]) -> None:
    """Make a GPU the current one, and hold PyTorch's allocator there to what the case may take.

    The process itself has a limit of its own. Events, graphs and kernels of others use the current device alone.
    """
    import torch

    if not device.startswith("cuda"):
        return
    index = environment.index(device)
    torch.cuda.set_device(index)
    limit = job.get("device_memory")
    if limit is not None:
        whole = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), index)


def _workload(case: Case, data: Path) -> Any:
    from cab.worker.workload import build

    return build(
        case,
        task_class=registry.load("task", case.task),
        mechanism_class=registry.load("mechanism", case.mechanism),
        softmax_class=registry.load("mechanism", "softmax"),
        folder=data,
    )


def again(question: dict[str, Any], folder: str) -> Callable[[], Any]:
    """Set a case up anew, in a process of another tool's, and return its pass."""
    import torch

    torch.set_num_threads(1)
    run: Callable[[], Any] = _workload(Case.of(question), Path(folder)).run
    return run


def forecast(job: dict[str, Any]) -> dict[str, Any]:
    """Count what each case would take, on meta tensors."""
    from cab.worker.cost_forecast import forecasts

    cases = [Case.of(question) for question in job["cases"]]
    return forecasts(cases, Path(job["data"]), job["threads"], _workload)


def peak(job: dict[str, Any]) -> dict[str, Any]:
    """Measure what the device can do at most, with the allocator of a timing child."""
    import torch

    from cab.instruments.allocator import pin
    from cab.worker.peak_throughput import peaks

    pin()
    check_device(job["device"], torch)
    _use_device(job["device"], job)
    return peaks(job["device"], job["threads"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train the case's model and return its test scores, one an example, with the learning curve."""
    from cab.instruments.allocator import pin
    from cab.training import launch

    pin()  # where it cannot be, every large tensor comes from fresh pages: the same numbers in twice the time

    case = Case.of(job["case"])
    return launch(case.settings["training"].get("devices", 1), case.device, lambda devices: _train(job, case, devices))


def _train(job: dict[str, Any], case: Case, devices: Any) -> dict[str, Any]:
    import torch

    from cab.attention.build import LayerBuilder
    from cab.contracts.task import Missing
    from cab.training import train as fit

    torch.set_num_threads(max(1, job["threads"] // devices.size))
    _use_device(f"cuda:{devices.rank}" if devices.size > 1 and case.device == "cuda" else case.device, job)
    task = build_task(case)
    source = task.source(Path(job["data"]))
    if isinstance(source, Missing):
        raise UsageError(f"task '{case.task}': no data in {job['data']}; run: {source.run}")
    attention = LayerBuilder(registry.load("mechanism", case.mechanism), case.params, case.pattern, case.backend)
    with torch.random.fork_rng():
        torch.manual_seed(case.seed)
        model = task.model(attention)
    done = fit(
        task,
        model,
        Path(job["data"]),
        case.settings["training"],
        batch=case.batch,
        seed=case.seed,
        device=case.device,
        checkpoint=Path(job["checkpoint"]),
        progress=_progress(job["progress"]) if devices.rank == 0 else lambda line: None,
        devices=devices,
    )
    return {
        "metrics": {name: {"samples": values} for name, values in done.scores.items()},
        "curve": done.curve,
        "best_step": done.best_step,
        "stopped": done.stopped,
        "notes": done.notes,
        "floors": task.floors() if devices.rank == 0 else {},
        "source": {"name": source.name, "comparable": source.comparable, "counts": source.counts, "note": source.note},
    }


def _progress(path: str) -> Callable[[str], None]:
    last = [0.0]

    def tell(line: str) -> None:
        if time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            write_whole(Path(path), line)

    return tell


_KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "preflight": preflight,
    "laws": laws,
    "compare": compare,
    "forecast": forecast,
    "measure": measure,
    "peak": peak,
    "train": train,
}
