"""What Long Range Arena's released code does unlike its description, for `protocol=lra`; each has a name."""

from collections.abc import Mapping

from torch import Tensor

from cab.backbones.encoder import Classifier, pooled
from cab.errors import unknown

PROTOCOLS = ("clean", "lra")


def checked(protocol: str) -> str:
    """Return `protocol`, or raise a usage error."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    return protocol


class PoolsPadding(Classifier):
    """`padding-is-pooled`: the pooling is over all positions, masked ones too (common_layers.py of the release)."""

    def forward(self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        x, _ = self.encoder(ids, mask, inputs)
        return self.head(pooled(x, None, self.pooling))  # type: ignore[no-any-return]
