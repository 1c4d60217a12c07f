"""What meters measure with: the allocator, the counters of FLOPs and memory traffic, and the timers."""
