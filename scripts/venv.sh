#!/usr/bin/env bash
# Create the Python environment scripts/.venv, or update it.
#   scripts/venv.sh REQUIREMENTS.txt ...
# Does nothing if the same requirements files are already installed.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$scripts/.venv
stamp=$venv/requirements.cksum

find_python() {
  local python
  for python in python3.11 python3.12 python3; do
    # the numpy of the predictor image requires at least 3.11, its kserve at most 3.12
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

[ $# -gt 0 ] || {
  echo "usage: venv.sh REQUIREMENTS.txt ..." >&2
  exit 2
}

wanted=$(cat "$@" | cksum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if ! [ -x "$venv/bin/pip" ]; then
  if python=$(find_python); then
    "$python" -m venv --clear "$venv"
  elif command -v uv >/dev/null; then
    uv venv --seed --clear --python 3.11 "$venv"
  else
    echo "venv.sh: Python 3.11 or 3.12 with venv is required (Debian, Ubuntu: apt-get install python3-venv), or uv" >&2
    exit 2
  fi
fi
options=(--no-compile --disable-pip-version-check)
[ -t 2 ] || options+=(--quiet)
"$venv/bin/pip" install --quiet "${options[@]}" -r "$scripts/requirements-pip.txt" >&2
for requirements in "$@"; do
  echo "Installing the packages of $requirements into $venv (first run only)" >&2
  "$venv/bin/pip" install "${options[@]}" -r "$requirements" >&2
done
# pip would compile on one core, and the packages' own tests, too
echo "Compiling the packages" >&2
"$venv/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$venv/lib" || true # a package may have files for another Python
echo "$wanted" >"$stamp"
