# Everything runs in .venv, made here with the tested versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: several worker processes share the cores.
export OMP_NUM_THREADS := 1

.PHONY: demo test test-long check docs install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## train the quickstart on 4 real workers and compare topologies
	$(BIN)/dgc-topo compare scenarios/quickstart.toml

check: install  ## lint, types, and which rooms import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## lint, types, and all tests but the longest
	$(BIN)/pytest -m "not alone and not long" -n auto --dist worksteal
	$(BIN)/pytest -m "alone and not long"

test-long: install  ## the tests that take longest: more of the same kinds
	$(BIN)/pytest -m long

docs: install  ## the site of the documentation, in build/site
	$(BIN)/python -m tools.docs build/pages
	$(BIN)/python -m zensical build --strict --clean

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache results
