# make demo    environment, a small raw catalogue, every stage, a report (minutes, no GPU)
# make test    environment, tests (minutes)
# make parsers SECOND=python3.13  the tests of the parsers under another Python (seconds)
# make gpu     check a machine with a GPU, into gpu.json (10 to 20 minutes)
# make peers   environments of the libraries that benchmarks/peers compares with (minutes)
# make verify  measure a quick part of docs/results.toml again, compare (minutes)
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
SECOND ?= python3.13
TORCH_INDEX ?=
FAISS ?= cpu

.PHONY: demo test gpu parsers peers verify check docs pictures clean

demo: $(VENV)/ready
	$(VENV)/bin/mdsrec demo
	$(VENV)/bin/mdsrec run configs/demo.toml
	$(VENV)/bin/mdsrec run configs/demo.toml name=demo-id model.modalities=[]
	$(VENV)/bin/mdsrec compare artifacts/demo/runs/demo artifacts/demo/runs/demo-id
	@echo "next    open the report; then your own data: README.md, \"Your own data\""

test: $(VENV)/ready
	$(RUN) -m pytest -n 2 --dist loadfile

# an environment of its own, because that of `make demo` may have the CPU's faiss
gpu: $(VENV)-gpu/ready
	$(VENV)-gpu/bin/python -m benchmarks.gpu --out gpu.json

# environments of the libraries that benchmarks/peers compares with, in .venv-peers
peers: $(addprefix $(VENV)-peers/,rectools/ready replay/ready)

# torch first, the same build as here.
$(VENV)-peers/%/ready: benchmarks/peers/%.txt constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(@D)/bin/pip install --quiet -r $<
	touch $@

parsers:
	$(SECOND) -m venv $(VENV)-second
	$(VENV)-second/bin/pip install --quiet -c constraints.txt pyarrow pydantic lxml pytest pytest-timeout
	$(VENV)-second/bin/python -m pytest -q --noconftest -p no:cacheprovider tests/test_etl_amazon.py

verify: $(VENV)/ready
	$(VENV)/bin/mdsrec demo
	$(RUN) -m benchmarks.verify

check: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/ready
	$(RUN) docs/configuration.py
	$(RUN) docs/results.py

# README's pictures, from the report that `make demo` wrote; needs Chromium.
pictures: $(VENV)/ready
	$(RUN) docs/pictures.py

# torch first, so that nothing else chooses its build; what it needs comes with the rest. With
# TORCH_INDEX=ADDRESS it comes from that package index, such as the one of PyTorch's CPU builds.
$(VENV)-gpu/ready: FAISS = gpu
$(VENV)/ready $(VENV)-gpu/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -c constraints.txt --no-deps $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	$(@D)/bin/pip install --quiet -c constraints.txt -e ".[$(FAISS),demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-gpu $(VENV)-second $(VENV)-peers artifacts data/demo
