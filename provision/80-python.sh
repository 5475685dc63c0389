#!/usr/bin/env bash
# Creates the Python environment for scripts/deploy_service.py: ~/venv of PROVISION_USER.
source "$(dirname "$0")/functions.sh"

venv=$USER_HOME/venv
requirements=$REPOSITORY/scripts/requirements.txt

if [[ $MODE == mirror ]]; then
  mirror_python_packages "$requirements"
  exit
fi
already cmp --silent "$requirements" "$venv/requirements.txt" && exit

as_user() { run_quietly runuser --user "$PROVISION_USER" -- env --chdir=/ HOME="$USER_HOME" "$@"; }
announce "installing the packages of scripts/requirements.txt into $venv"
as_user python3 -m venv "$venv"
wheels=()
if [[ -n $MIRROR_DIR ]]; then wheels=(--no-index "--find-links=$MIRROR_DIR/wheels"); fi
as_user "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "${wheels[@]}" --requirement "$requirements"
# Copied last, so that its presence means that the environment is complete.
as_user cp "$requirements" "$venv/requirements.txt"
