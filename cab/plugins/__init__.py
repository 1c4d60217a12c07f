"""Plug-ins by name: where each is found, what its card says, and the fingerprint of its source."""
