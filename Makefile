# make talk | test | check | lint | docs | bench | bench-train: each makes what it needs first; the second run starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two tests at a time, each on one core; -n 0 runs one at a time, on all cores.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

# Real speech for the tests marked `data`, where it lies beside this folder; they are skipped elsewhere.
ifneq ($(wildcard ../shared/speech),)
export VOICECHAT_DATA ?= $(abspath ../shared)
endif

.DEFAULT_GOAL := help
.PHONY: help talk test check lint docs bench bench-train clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

talk: $(VENV)/.installed ## Start a conversation; ARGS="-m tiny" takes the small model.
	@$(BIN)/voicechat talk $(ARGS)

test: $(VENV)/.dev ## Run all tests.
	@$(MAKE) --no-print-directory $(VENV)/.weights || \
	  echo "Notice: without the weights of the model tiny the tests that need them are skipped." >&2
	$(PYTEST) $(ARGS)

check: lint ## Run linters, types and the quick tests: about 45 s.
	$(PYTEST) -q -m "not slow" $(ARGS)

lint: $(VENV)/.dev ## Run ruff and mypy.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev ## Build the site with guides and reference into build/site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/.installed ## Measure the time to the first token over six turns.
	@$(BIN)/voicechat models download
	$(BIN)/python -m recipes.measure_latency $(ARGS)

bench-train: $(VENV)/.dev $(VENV)/.weights ## Measure what each trick brings to a training step.
	$(BIN)/python -m recipes.measure_training_speed $(ARGS)

clean: ## Delete the environment; weights and sessions stay.
	rm -rf $(VENV) build *.egg-info

$(VENV)/.system: scripts/install_system_packages.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Error: $(PYTHON) is older than Python 3.10." >&2; \
	  echo "Hint: make talk PYTHON=python3.12" >&2; exit 1; }
	@sh scripts/install_system_packages.sh $(PYTHON)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.system pyproject.toml
	@echo "Installing voicechat into $(VENV); torch alone is about 200 MB without CUDA."
	$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.weights: $(VENV)/.installed
	@$(BIN)/voicechat models download tiny
	@touch $@
