"""Regression tracking: whether one revision, backend or mechanism is slower than another, and how sure that is."""
