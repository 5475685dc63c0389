#!/usr/bin/env bash
# Make the Python environment of the tests, or bring it up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec scripts/venv.sh scripts/requirements-image.txt scripts/requirements.txt scripts/requirements-dask.txt tests/requirements.txt
