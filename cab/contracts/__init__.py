"""What every plug-in and every part of the harness agrees on. Only `mechanism` and `task` need torch."""
