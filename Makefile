# Cats or dogs. It needs Python 3.11 to 3.13 and git; `make` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
PHOTOGRAPHS ?= microsoft
WEIGHTS ?= imagenet
COMPILE := uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--fork-strategy fewest --custom-compile-command "make requirements" pyproject.toml
export PATH := $(BIN):$(PATH)

.PHONY: help repro verify experiments test test-all lint sync ui results champion bench requirements clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet -r requirements.txt -e .
	"$(BIN)/catsdogs" plots-page
	@touch $@

$(DEV): $(READY) requirements-dev.txt
	"$(BIN)/python" -m pip install --quiet -r requirements-dev.txt
	@touch $@

repro: $(READY)  ## rebuild whatever is out of date: the whole pipeline
	"$(BIN)/dvc" repro

verify: $(READY)  ## rebuild the last commit in a clone, and compare every output
	"$(BIN)/catsdogs" verify

experiments: $(READY)  ## list the experiments: accuracies, and the parameters they changed
	@"$(BIN)/catsdogs" experiments

test: $(DEV)  ## run the quick tests
	"$(BIN)/python" -m pytest

test-all: $(DEV)  ## run all tests
	"$(BIN)/python" -m pytest -m ""

lint: $(DEV)  ## check style, format and types; the Dockerfile and the workflow
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/hadolint" Dockerfile
	"$(BIN)/zizmor" --offline --quiet .github

sync: $(READY)  ## record in MLflow what it lacks of the workspace and of DVC's experiments
	"$(BIN)/catsdogs" sync

ui: $(READY)  ## look at the runs in MLflow, on http://127.0.0.1:5000
	-@$(MAKE) --no-print-directory sync
	@case "$$MLFLOW_TRACKING_URI" in \
	http*) echo "the runs are on the server that MLFLOW_TRACKING_URI names" ;; \
	*) echo "open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"; \
		MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "$(BIN)/mlflow" ui --host 127.0.0.1 --port 5000 \
			--workers 1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" ;; \
	esac

results: $(READY)  ## keep experiments in docs/results, and show them on the pages: NAMES="mine-1 mine-2"
	"$(BIN)/catsdogs" results $(NAMES)
	"$(BIN)/python" docs/results/tables.py
	"$(BIN)/python" docs/results/draw.py

champion: $(READY)  ## name the best model in MLflow's registry
	"$(BIN)/catsdogs" champion

bench: $(DEV)  ## measure against the notebook: PHOTOGRAPHS=… WEIGHTS=… CPU_ISA=AVX2 TORCH=1
	"$(BIN)/python" benchmarks/bench.py --photographs "$(PHOTOGRAPHS)" --weights "$(WEIGHTS)" \
		$(if $(CPU_ISA),--cpu-isa $(CPU_ISA)) $(if $(TORCH),--torch)

# versions.txt has the packages whose computations reach a model. What decodes or computes depends
# on it, from `split` on.
requirements:  ## pin all requirements files anew from pyproject.toml (needs uv)
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	$(COMPILE) --extra gpu --constraint requirements-dev.txt --output-file requirements-gpu.txt
	$(COMPILE) --extra s3 --extra team --constraint requirements-dev.txt --output-file requirements-team.txt
	grep -E '^(jax|jaxlib|keras|numpy|opencv-python-headless|pillow|tensorflow|tensorflow-cpu)==' \
		requirements-gpu.txt | sed 's/ .*//' > versions.txt

clean:  ## remove the environment, downloads, checkpoints, features and the tools' caches
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache dvc_plots
