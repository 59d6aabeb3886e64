# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install demo test test-engines test-native check bench docs clean

help:
	@echo "make demo     the whole way on a real model: pull, list, run, measure, compare"
	@echo "make test     the tests, on the real engine and the real starter model"
	@echo "make test-engines  the faults, loads, mixed load and texts of every engine on the real model, at length"
	@echo "make test-native  llama.cpp built for this machine, tried, used and measured; about five minutes"
	@echo "make check    lint, types, import rules, generated pages"
	@echo "make bench    the figures of docs/benchmarks.md, measured on this machine"
	@echo "make docs     write the generated pages again"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

demo: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh samples/demo.sh

test: install
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

test-engines: install
	$(BIN)/python -m pytest -m "thorough or real_model" --timeout=1800 --durations=10 -s

test-native: install
	$(BIN)/python benchmarks/native_build.py

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/build_docs.py --check

docs: install
	$(BIN)/python scripts/build_docs.py

bench: install
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/listing.py

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
