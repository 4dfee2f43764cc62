#!/usr/bin/env bash
# Installs Bitmosaic with its test extra into .venv and passes the tests: lint, types, import layers, pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
. .venv/bin/activate
pip install --quiet --disable-pip-version-check -e '.[test]'
# Reports are looked at in Chromium. Where it is not there and cannot be had, those tests are skipped and say so.
if ! command -v chromedriver > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { timeout 120 apt-get update -q && timeout 300 apt-get install -y -q --no-install-recommends chromium chromium-driver; } \
    > /dev/null 2>&1 || echo "Chromium cannot be installed: tests of pages are skipped"
fi
# rapidocr's own dependencies (opencv and more) are not needed: only its trained network is.
pip install --quiet --disable-pip-version-check --no-deps rapidocr
# Kernels are compiled once, here, and not by each process of the tests.
python tools/compile_kernels.py walks & walks=$!
python tools/compile_kernels.py search & search=$!
ruff check .
mypy
lint-imports
wait "$walks"
wait "$search"
# Notebooks run too, top to bottom; no cell may take ten minutes.
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal -q --nbmake --nbmake-timeout=600 tests notebooks
