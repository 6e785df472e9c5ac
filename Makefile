# make demo: rain vanishes from a live ROS 2 camera topic.   make help: the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The interpreter that makes the environments; one that exists is kept, whatever this says.
PYTHON ?= python3

VENV := .venv
VENV_KILTED := .venv-kilted
BIN := $(VENV)/bin

# The environments bring their own ROS 2: one that the shell has sourced would be found first.
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH
endif
unexport PYTHONPATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO ROS_VERSION RMW_IMPLEMENTATION
# Set by the ROS wheels once they have found their libraries: those of another environment would stay in use.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

UV ?= uv

# Passed through the environment, so that spaces and quotes in a path survive.
export DATA INPUT RAIN RATE FRAMES SIZE OPEN_LOOP OUT MINUTES

# $(1): environment; $(2): requirement files. The stamp $@ is written last, so that an interrupted install is resumed.
# Not compiled, by install.py neither: of some 20,000 modules most are never imported, and the others are compiled then.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo >&2 \
		"Python 3.10 or later is needed, and $(PYTHON) is not: name one, as in make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo >&2 \
		"$(PYTHON) cannot make environments: on Debian and Ubuntu, sudo apt install python3-venv"; exit 1; }
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
	$(1)/bin/python requirements/install.py $(2)
	$(1)/bin/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@
endef

.PHONY: bench help venv venv-kilted demo test test-kilted lint docs soak locks clean distclean

help: ## list what can be made
	@echo "make TARGET [VARIABLE=value ...]"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 16

$(VENV)/.runtime: requirements/base.txt requirements/cpu.txt requirements/ros-jazzy.txt setup.py
	$(call install,$(VENV),requirements/cpu.txt requirements/ros-jazzy.txt)

$(VENV)/.dev: $(VENV)/.runtime requirements/test.txt requirements/train.txt requirements/fleet.txt requirements/docs.txt requirements/dev.txt
	$(BIN)/python requirements/install.py requirements/cpu.txt requirements/dev.txt
	@touch $@

# Without torch: the node's tests run on the fake backend.
$(VENV_KILTED)/.test: requirements/base.txt requirements/ros-kilted.txt requirements/test.txt setup.py
	$(call install,$(VENV_KILTED),requirements/base.txt requirements/ros-kilted.txt requirements/test.txt)

venv: $(VENV)/.dev ## make .venv, the environment of test and lint
venv-kilted: $(VENV_KILTED)/.test

demo: $(VENV)/.runtime ## derain a live topic; INPUT=video|folder|bag RAIN=none|light|medium|heavy RATE= FRAMES= SIZE= OPEN_LOOP=1 OUT=
	@set --; \
	for option in rain:"$$RAIN" rate:"$$RATE" frames:"$$FRAMES" size:"$$SIZE" output:"$$OUT"; do \
		[ -z "$${option#*:}" ] || set -- "$$@" "--$${option%%:*}" "$${option#*:}"; \
	done; \
	case "$$OPEN_LOOP" in ''|0) ;; *) set -- "$$@" --open-loop ;; esac; \
	[ -z "$$INPUT" ] || set -- "$$@" "$$INPUT"; \
	exec $(BIN)/sapnet demo "$$@"

test: venv ## run all tests on ROS 2 Jazzy; TESTS="test/sapnet -k name" for some
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTS)

test-kilted: venv-kilted ## run the node's tests on ROS 2 Kilted
	$(VENV_KILTED)/bin/python -m pytest -n 2 --dist loadgroup $(or $(TESTS),-m 'not once' test/sapnet_ros)

soak: venv ## four cameras for MINUTES=10 through derain_node; memory and threads as soak.png
	$(BIN)/python benchmarks/soak.py --minutes "$${MINUTES:-10}" --picture soak.png

bench: venv ## the network and the node at small settings, and their tables in docs/benchmarks.md; DATA=folder for PSNR
	$(BIN)/sapnet bench --backend openvino torch --frames 5
	$(BIN)/python benchmarks/peers.py --turns 3 --large-turns 0 $(if $(DATA),--data "$$DATA")
	$(BIN)/python benchmarks/live.py --seconds 2

lint: venv ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

docs: venv ## the documentation as a site, in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q docs docs/_build/html

# What is locked stays as it is where the plain files allow it; UPGRADE=1 takes the newest of what they leave open.
locks: ## write requirements/vehicle-*.lock anew, with uv, after a change of the plain files; UPGRADE=1
	for kind in cpu cuda; do \
		$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes $(if $(UPGRADE),--upgrade) \
			--custom-compile-command "make locks" requirements/$$kind.txt -o requirements/vehicle-$$kind.lock; \
	done

clean: ## remove what builds, tests and the demo wrote; the environments stay
	rm -rf build install log dist demo_out docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache soak.png
	find . -path './.*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(VENV_KILTED) sapnet_ros.egg-info
