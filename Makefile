# One target a thing that people do. `make` alone lists them with what they are for.
# Needs Python 3.11 or newer, make and the package registries; everything else comes from those.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What the tests and type checks look at; a room that is not there yet is left out.
ROOMS := $(wildcard bench foldline infra ingest projections schemas stream_processors workers)
FAST_TESTS := $(wildcard tests/test_tidy.py tests/unit tests/property tests/replay tests/simulation)
STACK_TESTS := $(wildcard tests/contract tests/integration tests/e2e)
PYTEST_ARGS ?=

.PHONY: help
help: ## List the targets and what they are for
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' \
		| while IFS=$$'\t' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(STAMP) ## Make .venv with every locked package (once for each lock file)

# The lock names every package, so nothing is to be resolved: pip, asked to, would look at versions
# that came out after the lock and refuse them for want of a hash.
$(STAMP): requirements-dev.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Foldline needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setup: installing the locked packages into $(VENV)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --require-hashes --requirement requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check --quiet
	@touch $(STAMP)

.PHONY: demo
demo: $(STAMP) ## Start the whole system here, run real work on it, prove the log, clean up
	@$(BIN)/foldline demo

.PHONY: dev
dev: $(STAMP) ## Start the whole system here and keep it running until Ctrl-C
	@$(BIN)/foldline dev

.PHONY: check
check: $(STAMP) ## Fast checks only: style, types, import rules, unit, property and replay tests
	@echo "check: style";   $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "check: types";   $(BIN)/mypy $(addprefix -p ,$(ROOMS)) && $(BIN)/mypy --explicit-package-bases tests
	@echo "check: imports"; $(BIN)/lint-imports
	@echo "check: tests";   $(BIN)/python -m pytest $(FAST_TESTS) $(PYTEST_ARGS)

.PHONY: test-stack
test-stack: $(STAMP) ## Slow tests only: contract, integration and end to end, on real servers
	@$(BIN)/python -m pytest $(STACK_TESTS) $(PYTEST_ARGS)

.PHONY: test
test: $(STAMP) ## Everything: the fast checks, then contract, integration and end to end
	@if $(MAKE) --no-print-directory check && $(MAKE) --no-print-directory test-stack; \
	then echo "make test: PASSED"; \
	else echo "make test: FAILED (the first failure is above)"; exit 1; fi

SEEDS ?= 2000
FIRST_SEED ?= 1
HOURS ?= 8
.PHONY: sim
sim: $(STAMP) ## Simulate the whole system: SEED=7 replays one run, SEEDS=2000 FIRST_SEED=1 runs many
ifdef SEED
	@$(BIN)/python -m tests.simulation --seed $(SEED)
else
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first-seed $(FIRST_SEED)
endif

.PHONY: sim-long
sim-long: $(STAMP) ## The same for HOURS=8, from a seed that no run had before
	@$(BIN)/python -m tests.simulation --hours $(HOURS)

MINUTES ?= 5
.PHONY: chaos
chaos: $(STAMP) ## Break the real stack at random for MINUTES=5 while jobs flow, and check everything
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(CHAOS_ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure this machine; the figures of the README come from here
	@$(BIN)/python -m bench

.PHONY: schemas
schemas: $(STAMP) ## Derive the Avro files from the classes; released files are never rewritten
	@$(BIN)/python -m schemas.derive

# uv names the registry in no file as long as nothing asks it to.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
.PHONY: lock
lock: $(STAMP) ## Resolve pyproject.toml into the two hash-locked requirement files
	@$(COMPILE) --all-extras --output-file requirements-dev.txt pyproject.toml
	@$(COMPILE) --extra api --extra follower --extra projection --extra edge --extra local --extra demo \
		--constraint requirements-dev.txt --output-file requirements.txt pyproject.toml

.PHONY: clean
clean: ## Remove everything that was made here (not the data directory of `foldline dev`)
	@rm -rf $(VENV) dist htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache
	@find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
