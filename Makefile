# SPDX-License-Identifier: Apache-2.0
# Needs make and Python 3.10 to 3.13. Everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
ROS ?= kilted
JOBS ?= 2
OUTPUT ?= demo_output
LEARNING ?=
DRIVERS ?=

LOCK := requirements/$(ROS).txt
MORE := $(if $(LEARNING),requirements/learning.txt) $(if $(DRIVERS),requirements/drivers.txt)
STAMP := $(VENV)/.setup-$(ROS)$(if $(LEARNING),-learning)$(if $(DRIVERS),-drivers)
PY := $(VENV)/bin/python

# A sourced ROS 2 installation would mix its libraries with those of the virtual environment.
ifdef AMENT_PREFIX_PATH
unexport PYTHONPATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE ROS_DISTRO
endif
unexport RMW_IMPLEMENTATION
export AMENT_PREFIX_PATH := $(abspath $(VENV))
# Never talk to the network around this machine.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_LOG_DIR ?= $(abspath $(VENV))/ros_log

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-jazzy clean

help:
	@echo 'make demo        simulated camera -> depth, live, no ROS or GPU needed; pictures in $(OUTPUT)/'
	@echo 'make test        style, types, all tests, the installed package (under 10 minutes)'
	@echo 'make lint        style and types only'
	@echo 'make test-jazzy  the same as make test, on ROS 2 Jazzy instead of Kilted (Python 3.10 to 3.12)'
	@echo 'make setup       only make or update the virtual environment'
	@echo 'make clean       remove what make made in this folder'
	@echo
	@echo 'LEARNING=1 with setup or test adds PyTorch and the tests of training and export'
	@echo 'DRIVERS=1 with setup or test adds the libraries of camera vendors, and the tests that run against them'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON) VENV=$(VENV) ROS=$(ROS) JOBS=$(JOBS) OUTPUT=$(OUTPUT)'

setup: $(STAMP)

$(STAMP): $(LOCK) $(MORE) setup.py setup.cfg pyproject.toml scripts/setup_venv.sh
	@bash scripts/setup_venv.sh '$(PYTHON)' '$(VENV)' '$(LOCK)' $(MORE)
	@rm -f '$(VENV)'/.setup-*
	@touch '$@'

demo: setup
	$(PY) -m dualfocus_ros demo --output '$(OUTPUT)'

test: setup
	$(PY) scripts/run_tests.py --jobs $(JOBS)

lint: setup
	$(PY) scripts/run_tests.py --only lint

test-jazzy:
	$(MAKE) test ROS=jazzy VENV=.venv-jazzy ROS_LOG_DIR='$(abspath .venv-jazzy)/ros_log'

clean:
	rm -rf .venv .venv-jazzy build install log demo_output dist ./*.egg-info \
	  .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
