# `make run` starts everything on one machine, `make test` proves it; the rest is for contributors.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
ARGS   ?=

.PHONY: run test check faults bench format clean

# A stamp per set of extras: a fresh clone installs once, an edited pyproject.toml installs again.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or say PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,examples]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	$(BIN)/gateway dev --port $(PORT)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests mostly wait for servers and clocks, so several run at a time; how many: tests/conftest.py. Files stay whole, so
# that what one of them starts for itself is started once. What failed beside others is tried once more alone, where the
# machine is not to blame: failing again fails the run, and both are shown.
test: $(VENV)/.dev
	sh tests/setup.sh
	$(BIN)/pytest -m 'not faults_long' -n auto --dist loadfile --no-loadscope-reorder $(ARGS) $(if $(ARGS),,|| \
	  { [ $$? = 1 ] && $(BIN)/pytest -m 'not faults_long' --last-failed --last-failed-no-failures none; })

# One at a time: the long forms need the machine for themselves.
faults: $(VENV)/.dev
	sh tests/setup.sh
	$(BIN)/pytest -m 'faults or faults_long' $(ARGS)

bench: $(VENV)/.dev
	sh tests/setup.sh bench
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache node_modules
