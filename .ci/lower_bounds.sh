#!/usr/bin/env bash
# The fast tests with the oldest versions that pyproject.toml allows, in a fresh environment. Downloads some GB; not a
# part of every change. Run it after a bound was touched, and before a release. Needs uv.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT

uv venv --quiet --python "${PYTHON:-python3}" "$environment"
source "$environment/bin/activate"
uv pip install --quiet --resolution lowest-direct -e '.[dev]'
uv pip list

python -m pytest -m "not slow" "${@:-tests}"
