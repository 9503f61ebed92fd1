# Each of `make demo` and `make test` is enough by itself on a machine with Python 3.11 (or later) and make.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
ARGS ?=
SHARD ?= 1/1
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
# A process that died is not replaced: pytest-xdist 3.8 may wait for ever for what it hands to the new one.
PYTEST = $(BIN)/pytest -n 3 --dist worksteal --max-worker-restart=0
CATALOG_TESTS = $(addprefix tests/integration/test_,catalog.py catalog_channels.py reconcile.py)

# Else every process, those that tests start too, would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test acceptance faults bench bench-check docs clean
.DEFAULT_GOAL := help
# An interrupted or failed step leaves no file behind that the next run would take for finished.
.DELETE_ON_ERROR:

help:
	@echo 'make demo        install into $(VENV), then show everything on real images (ARGS=--keep leaves it up)'
	@echo 'make test        install into $(VENV), then run every check and the tests of every change (13 minutes)'
	@echo 'make acceptance  install into $(VENV), then run the other tests, which need more time (50 minutes)'
	@echo 'make faults      install into $(VENV), then fail every call of every command in every way (an hour or more);'
	@echo '                 SHARD=3/8 runs the third of eight parts: the cases whose name has a CRC-32 of 2 modulo 8'
	@echo 'make bench       install into $(VENV), then measure the budget of docs/benchmarks.md beside rivals (25 minutes idle);'
	@echo '                 ARGS="--quick", "--only ROW", "--write", "--packages DIR"'
	@echo 'make bench-check compare ratios of small sizes with benchmarks/baseline.json; fails beyond a tolerance (3 minutes)'
	@echo 'make docs        install into $(VENV), then build the pages as a site in site/; a warning is a failure (half a minute)'
	@echo 'make clean       remove $(VENV) and the caches of the tools'

demo: $(VENV)/.installed-demo
	$(BIN)/ulora demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(ARGS)

acceptance: $(VENV)/.installed-dev
	$(PYTEST) -m acceptance $(ARGS)
	$(PYTEST) --catalog postgresql -m '' $(CATALOG_TESTS)

faults: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 tests/faults --faults=all --shard=$(SHARD) $(ARGS)

bench: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.budget $(ARGS)

bench-check: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.budget.check $(ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.installed-demo $(VENV)/.installed-dev $(VENV)/.installed-docs: $(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'installing ulora-registry[$*] and about 150 pinned packages into $(VENV): 2 GB, or 5 with a CUDA build of torch; log: $(VENV)/pip-$*.log'
	@rm -rf *.egg-info  # of earlier builds: Python would read their entry points before those of this one
	@# pip prints a thousand lines, and without any nothing is seen for minutes: its last one every 15 s.
	@(while sleep 15 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do tail -n 1 $(VENV)/pip-$*.log | cut -c1-100; done) & \
	said=$$!; trap 'kill $$said' EXIT; \
	{ $(PIP) install -c constraints.txt -e '.[$*]'$(if $(filter dev,$*), && $(PIP) install --no-deps -c constraints.txt pytorch-ood); } \
	    >$(VENV)/pip-$*.log 2>&1 || { status=$$?; cat $(VENV)/pip-$*.log >&2; \
	    echo 'error: the installation failed; the reason is above (log of pip, if it ran: $(VENV)/pip-$*.log)' >&2; exit $$status; }
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is missing or older than Python 3.11; say which one to use: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
