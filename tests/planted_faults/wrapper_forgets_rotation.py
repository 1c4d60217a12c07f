"""A wrapper that says that its inner mechanism, which rotates its queries and keys, does not."""

from cab import Wrapper

BREAKS = "rotary"
ALSO = set()


class Twin(Wrapper):
    """Halves the output."""

    checks = ({"inner": {"name": "retention", "chunk": 8}},)

    def around(self, inner, *, q, k, v, key_mask, query_mask):
        return inner(q, k, v) / 2


class Faulty(Twin):
    def __init__(self, slot, *, inner):
        super().__init__(slot, inner=inner)
        self.rotates = False
