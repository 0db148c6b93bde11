# Needs Python 3.11; `make test` also a C++ compiler. Everything is installed into .venv, in this folder.
SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:  # two set-ups at once would disturb each other
.PHONY: help demo demo-det test test-fast lint type format check docs compatibility clean distclean

PYTHON ?=#      the Python 3.11 to make .venv with; if not set, it is searched
TORCH_INDEX ?=# the index of torch, if not PyPI
PRETRAINED ?=# 1: the demo tests networks of the model zoo, in less than a minute
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))

RUN := .venv/bin/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile
READY := .venv/lint.ready .venv/demo.ready .venv/test.ready

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo 'Set-up of demo: 4 to 14 minutes, no compiler. Set-up of demo-det, test, test-fast, type and'
	@echo 'check: 12 to 30 minutes, because mmcv is compiled once. A machine without GPU downloads less'
	@echo 'with TORCH_INDEX=https://download.pytorch.org/whl/cpu (at the first make).'
	@echo 'make demo PRETRAINED=1 tests networks that were trained before: set-up, then under a minute.'

demo: .venv/demo.ready  ## distil a student from three teachers on real images: set-up, then under 5 minutes
	$(RUN) -W ignore tools/demo.py $(if $(PRETRAINED),--pretrained)

demo-det: .venv/test.ready  ## distil a detector from two larger ones: set-up, then under 15 minutes
	$(RUN) -W ignore tools/demo_det.py

format: .venv/lint.ready  ## format the code, and fix what ruff can fix
	$(RUN) -m ruff check --fix-only .
	$(RUN) -m ruff format .

lint: .venv/lint.ready  ## check style, spelling and words, without changing anything
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib
	$(RUN) tools/check_words.py
	@for script in .ci/run tools/*.sh; do bash -n $$script || exit 1; done

type: .venv/test.ready  ## check the types
	$(RUN) -m mypy

test-fast: .venv/test.ready  ## run the tests that take at most two seconds each
	$(PYTEST) -m 'not slow'

test: .venv/test.ready  ## run every test and every example of a docstring
	$(PYTEST) --durations=15

check: lint type test  ## lint, type and test: the command of CI

docs: .venv/lint.ready  ## build the documentation and the reference into site/
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(RUN) -m mkdocs build --quiet

compatibility: .venv/test.ready  ## one step of every stock model: docs/compatibility.md, about an hour
	$(RUN) -W ignore tools/compatibility.py

clean:  ## remove caches and build products; .venv and results stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean  ## remove .venv too
	rm -rf .venv

export PYTHON TORCH_INDEX
$(READY): .venv/%.ready: constraints.txt pyproject.toml setup.py tools/setup_env.sh
	@bash tools/setup_env.sh $*
