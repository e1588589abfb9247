# make demo    environment, a small raw catalogue, every stage, a report (minutes, no GPU)
# make test    environment, tests (minutes)
# make verify  measure a quick part of docs/results.toml again, compare (minutes)
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test verify check docs clean

demo: $(VENV)/ready
	$(RUN) -m etl.synthetic data/demo
	$(RUN) -m cluster run configs/demo.toml
	$(RUN) -m cluster run configs/demo.toml name=demo-id model.modalities=[]
	$(RUN) -m evaluation compare artifacts/demo/runs/demo artifacts/demo/runs/demo-id
	@echo "next    open the report; then your own data: README.md, \"Your data\""

test: $(VENV)/ready
	$(RUN) -m pytest -n 2 --dist loadfile

verify: $(VENV)/ready
	$(RUN) -m etl.synthetic data/demo
	$(RUN) -m benchmarks.verify

check: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/ready
	$(RUN) docs/configuration.py
	$(RUN) docs/results.py

# torch first and alone: nothing else may choose its build.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt torch
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[cpu,demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) artifacts data/demo
