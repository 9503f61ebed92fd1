# Each of `make demo` and `make test` is enough by itself on a machine with Python 3.11 (or later) and make.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
ARGS ?=
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test faults clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    install into $(VENV), then play the whole story on real images (ARGS=--keep leaves it up)'
	@echo 'make test    install into $(VENV), then run every check and all tests'
	@echo 'make faults  install into $(VENV), then fail every call of every command in every way, and race (an hour or more)'
	@echo 'make clean   remove $(VENV) and what the tools left behind'

demo: $(VENV)/.installed-demo
	$(BIN)/ulora demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy registry
	$(BIN)/lint-imports
	$(BIN)/pytest -n 3 --dist worksteal $(ARGS)

faults: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 tests/faults --faults=all $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.installed-demo $(VENV)/.installed-dev: $(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing the pinned packages into $(VENV): about 2 GB, some minutes the first time'
	$(PIP) install --quiet -c constraints.txt -e '.[$*]'
	$(if $(filter dev,$*),$(PIP) install --quiet --no-deps -c constraints.txt pytorch-ood)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is missing or older than Python 3.11; say which one to use: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
