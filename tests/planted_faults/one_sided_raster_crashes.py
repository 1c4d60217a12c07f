"""A sequence of queries that reads a raster is declared, and ends in an error."""

from planted_faults import Twin as Softmax

BREAKS = "definition"
ALSO = {  # whatever computes there; `compile` takes the last layout alone
    *("autocast", "batch", "batch_training", "bf16", "defaults", "empty", "flops", "heads", "hidden"),
    *("holes", "layout", "learning", "lengths", "mask", "meta", "modes", "padding", "padding_training"),
    *("randomness", "saving", "untouched", "use"),
}


class Twin(Softmax):
    patterns = {"NC": "native"}
    rasters = (1, 2)
    source_rasters = (1, 2)


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if self.slot.source_raster and self.slot.raster is None:
            raise RuntimeError("a raster of queries is needed")
        return super().attend(q, k, v, key_mask, query_mask)
