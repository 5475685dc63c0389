#!/usr/bin/env bash
# Run the tests.
#   tests/run.sh              all tests that need neither root nor programs of the system
#   tests/run.sh --all        also those: a test whose program (haproxy, vagrant, chromium ...) is missing is skipped
#   tests/run.sh tests/serving/test_transformer.py -k explain -x      any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/venv.sh
case "${1:-}" in
  "") set -- -m "not system" tests && echo "Expected duration: 4 minutes on two cores" ;;
  --all) set -- tests && echo "Expected duration: 7 minutes on two cores" ;;
esac
unset PYTHONDONTWRITEBYTECODE # or each process would compile the project's modules anew
# Four processes on two cores, because the deployment tests mostly wait.
# loadgroup: an idle worker takes the next test, and tests that share servers stay together (tests/conftest.py).
exec scripts/.venv/bin/python -m pytest -ra --numprocesses 4 --dist loadgroup "$@"
