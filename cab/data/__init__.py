"""Where tasks get real data: downloads, readers of known layouts, and splits. Knows no task and no model."""
