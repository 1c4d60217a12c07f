"""The auxiliary loss is a mean over all keys, masked ones too."""

from planted_faults import NoncausalSelf, masked_mean

BREAKS = "padding_training"
ALSO = set()


class Twin(NoncausalSelf):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if self.training:
            self.aux_loss = 0.1 * self.mean_of(k, key_mask).square().mean()
        return super().attend(q, k, v, key_mask, query_mask)

    def mean_of(self, k, key_mask):
        return masked_mean(k, key_mask)


class Faulty(Twin):
    def mean_of(self, k, key_mask):
        return masked_mean(k, None)
