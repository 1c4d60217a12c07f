"""Numbers as people read them: one unit for a whole column, three digits, and no exponents."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

# unit of a row -> what it is shown in, largest first
_SHOWN = {
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "FLOP": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")),
    "parameters": ((1e6, "million"), (1e3, "thousand"), (1.0, "")),
    "fraction": ((0.01, "%"),),
}
# what another machine would measure differently, of meters that are not installed here; a meter's card says it itself
OF_THE_HOST = ("seconds", "bytes", "joules", "watts", "tokens", "instructions")
# what is asked of any mechanism, whatever the task; other units belong to a task's own scores
OF_THE_COST = ("FLOP", "seconds", "bytes", "joules", "watts", "parameters", "FLOP/byte", "tokens", "instructions")


@dataclass(frozen=True)
class Scale:
    """The unit that a column is shown in."""

    factor: float
    unit: str

    def text(self, value: float) -> str:
        """Write a value of the row's unit in this one."""
        shown = value / self.factor
        return f"{shown:.1f}" if self.unit == "%" else number(shown)

    def interval(self, low: float | None, high: float | None) -> str:
        """Write an interval, or nothing where there is none."""
        return "" if low is None or high is None else f"[{self.text(low)}, {self.text(high)}]"

    def half_width(self, value: float, low: float | None, high: float | None) -> str:
        """Write the longer arm of an interval: to the decimals of the value, or to a digit that shows something."""
        if low is None or high is None:
            return ""
        arm = max(value - low, high - value) / self.factor
        if arm > abs(value) / self.factor:
            return f"±{number(arm)}"
        _, _, decimals = self.text(value).partition(".")
        text = f"{arm:,.{len(decimals)}f}"
        return f"±{text if float(text.replace(',', '')) or not arm else number(float(f'{arm:.1g}')).rstrip('0')}"

    def header(self, metric: str) -> str:
        """Name a column: the metric in words, with the unit."""
        words = "FLOPs" if metric == "flops" else metric.replace("_", " ").replace("flops", "FLOPs")
        return f"{words} ({self.unit})" if self.unit else words


def scale(unit: str, values: Iterable[float | None]) -> Scale:
    """Choose the unit for a column: the largest in which its middle value is at least 1."""
    found = [abs(v) for v in values if v]
    if unit not in _SHOWN:
        return Scale(1.0, unit)
    middle = median(found) if found else 0.0
    for factor, name in _SHOWN[unit]:
        if middle >= factor:
            return Scale(factor, name)
    return Scale(*_SHOWN[unit][-1])


def number(value: float) -> str:
    """Write three significant digits, with commas and without an exponent: 0.0123, 1.2, 45,100."""
    if value == 0 or abs(value) >= 1e15 or abs(value) < 1e-6:
        return f"{value:.3g}"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    digits = 2
    size = abs(value)
    while size < 0.9995:
        size, digits = size * 10, digits + 1
    while size >= 9.995:
        size, digits = size / 10, digits - 1
    return f"{value:.{max(digits, 0)}f}"
