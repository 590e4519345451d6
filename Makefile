# make demo   sets up, then makes a small corpus and runs the whole tool on it
# make test   sets up, then runs all tests
# make lint   sets up, then ruff and mypy;   make bench   the benchmarks;   make lock   pins the packages anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup

.PHONY: setup demo test lint bench lock

setup: $(SETUP)

# Everything that is installed is pinned and hashed, nothing else is resolved: in requirements.lock what Reelcache needs
# to run, with its extra s3; in requirements-dev.lock what its developers need besides.
LOCKS := requirements.lock requirements-dev.lock
$(SETUP): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Reelcache needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes $(LOCKS:%=-r %)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(SETUP)

demo: setup
	$(BIN)/reelcache demo

test: setup
	$(BIN)/python -m pytest -rs -n 3 --dist loadfile --no-loadscope-reorder  # for two cores: many tests wait

# Pins what pyproject.toml asks for, and keeps what is pinned and still fits. Needs uv, and the network.
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml --extra s3

lock:
	$(PIN) --output-file requirements.lock
	$(PIN) --extra torchcodec --extra dev --output-file requirements-dev.lock --constraint requirements.lock \
		$$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/--no-emit-package \1/p' requirements.lock)
	sed -i '/^$$/,$$d' requirements-dev.lock  # after a blank line uv lists what it left out

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
