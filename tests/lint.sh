#!/usr/bin/env bash
# Run the formatters and linters: ruff, import-linter and mypy (pyproject.toml), shfmt (.editorconfig) and shellcheck.
#   tests/lint.sh
#   tests/lint.sh --fix      first fix what can be fixed automatically
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
scripts/.venv/bin/mypy --no-error-summary & # the slowest by far
"$ruff" format --check --quiet --diff
"$ruff" check --quiet
PYTHONPATH=scripts:. scripts/.venv/bin/lint-imports --no-cache >/dev/null || PYTHONPATH=scripts:. scripts/.venv/bin/lint-imports --no-cache
shfmt --diff "${shell[@]}"
shellcheck --external-sources "${shell[@]}"
wait $!
