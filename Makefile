# Everything a newcomer types. Two matter: `make serve` and `make test`.
SHELL := /bin/bash
PY ?= python3
UV := .tools/bin/uv
BIN := .venv/bin

.PHONY: install serve test check format lock torture bench conformance clean

install: .venv/.runtime            ## create .venv with the `mainstem` command

serve: install                     ## run everything on embedded defaults
	$(BIN)/mainstem serve

test: .venv/.test                  ## install what the tests need, then check and test everything
	scripts/test.sh

check: .venv/.test                 ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

torture: .venv/.test               ## 1,000 rounds of kill -9 under load
	$(BIN)/pytest -m torture -x -n 0 --timeout 0

bench: .venv/.test                 ## every benchmark, ratios within one run
	$(BIN)/python -m benchmarks

conformance: .venv/.test           ## RudderStack's cases through our mappings; writes docs/reference/conformance.md
	$(BIN)/python -m tests.conformance --write

lock: $(UV)                        ## resolve the pinned lock files again
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group test -o requirements-test.lock

$(UV):
	$(PY) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv==0.13.9

.venv/bin/python: | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PY) .venv

# Compiled once: else, where Python may not write (PYTHONDONTWRITEBYTECODE, a read-only image), every process that
# starts compiles everything it imports, and takes twice as long.
PIP_INSTALL := $(UV) pip install --quiet --compile-bytecode --python .venv/bin/python

.venv/.runtime: .venv/bin/python requirements.lock pyproject.toml
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-deps --editable .
	.venv/bin/python -m compileall -q src
	touch $@

.venv/.test: .venv/.runtime requirements-test.lock
	$(PIP_INSTALL) --require-hashes -r requirements-test.lock
	touch $@

clean:
	rm -rf .venv .tools .test-components .mypy_cache .ruff_cache .pytest_cache .hypothesis
