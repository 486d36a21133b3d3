# Everything happens in .venv, which is made here; nothing outside this folder is changed or used.
PYTHON ?= python3
OUT ?= out/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
unexport PYTHONPATH PYTHONHOME
.PHONY: help demo test check-fast docs clean

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.demo  ## prune a small network on real digits and write out/demo (first run: installs)
	$(BIN)/secateur demo --out $(OUT) --force

test: $(VENV)/.test  ## format, lint, types, imports and tests (first run: installs)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

check-fast: $(VENV)/.test  ## the same without the tests
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check --fast

docs: $(VENV)/.test  ## build the documentation into site (first run: installs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove everything that was made or installed here
	rm -rf $(VENV) out build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests benchmarks integrations -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Secateur needs Python 3.11 or newer and '$(PYTHON)' is not; name one: make PYTHON=python3.12"; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One pip command for each, so that torch, torchvision and timm are chosen together and fit each other.
$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): torch is large, this takes a few minutes"
	$(PIP) --editable '.[export]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): torch is large, this takes a few minutes"
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.demo $@
