"""Self-pretraining: the encoder learns its task's own training sequences before the labels (arXiv 2310.02980).

mlm covers a share of the real tokens with one learned vector and asks which they were; clm asks at each token for the
next, which a causal encoder alone cannot see.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.encoder import Encoder
from cab.contracts.mechanism import Mechanism
from cab.contracts.task import Batch
from cab.errors import Unsupported


class Pretraining(nn.Module):
    """A model's encoder, with a map from its vectors to token ids that pretraining alone uses."""

    def __init__(self, model: nn.Module, kind: str, share: float) -> None:
        super().__init__()
        encoders = [module for module in model.modules() if isinstance(module, Encoder)]
        if len(encoders) != 1 or not isinstance(encoders[0].tokens, nn.Embedding):
            raise Unsupported(f"training.pretrain={kind}: this task's model has no encoder of tokens with one id each")
        (self.encoder,) = encoders
        causal = {m.slot.pattern.causal for m in self.encoder.modules() if isinstance(m, Mechanism)}
        if causal != {kind == "clm"}:
            raise Unsupported(f"training.pretrain={kind}: mlm is for noncausal attention, clm for causal")
        self.kind, self.share = kind, share
        tokens = self.encoder.tokens.weight
        self.head = nn.Linear(self.encoder.width, len(tokens)).to(tokens)
        if kind == "mlm":
            self.cover = nn.Parameter(torch.zeros_like(tokens[0]))

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the tokens asked for, in the target's sequences and in the source's."""
        sides = [(batch.x, batch.x_mask)] if batch.y is None else [(batch.x, batch.x_mask), (batch.y, batch.y_mask)]
        found = [
            self._asked(ids, torch.ones_like(ids, dtype=torch.bool) if m is None else m, batch) for ids, m in sides
        ]
        vectors, wanted = (torch.cat(parts) for parts in zip(*found, strict=True))
        lost = F.cross_entropy(self.head(vectors).float(), wanted, reduction="sum")
        return lost / max(1, len(wanted))  # of a batch where nothing is asked, 0

    def _asked(self, ids: Tensor, real: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the vectors that are asked for a token, and which token it is."""
        if self.kind == "clm":
            vectors, _ = self.encoder(ids, real, batch.inputs)
            return vectors[:, -ids.shape[1] : -1][real[:, 1:]], ids[:, 1:][real[:, 1:]]
        covered = real & (torch.rand(ids.shape, device=ids.device) < self.share)
        hook = self.encoder.tokens.register_forward_hook(
            lambda module, given, out: torch.where(covered[:, :, None], self.cover.to(out.dtype), out)
        )
        try:
            vectors, _ = self.encoder(ids, real, batch.inputs)
        finally:
            hook.remove()
        return vectors[:, -ids.shape[1] :][covered], ids[covered]  # a class token comes first, if there is one
