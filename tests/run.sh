#!/usr/bin/env bash
# Run the tests; arguments go to pytest.
#   tests/run.sh
#   tests/run.sh -k explain -x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/venv.sh scripts/requirements-image.txt scripts/requirements.txt tests/requirements.txt
exec scripts/.venv/bin/python -m pytest tests "$@"
