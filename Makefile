# Everything a developer types. All of it runs in .venv, which `make setup` fills from the lock files and nothing else.

PYTHON ?= python3
UV ?= uv
ARGS ?=
API_ARGS ?=
BACKUP_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
BENCH := $(VENV)/.bench

.DEFAULT_GOAL := help
.PHONY: help setup demo run test quick lint bench lock

help:                ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(READY)      ## make .venv from the lock files (again only when they change)

demo: $(READY)       ## drop generated files, watch them become rows, rejects and history, damage a table and restore it
	@$(RUN) -m local_emulator.demo $(ARGS)

run: $(READY)        ## start the whole system here, on port 8887, until Ctrl-C
	@$(RUN) -m local_emulator up $(ARGS)

test: $(READY)       ## every test
	$(RUN) -m pytest -n 2 --dist worksteal $(ARGS)

quick: $(READY)      ## the tests that take seconds and start no server but PostgreSQL
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow" tests/unit tests/integration \
		--ignore tests/integration/objectstore --ignore tests/integration/test_embedded_postgres.py $(ARGS)

lint: $(READY)       ## ruff (rules and layout) and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(BENCH)      ## ingest, API, backup beside their references; for less: ARGS="--rows 1000000" API_ARGS="--seconds 2"
	@$(RUN) -m bench.ingest $(ARGS)
	@$(RUN) -m bench.api $(API_ARGS)
	@$(RUN) -m bench.backup $(BACKUP_ARGS)

lock:                ## resolve pyproject.toml into the lock files again (needs uv)
	$(UV) pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--upgrade --quiet --output-file requirements.txt
	$(UV) pip compile pyproject.toml --group dev --constraints requirements.txt --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --upgrade --quiet --output-file requirements-dev.txt
	$(UV) pip compile --group bench --constraints requirements-dev.txt --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --upgrade --quiet --output-file requirements-bench.txt

# No dependency is resolved here: the lock files name each package, its version and its hash, setuptools included, so
# that the project itself is built without a download. The stamp is written last: an install that failed runs again.
$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Rowdock needs Python 3.11 or newer; \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another with: make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "\`$(PYTHON)\` cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What the API is compared with; setup and tests do without it.
$(BENCH): $(READY) requirements-bench.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@
