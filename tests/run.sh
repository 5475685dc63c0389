#!/usr/bin/env bash
# Run the tests; arguments go to pytest.
#   tests/run.sh
#   tests/run.sh tests/serving/test_transformer.py -k explain -x
# A test that needs a program which is not here (haproxy, vagrant, chromium, docker ...) is skipped and says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/venv.sh
[ $# -gt 0 ] || set -- tests
exec scripts/.venv/bin/python -m pytest -ra --numprocesses 2 --dist loadfile "$@"
