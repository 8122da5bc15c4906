# Limbeck. `make` alone lists what there is; every target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The stamp's name holds what was installed and where: a second run, or a fresh check-out of the same files,
# installs nothing, and a changed requirement installs again.
STAMP := $(VENV)/.installed-$(shell { echo "$(CURDIR)"; cat pyproject.toml constraints.txt; } | cksum | tr ' ' '-')
# More OpenMP threads than idle cores wait for each other spinning: a small training then took ten times as long.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
PYTEST_FLAGS ?=
# Most tests hold one core for their time; a file's tests stay in one process.
TEST_PROCESSES ?= 2

.PHONY: help install demo up test test-slow test-tools lint format docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Install everything into .venv (once)
	@echo "Limbeck is installed in $(VENV)."

$(STAMP):
	@tools/install.sh $(VENV)
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(STAMP) ## One real job on real data, from nothing to a proved student (KEEP=1 leaves Limbeck running)
	@KEEP=$(KEEP) $(BIN)/limbeck demo

up: $(STAMP) ## Start API, worker and a local Ray on this machine
	@$(BIN)/limbeck up

test: $(STAMP) test-tools ## Run the tests, all but the slow ones
	$(PYTEST) -m "not slow" --numprocesses $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder $(PYTEST_FLAGS)

test-slow: $(STAMP) test-tools ## Run the slow tests: real data at length, fault matrices
	$(PYTEST) -m slow $(PYTEST_FLAGS) || { status=$$?; [ $$status -eq 5 ] || exit $$status; }  # 5: there are none

test-tools:
	@tools/test_tools.sh

lint: $(STAMP) ## Check style, types, import layers and generated documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.schema_tables --check
	@$(BIN)/python -m tools.method_page --check

format: $(STAMP) ## Format the code and repair what can be repaired
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: $(STAMP) ## Write the generated parts of the documentation anew
	@$(BIN)/python -m tools.schema_tables
	@$(BIN)/python -m tools.method_page

clean: ## Remove caches and build outputs (.venv stays)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
