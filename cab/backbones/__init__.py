"""Models with slots: a task asks `attention(slot)` for the layer of each one and owns the rest."""
