# make run: take the embedded model apart.  make test: all tests.  make lint: ruff and mypy.
# make serve: a local Prefect server with its schedules and a worker.  make kills: 30 kills of a run.
# make campaign: some 480 bad inputs, each of which must end in a sentence within 3 seconds.
# make gpu-check: a verdict on the GPU path within 470 seconds; SMOKE=1 on a CPU: benchmarks/README.md.
# make damage: every file of a data root damaged in eight ways; repaired, or found by who reads it.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DECONSTRUCT_HOME ?= $(CURDIR)/data
export DECONSTRUCT_HOME

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

comma = ,
# pip says nothing while it fetches and unpacks: every 4 seconds, how large the environment is.
define watched
	@( while sleep 4; do echo "  $(VENV): $$(du -sm $(VENV) | cut -f1) MB"; done ) & watch=$$!; \
	trap 'kill $$watch' EXIT; trap 'exit 130' INT TERM; $(1)
endef

.PHONY: run test kills campaign damage lint serve bench-train gpu-check install clean

run: $(VENV)/.installed
	@echo 'Gemma 3 270M is taken apart on BBC News: 1.4 GB in $(DECONSTRUCT_HOME)'
	@$(BIN)/deconstruct run configs/embedded.toml

# Files go whole to one of two processes, since their tests share servers and homes.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

kills: $(VENV)/.installed-dev
	DECONSTRUCT_KILLS=30 $(BIN)/python -m pytest -s --timeout 3600 tests/runs/test_kills.py

campaign: $(VENV)/.installed-dev
	DECONSTRUCT_BAD_INPUTS=1 $(BIN)/python -m pytest -s --timeout 3600 tests/runs/test_bad_inputs.py

damage: $(VENV)/.installed-dev
	DECONSTRUCT_DAMAGE=1 $(BIN)/python -m pytest -s --timeout 3600 tests/runs/test_damage.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/.installed
	$(BIN)/deconstruct serve

# Our training beside SAELens and sparsify, which get environments of their own: benchmarks/README.md.
bench-train: $(VENV)/.installed
	$(BIN)/python -m benchmarks.train $(if $(ACTIVATIONS),--activations $(ACTIVATIONS))
	$(BIN)/python -m benchmarks.train --d-in 768 --d-sae 24576 --steps 8 --repeats 2

# Leaves report.json and report.txt in OUT. GPU_PYTHON: of an environment that is there.
gpu-check: OUT ?= $(CURDIR)/build/gpu-check
gpu-check: $(if $(GPU_PYTHON),,$(VENV)/.installed-dev)
	$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu_check --out $(OUT) --budget 470 \
		$(if $(SMOKE),--smoke)

install: $(VENV)/.installed-dev

# torch first and alone: resolved together with the rest, pip may fetch a larger build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): about 2,400 MB of pinned versions, once'
	@$(PYTHON) -m venv $(VENV)
	$(call watched,$(PIP) torch)
	$(call watched,$(PIP) --editable '.[embedded]')
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo 'Adding what tests need'
	$(call watched,$(PIP) --editable '.[embedded$(comma)dev]')
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
