# Two commands do all the set-up: `make demo` runs the quickstart and shows its leaderboard, `make test` passes the tests.
# `make test-all` runs the slow tests and the regression check too, as continuous integration does.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE := build/example

.PHONY: demo test test-all lint types unit unit-all slowest bench example regression baseline picture results reference docs clean

demo: $(INSTALLED)
	$(BIN)/gatebench run quickstart --name demo

# Tests start hundreds of processes, which would compile the project each time.
unexport PYTHONDONTWRITEBYTECODE

# Tests of pytest and everything else side by side: on two cores neither waits for the other. What the latter says follows
# when both are done. The regression check attacks trained networks for a minute, so it stays with the slow tests.
BESIDE = mkdir -p build; $(MAKE) --no-print-directory $(2) >build/beside.log 2>&1 & \
	beside=$$!; trap 'kill $$beside' INT TERM; \
	$(MAKE) --no-print-directory $(1); failed=$$?; \
	wait $$beside || failed=$$?; cat build/beside.log; exit $$failed

test: lint
	@+$(call BESIDE,unit,types example)

test-all: lint
	@+$(call BESIDE,unit-all,types example regression)

# uv installs what pip installs in a fraction of the time. It asks the index that pip asks; where it cannot be had, or fails,
# pip does it.
PIP := $(BIN)/python -m pip
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --disable-pip-version-check uv || true
	index="$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	|| $(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

unit-all: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal

# The fifty slowest tests, the ones marked slow among them, as this machine measures them now.
slowest: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal --quiet --durations=50 --durations-min=0.1

# Attack steps, starts, workers, boards and pages as Markdown tables; `python -m benchmarks steps` measures one of them.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# The example plugin is installed beside the project, never into its environment, and passes the contract tests there.
example: $(INSTALLED)
	rm -rf $(EXAMPLE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(EXAMPLE) ./examples/gatebench-example
	PYTHONPATH=$(EXAMPLE) $(BIN)/gatebench plugin test two-exits
	PYTHONPATH=$(EXAMPLE) $(BIN)/gatebench plugin test margin-sign --target two-exits
	PYTHONPATH=$(EXAMPLE) $(BIN)/python -m pytest -q examples/gatebench-example/tests

# A small plan, held against the committed baseline: attacks and defenses do not get worse unnoticed.
regression: $(INSTALLED)
	$(BIN)/gatebench check tests/regression.toml --baseline tests/regression.json --fresh --out build/runs --name regression --junit build/regression.xml

# For a change that is meant: run it, look at it, commit the new file.
baseline: $(INSTALLED)
	$(BIN)/gatebench run tests/regression.toml --fresh --out build/runs --name regression --no-report
	$(BIN)/gatebench baseline build/runs/regression --out tests/regression.json

# The pages of docs/reference that are made from commands, schema and declarations; a test notices when they are stale.
reference: $(INSTALLED)
	$(BIN)/python docs/generate

# The documentation as a site that opens from disk: build/site/index.html. Installs the extra `docs`, which nothing else needs.
docs: reference
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo build/site/index.html

# The picture at the top of the README: the leaderboard of a run, in headless Chromium where there is one.
RUN ?= demo
picture: $(INSTALLED)
	$(BIN)/gatebench report $(RUN)
	$(BIN)/python benchmarks/picture.py $(RUN) --out docs/leaderboard.png

# A run's boards among those of docs/results, as files that begin with NAME: make results RUN=runs/cifar10-128 NAME=cifar10-128
results: $(INSTALLED)
	$(BIN)/python benchmarks/results.py $(RUN) --name $(NAME)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
