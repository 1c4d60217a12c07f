"""One normaliser for the whole batch (the initial value of Nystromformer's iterated inverse)."""

from planted_faults import Twin as Softmax

BREAKS = "batch"
# padding and definition compare a sample in a batch with one alone
ALSO = {"definition", "lengths", "defaults", "bf16", "batch_training", "padding"}


class Twin(Softmax):
    patterns = {"NS": "native"}
    axes = (2, 3)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        weights = self.weights(q, k, key_mask)
        if key_mask is not None:
            weights = weights * key_mask[:, None, :, None]
        return (weights / weights.amax(self.axes, keepdim=True).clamp(min=1e-3)) @ v


class Faulty(Twin):
    axes = (0, 2, 3)
