# Every target sets up what it needs; set-up is free when nothing has changed.
PYTHON ?= python3
FLEET ?= triton_configs/demo.yaml
ARGS ?=
GPU ?=
IMAGES ?=
BIN := .venv/bin
export TRITONFLEET_FLEET := $(FLEET)

.PHONY: help setup native image base-image clean-images up down logs ps build-repo serve bench test test-fast storm fuzz cycles check format lock schema clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  FLEET=path/to/fleet.yaml chooses the fleet (now: $(FLEET)); ARGS=… goes to the command."

setup:  ## make the virtual environment (.venv), or bring it up to date
	@$(PYTHON) scripts/setup.py

native:  ## build the native ONNX Runtime backend anew (set-up does when its sources change)
	@rm -f .venv/tritonfleet-native.json
	@$(PYTHON) scripts/setup.py

image:  ## build the container images: the CPU server's and tritonfleet's (ARGS='--help' tells more)
	@$(PYTHON) scripts/images.py $(ARGS)

base-image:  ## make a Debian to build them on, with debootstrap, where no registry is reachable
	@$(PYTHON) scripts/base_image.py

clean-images:  ## remove all container images of this project
	@$(PYTHON) scripts/images.py --remove

up: setup  ## bring the fleet up in containers: server, controller, Envoy, Prometheus (GPU=0: on a GPU)
	@$(BIN)/tritonfleet build
	@$(PYTHON) scripts/images.py $(if $(GPU),tritonfleet)
	@$(BIN)/python scripts/compose.py up --fleet '$(FLEET)' $(if $(GPU),--gpu '$(GPU)')

down:  ## remove what 'make up' has made (IMAGES=1: the images, too)
	@$(PYTHON) scripts/compose.py down
	@$(if $(IMAGES),$(PYTHON) scripts/images.py --remove)

logs:  ## follow the logs of the containers
	@$(PYTHON) scripts/compose.py logs

ps:  ## list the containers
	@$(PYTHON) scripts/compose.py ps

build-repo: setup  ## build the fleet's models into model_repository/
	@$(BIN)/tritonfleet build $(ARGS)

serve: setup  ## build what has changed, launch Triton, serve every model at one address
	@$(BIN)/tritonfleet build
	@exec $(BIN)/tritonfleet serve $(ARGS)

bench: setup  ## measure the fleet against Triton itself with perf_analyzer
	@$(BIN)/tritonfleet build
	@$(BIN)/tritonfleet bench --serve $(FLEET) $(ARGS)

test: setup  ## run every test that this machine can run
	@$(BIN)/python -m pytest $(ARGS)

test-fast: setup  ## run the tests that need no server and no export
	@$(BIN)/python -m pytest -m "not triton and not envoy and not build and not perf and not sanitize" $(ARGS)

storm: setup  ## let the native backend load, unload and answer from many threads for ten minutes
	@TRITONFLEET_STORM_S=600 $(BIN)/python -m pytest tests/native -k "many_threads or never_meet" $(ARGS)

fuzz: setup  ## feed the native backend with odd requests, models and bytes, each time others
	@TRITONFLEET_FUZZ_ITERATIONS=5000 TRITONFLEET_FUZZ_SEED=$$(date +%s) \
	  $(BIN)/python -m pytest tests/native -k "odd or damaged or astray" $(ARGS)

cycles: setup  ## watch the native backend's memory over 2,000 loads and unloads
	@TRITONFLEET_CYCLES=2000 $(BIN)/python -m pytest tests/native -k "grow" $(ARGS)

check: setup  ## formatting, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## format the code and mend what the linter can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

schema: setup  ## write triton_configs/fleet.schema.json anew
	@$(BIN)/tritonfleet schema > triton_configs/fleet.schema.json

lock: setup  ## resolve constraints.txt anew from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	  --no-annotate --no-header --quiet -o constraints.txt

clean:  ## remove everything that is built; asks for nothing, keeps your files
	rm -rf .venv .tritonfleet .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find model_repository -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
