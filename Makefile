# Two commands do everything on a fresh machine with Python >= 3.10: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/tiny-qwen35
# tests run side by side, a file at a time, each worker on cores of its own: make test WORKERS=0 for one after the other
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: run test fast lint format docs setup clean

run: setup  ## quantize the example model: measure, solve, export, evaluate, model card
	$(BIN)/bitclass3 run examples/quickstart.toml --out $(OUT)

test: setup lint  ## every test
	$(PYTEST)

fast: setup  ## the tests that need seconds
	$(PYTEST) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## build the site into out/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir out/site

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "bitclass3 needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[torch,dev,docs]'
	@touch $@

clean:
	rm -rf $(VENV) out
