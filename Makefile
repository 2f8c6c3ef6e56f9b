# Needs Python 3.11 to 3.13 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

DOCS := .venv-docs

.PHONY: demo test test-cores test-experiments test-rest long notebooks fuzz lint docs

demo: $(READY)
	$(BIN)/reproduce run multigrid/mapping --preset demo

# Three parts, since what XLA has compiled stays in a process until it ends; `make -k test` runs all of them in any case.
# Two processes: tracing keeps one core busy. A file's tests stay together, so that their fixtures are made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"
CORES := tests/conformance tests/cores
EXPERIMENTS := tests/reproductions tests/training

test: lint test-cores test-experiments test-rest

test-cores: $(READY)
	$(PYTEST) $(CORES)

test-experiments: $(READY)
	$(PYTEST) --nbmake $(EXPERIMENTS) notebooks/quickstart.ipynb

test-rest: $(READY)
	$(PYTEST) tests $(foreach folder,$(CORES) $(EXPERIMENTS),--ignore=$(folder))

# Searches on with new random seeds where `make test` tries the same examples every time; a quarter of an hour.
fuzz: $(READY)
	$(BIN)/python -m pytest -n 2 --hypothesis-profile fuzz -m hypothesis tests

# Half an hour that `make test` leaves out; Ray's tests need `pip install ".[distributed]"`.
long: $(READY) notebooks
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long tests

# Every notebook, from a fresh kernel; each takes less than two minutes on two cores.
notebooks: $(READY)
	$(BIN)/python -m pytest --nbmake notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The site of docs/ in site/. Its tools read the code and import none of it, so they have an environment of their own.
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

$(DOCS)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

$(READY): requirements.txt setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
