# Cats or dogs. Nothing but Python 3.10-3.13 and git is needed beforehand; `make` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
READY := $(VENV)/.ready
PHOTOGRAPHS ?= microsoft
WEIGHTS ?= imagenet
export PATH := $(BIN):$(PATH)

.PHONY: help repro verify experiments test lint sync ui champion bench requirements clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.10 to 3.13 is needed: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet --requirement requirements.txt
	PYTHONPATH=src "$(BIN)/python" -m catsdogs.plots_page
	@touch $@

repro: $(READY)  ## rebuild whatever is out of date: the whole pipeline
	"$(BIN)/dvc" repro

verify: $(READY)  ## rebuild what is committed in a clone, and compare every output
	PYTHONPATH=src "$(BIN)/python" -m catsdogs.verify

experiments: $(READY)  ## list the experiments: accuracies, and which parameters they changed
	@PYTHONPATH=src "$(BIN)/python" -m catsdogs.experiments

test: $(READY)  ## run the tests
	"$(BIN)/python" -m pytest

lint: $(READY)  ## check style and format
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

sync: $(READY)  ## record in MLflow what it lacks of the workspace and of DVC's experiments
	PYTHONPATH=src "$(BIN)/python" -m catsdogs.sync

ui: $(READY)  ## look at the runs in MLflow, on http://127.0.0.1:5000
	-@$(MAKE) --no-print-directory sync
	@case "$$MLFLOW_TRACKING_URI" in \
	http*) echo "the runs are on the server that MLFLOW_TRACKING_URI names" ;; \
	*) echo "open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"; \
		MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "$(BIN)/mlflow" ui --host 127.0.0.1 --port 5000 \
			--workers 1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" ;; \
	esac

champion: $(READY)  ## name the best model in MLflow's registry
	PYTHONPATH=src "$(BIN)/python" -m catsdogs.champion

bench: $(READY)  ## measure against the notebook and other libraries: PHOTOGRAPHS=… WEIGHTS=…
	"$(BIN)/python" benchmarks/bench.py --photographs "$(PHOTOGRAPHS)" --weights "$(WEIGHTS)"

requirements:  ## pin requirements.txt anew from requirements.in (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.10 \
		--fork-strategy fewest requirements.in --output-file requirements.txt

clean:  ## remove the environment, downloads, checkpoints and the tools' caches
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache dvc_plots
