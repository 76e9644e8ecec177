# Everything a clone needs: each target sets up .venv by itself, once.
#   make demo ARGS="--heads fcn,ocr"      make test ARGS="-k probe"      make demo PYTHON=python3.12

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
ORACLES := .venv-oracles
# Several processes of one thread each: most tests are too small for more threads.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist worksteal
PIP_INSTALL := -m pip install --no-input --disable-pip-version-check
# Tests start hundreds of processes, which would each compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test slow gpu-check oracles results check format clean install-dev

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo: $(VENV)/.installed ## compare six heads on the embedded dataset
	$(BIN)/contextbench compare $(ARGS)

test: $(VENV)/.installed-dev ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(ARGS)

slow: $(VENV)/.installed-dev ## run the slow tests: exports, compilers, processes, memory
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m 'slow and not gpu' $(ARGS)

gpu-check: $(VENV)/.installed-dev ## find out in eight minutes what a GPU does, into device/
	$(BIN)/contextbench check-device --tests tests $(ARGS)

oracles: $(ORACLES)/.installed ## compare heads and imported models with other packages, in an environment of its own
	$(ORACLES)/bin/python -m pytest -m 'oracle and not gpu' tests/heads/test_equivalence.py tests/interop $(ARGS)

results: $(VENV)/.installed ## make the tables and figures in results/ again from the records there
	$(BIN)/contextbench plot results/probe -o results/probe
	$(BIN)/contextbench insight results/probe -o results/probe/insight.md
	$(BIN)/contextbench plot results/camvid-small -o results/camvid-small
	$(BIN)/contextbench ablate encnet --protocol results/ablations/probe.yaml --seeds 0,1,2 --report-only -o results/ablations
	$(BIN)/contextbench ablate encnet-se-weight --protocol results/ablations/probe.yaml --seeds 0,1,2 --report-only -o results/ablations
	$(BIN)/contextbench ablate encnet-codewords --protocol results/ablations/probe.yaml --seeds 0,1,2 --report-only -o results/ablations
	$(BIN)/contextbench ablate ocr-relation --protocol results/ablations/probe.yaml --seeds 0,1,2 --report-only -o results/ablations
	$(BIN)/contextbench ablate ocr-supervision --protocol results/ablations/probe.yaml --seeds 0,1,2 --report-only -o results/ablations
	$(BIN)/contextbench plot results/complexity/forms -o results/complexity/forms
	$(BIN)/contextbench plot results/complexity/scaling -o results/complexity/scaling
	$(BIN)/contextbench plot results/complexity/attention-64 -o results/complexity/attention-64
	$(BIN)/contextbench plot results/complexity/attention-128 -o results/complexity/attention-128
	$(BIN)/contextbench plot results/complexity/repeated -o results/complexity/repeated
	$(BIN)/contextbench plot results/complexity/scaling-pyramid-oc -o results/complexity/scaling-pyramid-oc

check: $(VENV)/.installed-dev ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install-dev: $(VENV)/.installed-dev ## set up .venv with all that tests and checks need

clean: ## remove .venv, .venv-oracles, caches and builds; runs/ and data/ stay
	rm -rf $(VENV) $(ORACLES) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find contextbench heads tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv installs: a set-up that broke off leaves no pip and starts again.
%/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'contextbench needs Python 3.11 or newer; $(PYTHON) is:' \
	    "$$($(PYTHON) --version 2>&1 | tail -n 1)." \
	    'Name another one: make $(MAKECMDGOALS) PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $*

# Editable, so that the targets always run the code of the checkout.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python $(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python $(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(ORACLES)/.installed: pyproject.toml | $(ORACLES)/bin/pip
	$(ORACLES)/bin/python $(PIP_INSTALL) -e '.[oracles]'
	@touch $@
