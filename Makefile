# One environment, .venv, filled in two steps that are not repeated: what the demo needs (make demo), and the tools (make test).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
DEMO := llama3-8b --hw h100-sxm,tpu-v5p,npu-hbm2,npu-pim-blocked,neupims --batch 64 --prompt 512 --output 128

.PHONY: venv demo test test-all lint bench docs site wheel-test clean

venv: $(VENV)/.dev

demo: $(VENV)/.base
	mkdir -p build
	$(BIN)/gemvane compare $(DEMO) --report build/demo.html

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

test-all: $(VENV)/.dev
	$(BIN)/pytest -m "slow or not slow" $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/pytest benchmarks --benchmark-only $(PYTEST_ARGS)

# The outputs in README.md and docs/, made anew by running their commands. Read the difference before you commit it.
docs: $(VENV)/.dev
	$(BIN)/python tests/docs_examples.py --write

# The documentation as a site, in build/site; a link that leads nowhere stops it.
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist, the wheel built from it, and the sdist's own tests run against that wheel in a clean environment.
wheel-test: $(VENV)/.dev
	rm -rf build/wheel-test
	$(BIN)/python -m build --outdir build/wheel-test/dist
	mkdir build/wheel-test/sdist
	tar -xzf build/wheel-test/dist/gemvane-*.tar.gz -C build/wheel-test/sdist --strip-components 1
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/pip install --quiet -c constraints.txt "$$(echo build/wheel-test/dist/gemvane-*.whl)[dev]"
	cd build/wheel-test/sdist && ../venv/bin/python -I -c "import gemvane; assert 'site-packages' in gemvane.__file__, gemvane.__file__"
	cd build/wheel-test/sdist && ../venv/bin/pytest $(PYTEST_ARGS)

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find sim workloads validate hw_configs src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gemvane needs Python 3.11 or newer, and '$(PYTHON)' is not: say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/.python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[report]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(VENV)/.base $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@
