# Two commands matter: `make demo` shows the whole path on a real model, `make test` runs every check.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test coverage lint unit e2e soak bench constraints clean

help:
	@echo "make demo   set up, then watch a real model decode over a cold tier while a sidecar learns (5 min)"
	@echo "make test   set up, then lint, types, unit and end-to-end tests;  make coverage   the same, and which lines ran"
	@echo "make unit   only the tests that take seconds;  make bench   measure on this machine;  make soak   the fault tests at full size"

setup: $(READY)

# The stamp is written last, so an interrupted set-up is simply continued by the next one. Compiled code caches the
# constants it imports, so a change of those sets up anew, which drops the caches.
CONSTANTS := protos/hotset/protos/features.py protos/hotset/protos/heat.py
$(READY): pyproject.toml constraints.txt scripts/setup $(CONSTANTS)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup
	@touch $@

demo: setup
	@$(BIN)/hotset demo

test: setup
	@VENV="$(VENV)" scripts/check

coverage: setup
	@VENV="$(VENV)" scripts/check --cov --cov-report=term:skip-covered

lint: setup
	@VENV="$(VENV)" scripts/lint

unit: setup
	@$(BIN)/pytest -q -m "not e2e and not gpu"

e2e: setup
	@$(BIN)/pytest -q -m e2e

soak: setup
	@VENV="$(VENV)" scripts/soak

constraints: setup
	@scripts/constraints "$(VENV)" > constraints.txt.new && mv constraints.txt.new constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage* runs
