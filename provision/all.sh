#!/usr/bin/env bash
# Builds the platform on this machine by running every step of this folder in order. Safe to run again at any time.
set -euo pipefail

usage() {
  cat <<USAGE
usage: sudo provision/all.sh [--dry-run] [--only STEP]… [--from STEP] [--list]

Installs the platform on this machine (Ubuntu 24.04 or Debian 12, as root): Docker, a Kind cluster, MetalLB, KServe,
MinIO, Prometheus and HAProxy. A repeated run changes only what is missing, so after an error or an interruption run it
again.

  --dry-run     print every command and manifest, and change nothing except a cache of the downloads that the manifests
                are rendered from
  --only STEP   run only this step; may be repeated
  --from STEP   run this step and all later ones
  --list        list the steps

Settings are environment variables: those of provision/versions.env (versions, sizes and ports), and
  MIRROR_DIR           a folder created by provision/mirror.sh, used instead of downloads
  IMAGE_MAP            a file with lines of "reference replacement", for images from other registries
  MINIO_ROOT_PASSWORD  MinIO's root password; "generate" writes a random one to ~/minio.env
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

require_step() {
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
      require_step "${2:-}"
      only+=("$2")
      shift
      ;;
    --from)
      require_step "${2:-}"
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

selected=()
for name in "${names[@]}"; do
  [[ $name != "$from" ]] || from=
  [[ -z $from ]] || continue
  if ((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $name "* ]]; then selected+=("$name"); fi
done

log() { if [[ ${MODE:-run} == dry-run ]]; then echo "# $*"; else echo "$*"; fi; }

# Two concurrent runs would delete each other's cluster, and after a second Ctrl-C in Vagrant the step in the VM still
# runs. The steps inherit the lock; daemons do not, because systemd starts them.
lock=/run/mlops-poc.lock
if [[ ${MODE:-run} == run && $EUID == 0 ]]; then
  exec {lock_descriptor}>$lock
  if ! flock --nonblock "$lock_descriptor"; then
    echo "waiting up to 1800 s for another run to finish"
    flock --timeout 1800 "$lock_descriptor" || {
      echo "error: another run has not finished after 1800 s: find it with ps -ef --forest, and stop it" >&2
      exit 1
    }
  fi
fi

number=0
for name in "${selected[@]}"; do
  number=$((number + 1))
  log "== $name ($number of ${#selected[@]})"
  started=$SECONDS
  status=0
  "${script_of[$name]}" || status=$?
  if ((status != 0)); then
    ((status < 128)) || exit "$status"
    again="sudo $provision/all.sh --from $name"
    # In Vagrant's VM the settings come from Vagrant.
    [[ ${PROVISION_USER:-} != vagrant ]] || again="vagrant provision"
    echo "error: step $name failed after $((SECONDS - started)) s. After fixing the cause, continue with: $again" >&2
    exit 1
  fi
  [[ ${MODE:-run} == dry-run ]] || echo "== $name: done in $((SECONDS - started)) s"
done
