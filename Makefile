# Needs Python 3.11, and `make test` a C++ compiler. Everything is installed into .venv, in this folder.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-det test test-fast lint type format check docs clean distclean

PYTHON ?=#      the Python 3.11 to make .venv with; found by itself if there is one
TORCH_INDEX ?=# where torch comes from, if not from PyPI
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))

RUN := .venv/bin/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile
READY := .venv/lint.ready .venv/demo.ready .venv/test.ready

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
	@echo 'A machine without GPU downloads less with TORCH_INDEX=https://download.pytorch.org/whl/cpu (at the first make).'

demo: .venv/demo.ready  ## distil a student from three teachers on real images: set-up (no compiler), then under 5 minutes
	$(RUN) -W ignore tools/demo.py

demo-det: .venv/test.ready  ## distil a detector from two larger ones: set-up (compiles mmcv once, 8 minutes), then under 15 minutes
	$(RUN) -W ignore tools/demo_det.py

format: .venv/lint.ready  ## put the code in its form, and mend what can be mended by itself
	$(RUN) -m ruff check --fix-only .
	$(RUN) -m ruff format .

lint: .venv/lint.ready  ## look at style, without changing anything
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@for script in .ci/run tools/*.sh; do bash -n $$script || exit 1; done

type: .venv/test.ready  ## check the types
	$(RUN) -m mypy

test-fast: .venv/test.ready  ## run the tests that take no longer than two seconds each
	$(PYTEST) -m 'not slow'

test: .venv/test.ready  ## run every test: set-up (compiles mmcv once, 8 minutes), then the suite
	$(PYTEST) --durations=15

check: lint type test  ## lint, type and test: what CI runs

docs: .venv/lint.ready  ## build the documentation and the reference into site/
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(RUN) -m mkdocs build --quiet

clean:  ## remove caches and build products; .venv and results stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean  ## remove .venv too
	rm -rf .venv

export PYTHON TORCH_INDEX
$(READY): .venv/%.ready: constraints.txt pyproject.toml setup.py tools/setup_env.sh
	@bash tools/setup_env.sh $*
