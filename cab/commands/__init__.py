"""The commands that import and run plug-ins in their own process: check, data and plot. They import torch."""
