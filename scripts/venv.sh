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
    "$python" -m venv --clear --without-pip "$venv"
    # ensurepip takes 3 s more to install another pip, but it is part of every Python
    "$python" -m pip --python "$venv" install --quiet -r "$scripts/requirements-pip.txt" 2>/dev/null ||
      "$venv/bin/python" -m ensurepip --default-pip >/dev/null
  elif command -v uv >/dev/null; then
    uv venv --seed --clear --python 3.11 "$venv"
  else
    echo "venv.sh: Python 3.11 or 3.12 with venv is required (Debian, Ubuntu: apt-get install python3-venv), or uv" >&2
    exit 2
  fi
fi
# pip would compile after it has installed, on one core, and also what few ever import: the packages' own tests and the
# 1,700 modules of the API of Kubernetes. A package may have files for another Python: no error.
options=(--no-compile --disable-pip-version-check)
[ -t 2 ] || options+=(--quiet)
compile=("$venv/bin/python" -m compileall -qq -x '/tests?/|/kubernetes/.*(api|models)/' "$venv/lib")
unset PYTHONDONTWRITEBYTECODE # or each pip would compile itself anew
compiler=
trap 'kill $compiler 2>/dev/null || true' EXIT

"$venv/bin/pip" install --quiet "${options[@]}" -r "$scripts/requirements-pip.txt" >&2
for requirements in "$@"; do
  if [ -z "$(jobs -r)" ]; then
    "${compile[@]}" & # what is installed already, on another core
    compiler=$!
  fi
  echo "Installing the packages of $requirements into $venv (first run only)" >&2
  "$venv/bin/pip" install "${options[@]}" -r "$requirements" >&2
done
echo "Compiling the packages" >&2
kill "$compiler" 2>/dev/null || true
wait
"${compile[@]}" -j 0 || true
echo "$wanted" >"$stamp"
