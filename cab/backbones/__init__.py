"""Models with slots: a task asks `attention(slot)` for the layer of each slot, and owns everything else."""
