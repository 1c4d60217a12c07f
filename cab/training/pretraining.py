"""Self-pretraining: before the labels, the encoder learns to predict tokens of the training sequences.

Source: Amos et al., arXiv 2310.02980. `mlm` (masked language modelling) replaces a share of the real tokens by one
learned vector and predicts them. `clm` (causal language modelling) predicts at each token the next one, which needs a
causal encoder.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.encoder import Encoder
from cab.contracts.mechanism import Mechanism
from cab.contracts.task import Batch
from cab.errors import Unsupported


class Pretraining(nn.Module):
    """A model's encoder, with a linear map from its vectors to token ids that only pretraining uses.

    `share` is the probability that mlm masks a token. `Unsupported` where the model has no encoder of one id a token,
    or attention of the wrong pattern.
    """

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
        embeddings = self.encoder.tokens.weight
        self.head = nn.Linear(self.encoder.width, len(embeddings)).to(embeddings)
        if kind == "mlm":
            self.mask_vector = nn.Parameter(torch.zeros_like(embeddings[0]))

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the predicted tokens of x and, where there is one, of y.

        It is 0 where no token is to be predicted.
        """
        sequences = [(batch.x, batch.x_mask)]
        if batch.y is not None:
            sequences.append((batch.y, batch.y_mask))
        predictions = [
            self.predict(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask, batch)
            for ids, mask in sequences
        ]
        vectors, tokens = (torch.cat(parts) for parts in zip(*predictions, strict=True))
        total = F.cross_entropy(self.head(vectors).float(), tokens, reduction="sum")
        return total / max(1, len(tokens))

    def predict(self, ids: Tensor, real: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode ids (batch, n), of which the mask `real` (batch, n) marks all but padding.

        Returns the vectors (count, width) that tokens are to be predicted from, and the ids (count,) of those tokens.
        """
        if self.kind == "clm":
            vectors, _ = self.encoder(ids, real, batch.inputs)
            return vectors[:, -ids.shape[1] : -1][real[:, 1:]], ids[:, 1:][real[:, 1:]]
        masked = real & (torch.rand(ids.shape, device=ids.device) < self.share)

        def mask_tokens(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            return torch.where(masked[:, :, None], self.mask_vector.to(embedded.dtype), embedded)

        hook = self.encoder.tokens.register_forward_hook(mask_tokens)
        try:
            vectors, _ = self.encoder(ids, real, batch.inputs)
        finally:
            hook.remove()
        return vectors[:, -ids.shape[1] :][masked], ids[masked]  # without the class token, which stands first
