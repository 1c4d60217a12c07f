"""Base classes of tasks: the model, loss, score and floors that several tasks share. A task's file adds its data."""
