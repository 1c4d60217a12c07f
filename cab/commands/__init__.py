"""The commands that run plug-ins in their own process: check, data, plot."""
