#!/usr/bin/env bash
# Installs Bitmosaic with its test extra into .venv and passes the tests: lint, types, import layers, pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
. .venv/bin/activate
pip install --quiet --disable-pip-version-check -e '.[test]'
# rapidocr's own dependencies (opencv and more) are not needed: only its trained network is.
pip install --quiet --disable-pip-version-check --no-deps rapidocr
ruff check .
mypy
lint-imports
# Notebooks run too, top to bottom; no cell may take ten minutes.
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal -q --nbmake --nbmake-timeout=600 tests notebooks
