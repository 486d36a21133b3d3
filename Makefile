# Everything happens in .venv, which is made here; nothing outside this folder is changed or used.
PYTHON ?= python3
OUT ?= out/demo
# LOCKED=1 installs the versions of requirements-dev.lock; otherwise pip takes the newest that are allowed.
LOCKED ?=
# A further index of packages for pip, such as https://download.pytorch.org/whl/cpu, which has torch without CUDA; its
# builds go before others of the same version. What is installed already stays: make clean first.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCKED),--constraint requirements-dev.lock) \
  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# A quick part of the tests, the parts that other libraries can break: those that read, save and wrap networks.
# Exports are left out: they are tested with a newer torch than the rest.
LOWEST := .venv-lowest
LOWEST_EXTRAS := tests,vision,bayes,detection,lightning,transformers
LOWEST_TESTS := tests/test_public_names.py tests/test_artifact.py tests/core/test_surgery.py tests/cli/test_help.py \
  tests/data/test_vision.py tests/integrations tests/measure/test_counts.py tests/models/test_sources.py \
  tests/report/test_page.py tests/search/bayesian/test_bayesian_optimization.py tests/tasks

.DEFAULT_GOAL := help
unexport PYTHONPATH PYTHONHOME
.PHONY: help demo test test-lowest check-fast docs dist benchmark news lock clean

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.demo  ## prune a small network on real digits and write out/demo (first run: installs)
	$(BIN)/secateur demo --out $(OUT) --force

test: $(VENV)/.test  ## format, lint, types, imports and tests (first run: installs)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

test-lowest: $(LOWEST)/.made  ## a quick part of the tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(LOWEST_TESTS)

check-fast: $(VENV)/.test  ## the same without the tests
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check --fast

docs: $(VENV)/.test  ## build the documentation into site (first run: installs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(VENV)/.test  ## build the wheel and the source distribution into dist, and test them
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m pytest -n0 tests/test_dist.py

benchmark: $(VENV)/.test  ## time training beside a bare loop; fails if it has become slower than what was measured
	$(BIN)/python benchmarks/train.py --seconds 60 --threads 1 --check benchmarks/results/train.json

news: $(VENV)/.test  ## show what the fragments in changes add to the changelog
	@$(BIN)/towncrier build --draft --version next

lock: $(VENV)/.test  ## write requirements-dev.lock anew; UPGRADE=--upgrade takes the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate $(UPGRADE) \
	  --custom-compile-command 'make lock' --output-file requirements-dev.lock pyproject.toml

clean:  ## remove everything that was made or installed here
	rm -rf $(VENV) $(LOWEST) out build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests benchmarks integrations -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Secateur needs Python 3.11 or newer and '$(PYTHON)' is not; name one: make PYTHON=python3.12"; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Only direct requirements are taken at their lowest: what they need in turn is theirs to bound.
$(LOWEST)/.made: pyproject.toml
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
	  --editable '.[$(LOWEST_EXTRAS)]'
	@touch $@

# One pip command for each, so that torch, torchvision and timm are chosen together and fit each other.
$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): torch is large, this takes a few minutes"
	$(PIP) --editable '.[vision,export]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): torch is large, this takes a few minutes"
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.demo $@
