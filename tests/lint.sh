#!/usr/bin/env bash
# Check the form of every file: ruff (pyproject.toml), shfmt (.editorconfig) and shellcheck.
#   tests/lint.sh
#   tests/lint.sh --fix      and mend what can be mended
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/venv.sh
ruff=scripts/.venv/bin/ruff
mapfile -t shell < <(git ls-files '*.sh' .ci/run)
if [ "${1:-}" = --fix ]; then
  "$ruff" check --quiet --fix || true
  "$ruff" format --quiet
  shfmt --write "${shell[@]}"
fi
"$ruff" format --check --quiet --diff
"$ruff" check --quiet
PYTHONPATH=scripts:. scripts/.venv/bin/lint-imports --no-cache >/dev/null || PYTHONPATH=scripts:. scripts/.venv/bin/lint-imports --no-cache
shfmt --diff "${shell[@]}"
shellcheck --external-sources "${shell[@]}"
