# make quickstart   trains, evaluates and asks a desk-size model on data made on the spot; see runs/quickstart/report.html
# make test         runs the tests
# make lint         ruff and mypy
# Each sets up its environment in .venv by itself; a second run does not install again.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python

.PHONY: quickstart test test-slow lint format clean

quickstart: $(READY)
	$(RUN) -m stages.quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

test-slow: $(READY)
	$(RUN) -m pytest -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[train,adapters,eval,captions,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
