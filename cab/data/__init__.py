"""The data of tasks: downloads, readers of published layouts, generators and splits. No task or model is imported."""
