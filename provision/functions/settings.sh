# Settings: the mode, versions.env, and paths.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

MODE=${MODE:-run}
MIRROR_DIR=${MIRROR_DIR:-}
IMAGE_MAP=${IMAGE_MAP:-}
export REPOSITORY=${PROVISION%/*}

# Absolute, because some commands run in other directories.
[[ -z $MIRROR_DIR ]] || MIRROR_DIR=$(realpath --canonicalize-missing "$MIRROR_DIR")
[[ -z $IMAGE_MAP ]] || IMAGE_MAP=$(realpath --canonicalize-missing "$IMAGE_MAP")

while IFS='=' read -r key value; do
  [[ -z $key || $key == '#'* || -v $key ]] || export "$key=$value"
done <"$PROVISION/versions.env"

if [[ $EUID == 0 ]]; then
  CACHE_DIR=${CACHE_DIR:-/var/cache/mlops-poc}
else
  CACHE_DIR=${CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mlops-poc}
fi
STATE_DIR=/var/lib/mlops-poc
# Kubeconfig, credentials and Python environment are created in the home of this user.
PROVISION_USER=${PROVISION_USER:-${SUDO_USER:-$(id -un)}}
USER_HOME=$(getent passwd "$PROVISION_USER" | cut -d: -f6) ||
  {
    echo "error: PROVISION_USER is \"$PROVISION_USER\", but this user does not exist" >&2
    exit 2
  }
export USER_HOME
NODE=$CLUSTER_NAME-control-plane
# A separate kubeconfig, so that root's ~/.kube/config is never changed.
export KUBECONFIG=$STATE_DIR/kubeconfig

INSTALL_DIR=/usr/local/bin
case $MODE in
  run) BIN_DIR=$INSTALL_DIR FILES=$CACHE_DIR/files ;;
  dry-run) BIN_DIR=$CACHE_DIR/bin FILES=$CACHE_DIR/files ;;
  mirror) BIN_DIR=$CACHE_DIR/bin FILES=$MIRROR_DIR/files ;;
  *)
    echo "error: MODE is \"$MODE\"; it must be run, dry-run or mirror" >&2
    exit 2
    ;;
esac
PATH=$BIN_DIR:$PATH

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
