"""What meters measure with: timers, the counters of FLOPs and memory traffic, and control of the allocator."""
