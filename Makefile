# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

COMPILERS := .venv-compile
TESTS_AT_ONCE ?= 3

.PHONY: help install demo test test-engines test-compile test-native check bench docs clean

help:
	@echo "make demo     the whole way on a real model: pull, list, run, measure, compare"
	@echo "make test     the tests, on the real engine and the real starter model"
	@echo "make test-engines  the faults, loads, mixed load and texts of every engine on the real model, at length"
	@echo "make test-native  llama.cpp built for this machine, tried, used and measured; about five minutes"
	@echo "make test-compile  a model compiled by the real compilers, and used; installs torch apart from the rest"
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
	$(BIN)/python -m pytest --numprocesses=$(TESTS_AT_ONCE) --dist=loadfile --no-loadscope-reorder

test-engines: install
	$(BIN)/python -m pytest -m "thorough or real_model" --timeout=1800 --durations=10 -s

test-native: install
	$(BIN)/python benchmarks/native_build.py

# The compilers stay out of .venv: torch is large, and everything else must work without it.
test-compile: install $(COMPILERS)/.installed
	FOUNDRY_COMPILE_PYTHON="$(CURDIR)/$(COMPILERS)/bin/python" \
	  $(BIN)/python -m pytest --timeout=1800 tests/compile_proof.py

$(COMPILERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(COMPILERS)
	$(COMPILERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[compile]'
	@touch $@

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
	rm -rf .venv $(COMPILERS) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
