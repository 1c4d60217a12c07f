# Set-up, demo and checks. On a fresh machine with Python 3.11 and make, each target needs nothing before it.
PYTHON ?= python3
BIN := .venv/bin
# pip's errors, and none of its warnings about mirrors, versions and paths
QUIET := --quiet --quiet --disable-pip-version-check

.PHONY: install demo check test test-all test-engines test-parity docs clean

install: .venv/installed

# the pinned torch first: an unpinned one pulls gigabytes of CUDA packages
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(QUIET) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install $(QUIET) -c constraints.txt -e ".[browser,dev,devices,track]"
	touch $@

# the main job on real data, and its report
demo: install
	$(BIN)/cab run mechanism=agent task=lra_text
	$(BIN)/cab report

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest

# what takes more than 20 seconds, too: inductor, twenty kills, a wheel with torch
test-all: test
	$(BIN)/pytest -m long

# a Slurm and a Ray of two nodes each on this machine, through deaths of jobs and nodes; what is not there is skipped with
# its reason. Slurm: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge. Ray: the extra `ray`
test-engines: install
	$(BIN)/pytest -m long -n 0 -rs tests/runner/test_slurm.py tests/runner/test_ray_cluster.py

# our mechanisms against independent implementations, which cannot all live in one environment
test-parity: .venv-parity/installed .venv-parity-fla/installed
	CAB_PARITY=parity .venv-parity/bin/pytest -m "long or not long" -rs tests/against_others
	CAB_PARITY=parity-fla .venv-parity-fla/bin/pytest -m "long or not long" -rs tests/against_others

.venv-%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install $(QUIET) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	.venv-$*/bin/pip install $(QUIET) -c constraints.txt -e ".[dev,$*]"
	touch $@

# the site of docs/, in build/site; a link that leads nowhere is an error. Needs neither torch nor `make install`
docs: .venv-docs/installed
	.venv-docs/bin/zensical build --clean --strict

.venv-docs/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])" \
		| xargs .venv-docs/bin/pip install $(QUIET) -c constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-parity .venv-parity-fla .venv-docs dist build .cache .pytest_cache .mypy_cache .ruff_cache
