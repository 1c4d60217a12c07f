"""The tasks: one file each, whose name is the task's."""
