# Needs Python 3.10 to 3.13, make and a package index; `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
# The last file that a set-up writes: without it, or when a pin has changed, .venv is made again.
READY := $(VENV)/.ready
# The first file that a set-up writes, with the folder of the project. Only a .venv with this file is
# ever emptied, and the file stays meanwhile: a set-up that was killed goes on when make runs again.
MARKER := $(VENV)/.made-by-detectron2-sar

DEMO_CONFIG := configs/LongTailShapes/sar_sem_fpn_R_18.yaml
DEMO := output/demo

# Packages found through PYTHONPATH would stand before the pinned ones.
unexport PYTHONPATH

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: $(READY) ## train SAR on generated images, evaluate it, draw its predictions into output/demo
	$(BIN)/python train_net.py --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO)
	$(BIN)/python tools/visualize.py --config-file $(DEMO_CONFIG) --output $(DEMO)/examples \
		MODEL.WEIGHTS $(DEMO)/model_final.pth

.PHONY: test
test: $(READY) ## run the tests, but for the slow ones
	$(BIN)/python -m pytest

.PHONY: test-slow
test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow

.PHONY: test-all
test-all: $(READY) ## run all tests
	$(BIN)/python -m pytest -m ""

.PHONY: docs
docs: $(READY) ## build the pages of docs/ into output/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -n docs output/docs

.PHONY: lint
lint: $(READY) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(READY) ## mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: setup
setup: $(READY) ## make .venv with the pinned versions, as all targets above do when it is not there

# Prints the Python that an environment is made from: .venv's own may be the first on the PATH.
SUPPORTED := import sys; print(getattr(sys, "_base_executable", "")); \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PIP := $(BIN)/python -m pip --disable-pip-version-check

$(READY): requirements.lock requirements-sources.lock setup.cfg
	@# A link may lead to the .venv of another copy of the project, which is not replaced either.
	@if [ -f $(MARKER) ]; then \
		owner=$$(cat $(MARKER)); [ ! -L $(VENV) ] || [ "$${owner:-$(CURDIR)}" = "$(CURDIR)" ]; \
	elif [ -d $(VENV) ]; then \
		[ -z "$$(ls -A $(VENV)/)" ]; \
	else \
		[ ! -e $(VENV) ] && [ ! -L $(VENV) ]; \
	fi || { \
		echo "$(VENV) was not made by this Makefile: rename or remove it, then run make again." >&2; \
		exit 1; \
	}
	@for python in python3.11 python3 python3.13 python3.12 python3.10; do \
		if base=$$($$python -c '$(SUPPORTED)' 2>/dev/null); then \
			echo "Setting up $(VENV) with $$python: once, some minutes, about 6 GB."; \
			mkdir -p $(VENV) && { [ -s $(MARKER) ] || echo "$(CURDIR)" > $(MARKER); } && \
			rm -f $(READY) && \
			find $(VENV)/ -mindepth 1 -maxdepth 1 ! -name $(notdir $(MARKER)) -exec rm -rf {} + && \
			exec "$${base:-$$python}" -m venv --prompt detectron2-sar $(VENV); \
			exit 1; \
		fi; \
	done; \
	echo "No Python 3.10 to 3.13 found: install one so that python3 or python3.11 starts it." >&2; \
	exit 1
	$(PIP) install $$(grep '^pip==' requirements.lock)
	$(PIP) install -c requirements.lock setuptools wheel torch torchvision
	$(PIP) install --no-deps -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -r requirements-sources.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
