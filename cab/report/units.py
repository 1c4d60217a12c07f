"""Numbers as people read them: one unit for a whole column, three digits, no exponents."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

# unit of the rows -> (factor, unit) that it may be shown in, the largest first
_DISPLAY_UNITS = {
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "FLOP": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")),
    "parameters": ((1e6, "million"), (1e3, "thousand"), (1.0, "")),
    "fraction": ((0.01, "%"),),
}


@dataclass(frozen=True)
class DisplayUnit:
    """The unit that a column is shown in. Its methods take values in the unit of the rows."""

    factor: float
    name: str

    def text(self, value: float) -> str:
        """Write a value, without the unit."""
        scaled = value / self.factor
        return f"{scaled:.1f}" if self.name == "%" else format_number(scaled)

    def interval(self, low: float | None, high: float | None) -> str:
        """Write an interval, or nothing where there is none."""
        return "" if low is None or high is None else f"[{self.text(low)}, {self.text(high)}]"

    def half_width(self, value: float, low: float | None, high: float | None) -> str:
        """Write the longer arm of an interval, or nothing where there is none.

        It has the decimals of the value. Where these would show a zero, it has one significant digit.
        """
        if low is None or high is None:
            return ""
        half_width = max(value - low, high - value) / self.factor
        if half_width > abs(value) / self.factor:
            return f"±{format_number(half_width)}"
        _, _, decimals = self.text(value).partition(".")
        text = f"{half_width:,.{len(decimals)}f}"
        shows_a_digit = float(text.replace(",", "")) > 0
        return f"±{text if shows_a_digit or not half_width else format_number(float(f'{half_width:.1g}')).rstrip('0')}"

    def relative_half_width(self, value: float, low: float | None, high: float | None) -> str:
        """Write the longer arm of an interval in percent of the value, with two digits; nothing where there is none."""
        if low is None or high is None or not value:
            return ""
        percent = 100 * max(value - low, high - value) / abs(value)
        if percent >= 999:
            return "±>999%"
        return f"±{percent:.0f}%" if percent >= 9.95 else f"±{percent:.1f}%"

    def header(self, metric: str) -> str:
        """Write the head of a column: the metric in words, with the unit."""
        words = "FLOPs" if metric == "flops" else metric.replace("_", " ").replace("flops", "FLOPs")
        return f"{words} ({self.name})" if self.name else words


def display_unit(unit: str, values: Iterable[float | None]) -> DisplayUnit:
    """Choose the unit for a column: the largest in which the median of its non-zero values is at least 1."""
    magnitudes = [abs(value) for value in values if value]
    if unit not in _DISPLAY_UNITS:
        return DisplayUnit(1.0, unit)
    median_magnitude = median(magnitudes) if magnitudes else 0.0
    for factor, name in _DISPLAY_UNITS[unit]:
        if median_magnitude >= factor:
            return DisplayUnit(factor, name)
    return DisplayUnit(*_DISPLAY_UNITS[unit][-1])


def format_number(value: float) -> str:
    """Write three significant digits, with commas and without an exponent: 0.0123, 1.20, 45,100."""
    if value == 0 or abs(value) >= 1e15 or abs(value) < 1e-6:
        return f"{value:.3g}"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    decimals = 2
    magnitude = abs(value)
    while magnitude < 0.9995:
        magnitude, decimals = magnitude * 10, decimals + 1
    while magnitude >= 9.995:
        magnitude, decimals = magnitude / 10, decimals - 1
    return f"{value:.{max(decimals, 0)}f}"
