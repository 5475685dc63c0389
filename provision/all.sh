#!/usr/bin/env bash
# Builds the whole platform on this machine: runs every step of this folder in order. Safe to run again at any time.
set -euo pipefail

usage() {
  cat <<USAGE
usage: sudo provision/all.sh [--dry-run] [--only STEP]… [--from STEP] [--list]

Turns this machine (Ubuntu 24.04 or Debian 12, root) into the platform: Docker, a Kind cluster, MetalLB, KServe, MinIO,
Prometheus and HAProxy. Running it again changes only what is missing, so after an error or an interruption just run it again.

  --dry-run     print every command and manifest, and change nothing (files that manifests are rendered from are
                downloaded into a cache)
  --only STEP   only this step; can be given more than once
  --from STEP   this step and those after it
  --list        print the names of the steps

Settings are environment variables; versions, sizes and ports are listed in provision/versions.env. Three more:
  MIRROR_DIR           a folder made by provision/mirror.sh, looked into before any download
  IMAGE_MAP            a file with lines of "reference replacement", for images from elsewhere
  MINIO_ROOT_PASSWORD  MinIO's root password, or "generate" for a random one in ~/minio.env
USAGE
}

provision=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
declare -A script_of
names=()
for script in "$provision"/[0-9][0-9]-*.sh; do
  name=${script##*/[0-9][0-9]-}
  name=${name%.sh}
  names+=("$name")
  script_of[$name]=$script
done

know() {
  [[ -n ${script_of[$1]:-} ]] || {
    echo "error: there is no step \"$1\"; the steps are: ${names[*]}" >&2
    exit 2
  }
}

only=()
from=
while (($# > 0)); do
  case $1 in
    --dry-run) export MODE=dry-run ;;
    --only)
      know "${2:-}"
      only+=("$2")
      shift
      ;;
    --from)
      know "${2:-}"
      from=$2
      shift
      ;;
    --list)
      printf '%s\n' "${names[@]}"
      exit
      ;;
    -h | --help)
      usage
      exit
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
  shift
done

chosen=()
for name in "${names[@]}"; do
  [[ $name != "$from" ]] || from=
  [[ -z $from ]] || continue
  if ((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $name "* ]]; then chosen+=("$name"); fi
done

say() { if [[ ${MODE:-run} == dry-run ]]; then echo "# $*"; else echo "$*"; fi; }

# Vagrant's second Ctrl-C leaves the step in the VM running, and two runs at once would delete each other's cluster. The
# steps' own processes hold the lock, too; daemons do not, as systemd starts them.
lock=/run/mlops-poc.lock
if [[ ${MODE:-run} == run && $EUID == 0 ]]; then
  exec {held}>$lock
  if ! flock --nonblock "$held"; then
    echo "waiting at most 1800 s for an earlier run, which is still going on"
    flock --timeout 1800 "$held" || {
      echo "error: an earlier run has not ended after 1800 s: look for it with ps -ef --forest, and end it" >&2
      exit 1
    }
  fi
fi

number=0
for name in "${chosen[@]}"; do
  number=$((number + 1))
  say "== $name ($number of ${#chosen[@]})"
  started=$SECONDS
  status=0
  "${script_of[$name]}" || status=$?
  if ((status != 0)); then
    ((status < 128)) || exit "$status"
    again="sudo $provision/all.sh --from $name"
    # In Vagrant's VM the settings come from Vagrant, and what is there already is skipped.
    [[ ${PROVISION_USER:-} != vagrant ]] || again="vagrant provision"
    echo "error: step $name failed after $((SECONDS - started)) s. Once its cause is dealt with: $again" >&2
    exit 1
  fi
  [[ ${MODE:-run} == dry-run ]] || echo "== $name: done in $((SECONDS - started)) s"
done
