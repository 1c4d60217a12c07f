# Set-up and checks. On a fresh machine with Python 3.11 and make, `make test` needs nothing before it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache
