# Two commands are enough:
#   make demo    a real repository, a real model, every byte proved
#   make test    the linters and all tests but the heavy ones
#
# Everything is installed into .venv (and what tests and bench run for real: git-theta 0.2.0 into .venv-git-theta,
# the Git LFS server giftless into .venv-giftless); nothing outside this folder is touched, but for git-lfs from
# the system's packages where `make test` runs as root and it is missing (with CI=true OpenSSH's server as well).
# `make PYTHON=/path/to/python3.12 ...` picks the Python.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
PEER := .venv-git-theta
GIFTLESS := .venv-giftless
BIN := $(VENV)/bin
# Processes for pytest: one a core by default; WORKERS=0 runs the tests in one process (for a debugger).
WORKERS ?= auto
# Extra arguments for pytest, as in `make test ARGS='-k safetensors'`.
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PYTHONNOUSERSITE := 1

.PHONY: help
help:
	@echo "make demo        show it at work on a real model, about a minute after the set-up"
	@echo "make test        linters and tests; installs git-lfs where it can"
	@echo "make test-heavy  what 'make test' leaves out: long and large"
	@echo "make test-all    these, and ten times as many random examples"
	@echo "make lint        ruff, mypy --strict, import contracts"
	@echo "make format      let ruff sort imports and lay out the code"
	@echo "make bench       beside git's own pipe, git-lfs and git-theta 0.2.0; some 35 minutes, 20 GB of disk"
	@echo "make bench-quick the same with less data and fewer runs (under two minutes)"
	@echo "make bench-parts codecs and the hash of compatible mode by themselves"
	@echo "make clean       remove the environments and every cache"

.PHONY: demo
demo: $(VENV)/.ready
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m demo

.PHONY: lint
lint: $(VENV)/.ready
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy --strict"
	@$(BIN)/mypy
	@echo "== import contracts"
	@$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.ready
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: test
test: lint $(PEER)/.ready $(GIFTLESS)/.ready git-lfs sshd
	@echo "== tests"
	@$(BIN)/python -m pytest -m "not heavy" --numprocesses=$(WORKERS) $(ARGS)

.PHONY: test-heavy
test-heavy: $(VENV)/.ready $(PEER)/.ready $(GIFTLESS)/.ready git-lfs sshd
	@echo "== heavy tests"
	@$(BIN)/python -m pytest -m heavy --numprocesses=$(WORKERS) --durations=0 --durations-min=30 $(ARGS) || [ $$? -eq 5 ]  # 5: no test is marked heavy

# Not in CI: how long it takes is not bounded well enough yet.
.PHONY: test-thorough
test-thorough: $(VENV)/.ready
	@echo "== property tests, many more examples"
	@$(BIN)/python -m pytest -m "not heavy" --hypothesis-profile=thorough --timeout=900 \
		--numprocesses=$(WORKERS) $(ARGS) tests/property

.PHONY: test-all
test-all: test test-heavy test-thorough

.PHONY: bench bench-quick bench-parts
bench: $(VENV)/.ready $(PEER)/.ready $(GIFTLESS)/.ready git-lfs
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m bench $(ARGS)
bench-quick: $(VENV)/.ready $(PEER)/.ready $(GIFTLESS)/.ready git-lfs
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m bench --quick $(ARGS)
bench-parts: $(VENV)/.ready
	@$(BIN)/python -m bench.codecs
	@$(BIN)/python -m bench.lsh

.PHONY: clean
clean:
	@rm -rf $(VENV) $(PEER) $(GIFTLESS) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench/results
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The environments. A stamp is newer than what it was made from; so a second `make` is instant.

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup
	@scripts/setup dev $(VENV)

$(PEER)/.ready: constraints-git-theta.txt scripts/setup
	@scripts/setup git-theta $(PEER)

$(GIFTLESS)/.ready: constraints-giftless.txt scripts/setup
	@scripts/setup giftless $(GIFTLESS)

.PHONY: git-lfs sshd
git-lfs sshd:
	@scripts/setup $@
