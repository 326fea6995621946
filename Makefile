# make study: environment, pretrained networks, one sweep over all studies, reports.   make test: the tests, without
# those that take minutes; make test SLOW=1: all.
PYTHON ?= python3
PY := .venv/bin/python
STUDY ?= all
PRESET ?= quick

.PHONY: study test lab full clean sweep fetch lint

study: fetch sweep
	@$(PY) -m inpaintlib report --html
	@echo "This page has all tables, figures and GIFs; open the notebooks with: make lab"

sweep: .venv/installed # one study: make sweep STUDY=dcgan
	$(PY) -m inpaintlib sweep $(STUDY) --preset $(PRESET)
	$(PY) -m inpaintlib report $(STUDY) --preset $(PRESET)

fetch: .venv/installed
	$(PY) -m inpaintlib fetch demo
	$(PY) -m inpaintlib fetch pretrained

full: $(if $(DRY)$(REHEARSE),.venv/installed,fetch) # an hour of a GPU: make full DRY=1 | TIME=9m | REHEARSE=1
	$(PY) -m inpaintlib full $(if $(DRY),--dry-run) $(if $(REHEARSE),--rehearse) $(if $(TIME),--time-limit $(TIME))

test: fetch lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile $(if $(SLOW),,-m "not slow")

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

clean: # what is not tracked of the runs (weights, pictures), prepared photos, the environment; downloads stay
	rm -rf .venv data/prepared
	-git clean -fdXq results
