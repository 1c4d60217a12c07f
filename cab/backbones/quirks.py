"""Quirks of Long Range Arena's released code: where it differs from the paper, for `protocol=lra`. Each has a name."""

from collections.abc import Mapping

from torch import Tensor

from cab.backbones.encoder import Classifier, pooled
from cab.errors import unknown

PROTOCOLS = ("clean", "lra")


def check_protocol(protocol: str) -> None:
    """Raise `UsageError` unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)


class PaddingPoolingClassifier(Classifier):
    """`padding-is-pooled`: the pooling includes the positions of padding (common_layers.py of the release)."""

    def forward(self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        x, _ = self.encoder(ids, mask, inputs)
        return self.head(pooled(x, None, self.pooling))  # type: ignore[no-any-return]
