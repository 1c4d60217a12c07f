"""The store of results: entries, the tidy table made of them, and what each machine can do at most."""
