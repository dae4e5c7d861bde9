# Two commands do all the set-up: `make demo` runs the quickstart and shows its leaderboard, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE := build/example

.PHONY: demo test lint types unit example regression baseline clean

demo: $(INSTALLED)
	$(BIN)/gatebench run quickstart --name demo

test: lint types unit example regression

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal

# The example plugin is installed beside the project, never into its environment, and passes the contract tests there.
example: $(INSTALLED)
	rm -rf $(EXAMPLE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(EXAMPLE) ./examples/gatebench-example
	PYTHONPATH=$(EXAMPLE) $(BIN)/gatebench plugin test two-exits
	PYTHONPATH=$(EXAMPLE) $(BIN)/gatebench plugin test margin-sign --target two-exits
	PYTHONPATH=$(EXAMPLE) $(BIN)/python -m pytest -q examples/gatebench-example/tests

# A small plan, held against the committed baseline: attacks and defences do not get worse unnoticed.
regression: $(INSTALLED)
	$(BIN)/gatebench check tests/regression.toml --baseline tests/regression.json --fresh --out build/runs --name regression --junit build/regression.xml

# For a change that is meant: run it, look at it, commit the new file.
baseline: $(INSTALLED)
	$(BIN)/gatebench run tests/regression.toml --fresh --out build/runs --name regression --no-report
	$(BIN)/gatebench baseline build/runs/regression --out tests/regression.json

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
