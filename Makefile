# make study: environment, pretrained networks, the quick sweep of every study, reports.   make test: the tests.
PYTHON ?= python3
PY := .venv/bin/python
STUDIES := $(notdir $(basename $(wildcard notebooks/sweeps/*.yaml)))
PRESET ?= quick

.PHONY: study test lab full clean sweep fetch lint

study: fetch
	@for study in $(STUDIES); do $(MAKE) --no-print-directory sweep STUDY=$$study || exit $$?; done
	@echo "Tables, figures and GIFs are in results/; open the notebooks with: make lab"

sweep: .venv/installed
	$(PY) -m inpaintlib sweep $(STUDY) --preset $(PRESET)
	$(PY) -m inpaintlib report $(STUDY) --preset $(PRESET)

fetch: .venv/installed
	$(PY) -m inpaintlib fetch demo
	$(PY) -m inpaintlib fetch pretrained

full:
	$(MAKE) study PRESET=full

test: fetch lint
	$(PY) -m pytest

lint: .venv/installed
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

lab: .venv/installed
	.venv/bin/jupyter lab notebooks

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -r requirements.txt
	$(PY) -m pip install --quiet --no-deps --editable .
	touch $@

clean: # trained runs, prepared photos, the environment; tables, figures and downloads stay
	rm -rf .venv results/*/runs data/prepared
