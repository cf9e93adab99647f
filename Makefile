# make demo    a real training through the whole bus, in a virtual environment of its own
# make test    everything the tests need, and the tests   (ARGS="-k broker" for some of them)
# make check   format, lint and types
# make format  put the format right
# make bench   the benchmarks, as JSON
# make wheel   build the wheel and try it in an empty environment
# make clean   remove what the others made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINNED := --quiet --constraint constraints.txt
ARGS ?=

.PHONY: demo test check format bench wheel clean

demo: $(VENV)/demo-is-installed
	$(BIN)/trainbus demo $(ARGS)

test: $(VENV)/tests-are-installed
	scripts/servers.sh
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/tests-are-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/tests-are-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/tests-are-installed
	for file in tests/benchmarks/bench_*.py; do \
	    $(BIN)/python -m tests.benchmarks.$$(basename $$file .py) $(ARGS) || exit 1; \
	done

wheel: $(VENV)/pip-is-new
	scripts/check-wheel.sh $(BIN)/python

clean:
	rm -rf $(VENV) dist build trainbus-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find bus publishers subscribers tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run quick; a changed pin or dependency installs again.

$(VENV)/pip-is-new: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("trainbus needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 …")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PINNED) --upgrade pip
	touch $@

$(VENV)/demo-is-installed: $(VENV)/pip-is-new pyproject.toml
	@echo "installing what the demo needs (MLflow is large: a few minutes the first time)"
	$(PIP) install $(PINNED) --editable '.[demo]'
	touch $@

$(VENV)/tests-are-installed: $(VENV)/pip-is-new pyproject.toml
	@echo "installing what the tests need (MLflow is large: a few minutes the first time)"
	$(PIP) install $(PINNED) --editable '.[all,demo]' --group test --group lint
	touch $@
