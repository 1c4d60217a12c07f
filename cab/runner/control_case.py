"""The control case: a small fixed timing, which a node makes before and after each bundle of timings."""

from cab.contracts.case import Case

PROCESSES = 3  # fresh ones for each of the two times, of which the median counts
LENGTH = 256  # tokens: some tenths of a millisecond on one core


def control_case(device: str, threads: int | None) -> Case:
    """Return the control case: softmax attention on a short sequence, on the device and threads of a bundle."""
    return Case(
        mechanism="softmax",
        params={},
        pattern="NS",
        task="speed",
        task_params={},
        n=LENGTH,
        m=LENGTH,
        batch=1,
        heads=4,
        dim=64,
        dtype="float32",
        device=device,
        backend="eager",
        level="attend",
        pass_="forward",
        seed=0,
        scale="quick",
        settings={} if threads is None else {"threads": threads},
    )
