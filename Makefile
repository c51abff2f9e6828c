# Needs Python >= 3.10, pip and make; everything else is installed into .venv.
PYTHON ?= python3
# Passed on to pytest: make test ARGS="tests/test_path.py -x"
ARGS ?=
# Tests at a time, each on one core.
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# What is installed: kdiff and what it needs to run; and besides what development needs.
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast tutorials bench lint format types docs package clean

help: ## list the targets
	@echo "kdiff: make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

venv: $(DEVELOPMENT) ## create .venv and install kdiff there, with what development needs

# A Python without ensurepip (Debian's, without python3-venv) makes an environment without pip; its own pip, where it has
# one, can put that right.
$(RUNTIME): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.10; name another one: make venv PYTHON=python3.12" >&2; exit 1; }
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then :; \
	elif $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import venv, pip' 2>/dev/null && $(PYTHON) -m venv --clear --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; then :; \
	else rm -rf $(VENV); \
	  echo "make: '$(PYTHON) -m venv' does not work here; install it (Debian, Ubuntu: apt-get install python3-venv)" \
	    "or name a Python that has it: make venv PYTHON=python3.12" >&2; exit 1; fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e .
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

demo: $(RUNTIME) ## train with four prediction targets on 8x8 digits and draw the comparison
	$(BIN)/kdiff compare digits --seeds 1 --out demo

test: $(DEVELOPMENT) ## run the tests; ARGS goes to pytest
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-fast: $(DEVELOPMENT) ## run the tests that take no time: no long training, no processes, no browser
	@$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

tutorials: $(DEVELOPMENT) ## run the tutorials in full, twenty minutes, into tutorials/
	$(BIN)/python tools/run_tutorial.py docs/tutorial.md tutorials/pictures
	$(BIN)/python tools/run_tutorial.py docs/scientists.md tutorials/fields

bench: $(DEVELOPMENT) ## time the benchmarks, under five minutes, into bench/; in full with ARGS=--full, an hour
	@$(BIN)/python benchmarks/bench.py $(ARGS)

lint: $(DEVELOPMENT) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEVELOPMENT) ## format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEVELOPMENT) ## check types
	$(BIN)/mypy

docs: $(DEVELOPMENT) ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "The documentation: docs/_build/html/index.html"

package: $(DEVELOPMENT) ## build wheel and sdist, install each into a clean environment and check what arrived
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tools/check_package.py dist

clean: ## remove what the other targets made, but keep .venv
	rm -rf bench build demo dist tutorials docs/_build .mypy_cache .pytest_cache .ruff_cache
	find src tests docs examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
