# What every step uses, sourced by all of them. Everything that a step does to the machine goes through one of these
# functions, so that one and the same step file can be
#   run       done (the default),
#   dry-run   printed: every command and every manifest, nothing on the machine is changed,
#   mirror    collected: every file and image that it would need is put into MIRROR_DIR.
# shellcheck shell=bash
set -euo pipefail

MODE=${MODE:-run}
MIRROR_DIR=${MIRROR_DIR:-}
IMAGE_MAP=${IMAGE_MAP:-}
PROVISION=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export REPOSITORY=${PROVISION%/*}

# Some commands are run in other directories.
[[ -z $MIRROR_DIR ]] || MIRROR_DIR=$(realpath --canonicalize-missing "$MIRROR_DIR")
[[ -z $IMAGE_MAP ]] || IMAGE_MAP=$(realpath --canonicalize-missing "$IMAGE_MAP")

while IFS='=' read -r key value; do
  [[ -z $key || $key == '#'* || -v $key ]] || export "$key=$value"
done <"$PROVISION/versions.env"

# As for any installer, everything is written below DESTDIR where that is set; the tests do so.
DESTDIR=${DESTDIR:-}
if [[ $EUID == 0 ]]; then
  CACHE_DIR=${CACHE_DIR:-$DESTDIR/var/cache/mlops-poc}
else
  CACHE_DIR=${CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mlops-poc}
fi
STATE_DIR=$DESTDIR/var/lib/mlops-poc
# The person who works here: their home gets kubeconfig, credentials and Python environment.
PROVISION_USER=${PROVISION_USER:-${SUDO_USER:-$(id -un)}}
USER_HOME=$DESTDIR$(getent passwd "$PROVISION_USER" | cut -d: -f6) ||
  {
    echo "error: PROVISION_USER is \"$PROVISION_USER\", and there is no such user" >&2
    exit 2
  }
export USER_HOME
NODE=$CLUSTER_NAME-control-plane
# A kubeconfig of our own: an unrelated ~/.kube/config of root is never touched.
export KUBECONFIG=$STATE_DIR/kubeconfig

INSTALL_DIR=$DESTDIR/usr/local/bin
case $MODE in
  run) BIN_DIR=$INSTALL_DIR FILES=$CACHE_DIR/files ;;
  dry-run) BIN_DIR=$CACHE_DIR/bin FILES=$CACHE_DIR/files ;;
  mirror) BIN_DIR=$CACHE_DIR/bin FILES=$MIRROR_DIR/files ;;
  *)
    echo "MODE is \"$MODE\"; it can be run, dry-run or mirror" >&2
    exit 2
    ;;
esac
PATH=$BIN_DIR:$PATH

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# --- Saying what happens ---------------------------------------------------------------------------------------------

# In a dry run standard output is the script that would run, so remarks go to standard error.
log() {
  local message="$*"
  [[ ! -t 1 ]] || message=$'\e[1m'$message$'\e[0m'
  if [[ $MODE == dry-run ]]; then printf '%s\n' "$message" >&2; else printf '%s\n' "$message"; fi
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

quoted() { # arguments as one would type them
  local argument separator=
  for argument in "$@"; do
    [[ $argument =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || argument=${argument@Q}
    printf '%s%s' "$separator" "$argument"
    separator=' '
  done
}

# Does a command, or prints it so that it can be copied.
run() {
  case $MODE in
    run) "$@" ;;
    dry-run) printf '%s\n' "$(quoted "$@")" ;;
  esac
}

# The same for a command that needs the network, with two more attempts and half an hour for each.
run_pull() {
  local attempt
  [[ $MODE == run ]] || {
    run "$@"
    return
  }
  for attempt in 1 2 3; do
    # In the foreground, so that Ctrl-C reaches the command.
    if timeout --foreground 1800 "$@"; then return; fi
    ((attempt == 3)) || {
      log "failed, again in $((attempt * 5)) s: $*"
      sleep $((attempt * 5))
    }
  done
  return 1
}

# Is this done already? Only ever true when steps are really run: the other modes show or collect everything.
already() { [[ $MODE == run ]] && "$@" &>/dev/null; }

# Writes standard input to a file, unless it holds the same already: write_file PATH FILE-MODE
write_file() {
  local path=$1 mode=$2 content=$WORK/content
  cat >"$content"
  case $MODE in
    run)
      cmp --silent "$content" "$path" || {
        mkdir -p "$(dirname "$path")"
        install -m "$mode" "$content" "$path"
      }
      ;;
    dry-run) printf "install -D -m %s /dev/stdin '%s' <<'CONTENT'\n%s\nCONTENT\n" "$mode" "$path" "$(without_secrets <"$content")" ;;
  esac
}

# No password on a screen or in a log, not even in a dry run.
without_secrets() {
  if [[ -n ${MINIO_ROOT_PASSWORD:-} ]]; then
    PASSWORD=$MINIO_ROOT_PASSWORD python3 -c 'import os, sys; sys.stdout.write(sys.stdin.read().replace(os.environ["PASSWORD"], "********"))'
  else
    cat
  fi
}

# --- Files -----------------------------------------------------------------------------------------------------------

machine_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) fail "this machine is $(uname -m); the images exist for x86_64 (amd64) and aarch64 (arm64) only" ;;
  esac
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

recorded_sha256() { # recorded_sha256 LIST NAME: what a list in the format of sha256sum says of a file
  [[ -f $1 ]] || return 0
  awk -v name="$2" '$2 == name { print $1; exit }' "$1"
}

# The checksum that upstream publishes beside a file: either alone, or in the format of sha256sum, or the digest in the
# index.yaml of a Helm repository.
published_sha256() { # published_sha256 URL NAME-AT-UPSTREAM
  local list=$WORK/published
  fetch "$1" "$list"
  if [[ $1 == */index.yaml ]]; then
    awk -v name="$2" '$1 == "digest:" { digest = $2 } $1 == "-" && $2 ~ ("(^|/)" name "$") { print digest; exit }' "$list"
  else
    awk '{ print $1; exit }' "$list"
  fi
}

fetch() { # fetch URL FILE
  curl --fail --location --silent --show-error --retry 4 --retry-all-errors --connect-timeout 15 --max-time 1200 \
    --output "$2.part" "$1" ||
    fail "cannot download $1. Is the network up, and a proxy set in https_proxy if one is needed? Without a network, set MIRROR_DIR to a folder made by provision/mirror.sh."
  mv "$2.part" "$2"
}

# Puts a file into $FILES, verified: download NAME URL CHECKSUM
# NAME carries the version. CHECKSUM is sha256:… where it was read from upstream, else the URL of a published one.
# provision/versions.lock, where it exists, has the last word.
download() {
  local name=$1 url=$2 checksum=$3 file=$FILES/$1 expected actual
  mkdir -p "$FILES"
  expected=$(recorded_sha256 "$PROVISION/versions.lock" "$name")
  [[ -n $expected || $checksum != sha256:* ]] || expected=${checksum#sha256:}
  [[ -n $expected || -z $MIRROR_DIR ]] || expected=$(recorded_sha256 "$MIRROR_DIR/files/SHA256SUMS" "$name")
  [[ -n $expected ]] || expected=$(recorded_sha256 "$FILES/SHA256SUMS" "$name")

  if [[ $MODE == dry-run ]]; then
    echo "curl --fail --location --output ${file@Q} ${url@Q}   # verified: ${expected:-$checksum}"
  fi
  if [[ -f $file && -n $expected && $(sha256_of "$file") == "$expected" ]]; then return; fi

  if [[ -n $MIRROR_DIR && $MODE != mirror && -f $MIRROR_DIR/files/$name ]]; then
    cp "$MIRROR_DIR/files/$name" "$file.part" && mv "$file.part" "$file"
  else
    log "downloading $url"
    [[ -n $expected ]] || expected=$(published_sha256 "$checksum" "${url##*/}")
    [[ $expected =~ ^[0-9a-f]{64}$ ]] || fail "no checksum for ${url##*/} in $checksum"
    fetch "$url" "$file"
  fi

  actual=$(sha256_of "$file")
  if [[ $actual != "$expected" ]]; then
    rm -f "$file"
    fail "$name has sha256 $actual, expected ${expected:-one in $MIRROR_DIR/files/SHA256SUMS}. It was deleted; nothing was installed from it."
  fi
  touch "$FILES/SHA256SUMS"
  {
    awk -v name="$name" '$2 != name' "$FILES/SHA256SUMS"
    echo "$actual  $name"
  } | sort -k2 >"$FILES/SHA256SUMS.part"
  mv "$FILES/SHA256SUMS.part" "$FILES/SHA256SUMS"
}

# --- Tools -----------------------------------------------------------------------------------------------------------

tool_version() {
  [[ -x $BIN_DIR/$1 ]] || return 0
  case $1 in
    kind) "$BIN_DIR/kind" version --quiet | sed 's/^v\?/v/' ;;
    kubectl) "$BIN_DIR/kubectl" version --client | sed -n 's/^Client Version: //p' ;;
    helm) "$BIN_DIR/helm" version --template '{{.Version}}' ;;
  esac
}

# Installs kind, kubectl or helm in the pinned version: in a dry run and for a mirror, which render manifests with them,
# into the cache.
tool() {
  local name=$1 version architecture file source
  version=$(pinned_version "$name")
  architecture=$(machine_architecture)
  file=$name-$version-linux-$architecture
  source=$FILES/$file
  ! already test "$(tool_version "$name")" == "$version" || return 0
  case $name in
    kind)
      download "$file" "https://github.com/kubernetes-sigs/kind/releases/download/$version/kind-linux-$architecture" \
        "https://github.com/kubernetes-sigs/kind/releases/download/$version/kind-linux-$architecture.sha256sum"
      ;;
    kubectl)
      download "$file" "https://dl.k8s.io/release/$version/bin/linux/$architecture/kubectl" \
        "https://dl.k8s.io/release/$version/bin/linux/$architecture/kubectl.sha256"
      ;;
    helm)
      download "$file.tar.gz" "https://get.helm.sh/$file.tar.gz" "https://get.helm.sh/$file.tar.gz.sha256sum"
      source=$CACHE_DIR/linux-$architecture/helm
      run tar --directory "$CACHE_DIR" -xzf "$FILES/$file.tar.gz" "linux-$architecture/helm"
      [[ $MODE == run ]] || tar --directory "$CACHE_DIR" -xzf "$FILES/$file.tar.gz" "linux-$architecture/helm"
      ;;
  esac
  run install -D -m 755 "$source" "$INSTALL_DIR/$name"
  [[ $MODE == run ]] || install -D -m 755 "$source" "$BIN_DIR/$name"
}

pinned_version() {
  local variable=${1^^}_VERSION
  echo "${!variable}"
}

# Where steps are only shown or collected, the tools step has installed nothing.
renderer() { [[ $MODE == run || $(tool_version "$1") == "$(pinned_version "$1")" ]] || tool "$1" >/dev/null; }

# --- Images ----------------------------------------------------------------------------------------------------------

# The image map: lines of "reference replacement", the user's first, then the mirror's (which gives images that a
# manifest names by digest a tag: an archive loaded into a node loses its digest).
image_maps=()
[[ -z $IMAGE_MAP ]] || image_maps+=("$IMAGE_MAP")
[[ -z $MIRROR_DIR || $MODE == mirror || ! -f $MIRROR_DIR/image-map ]] || image_maps+=("$MIRROR_DIR/image-map")

mapped() { python3 "$PROVISION/images.py" map "${image_maps[@]}" <<<"$1"; } # mapped REFERENCE: what the maps make of it

archive_of() { echo "images/$(tr '/:@' '___' <<<"$1").tar"; }

# Makes an image available in the cluster's node, or with "docker" in the machine's Docker: image REFERENCE [docker]
image() {
  local reference target=${2:-node} archive
  reference=$(mapped "$1")
  if [[ $MODE == mirror ]]; then
    mirror_image "$reference"
    return
  fi
  archive=$MIRROR_DIR/$(archive_of "$reference")
  [[ -n $MIRROR_DIR && -f $archive ]] || archive=

  case $target in
    docker)
      ! already docker image inspect "$reference" || return 0
      log "image $reference"
      if [[ -n $archive ]]; then run docker load --input "$archive"; else run_pull docker pull --quiet "$reference" || fail "cannot pull $reference"; fi
      ;;
    node)
      ! already docker exec "$NODE" crictl inspecti --quiet "$reference" || return 0
      log "image $reference"
      if [[ -n $archive ]]; then
        run kind load image-archive --name "$CLUSTER_NAME" "$archive"
      else
        run_pull docker exec "$NODE" crictl pull "$reference" ||
          fail "cannot pull $reference. If it moved or is behind a login, name another image in versions.env or in the file that IMAGE_MAP names."
      fi
      ;;
  esac
}

# Saves an image under the name that nodes will know it by. A reference with a digest gets a line in the image map.
mirror_image() {
  local reference=$1 name=$1 archive
  if [[ $reference == *@sha256:* ]]; then
    name=${reference%@*}
    [[ ${name##*/} == *:* ]] || name=$name:sha256-$(cut -c1-12 <<<"${reference##*@sha256:}")
    touch "$MIRROR_DIR/image-map"
    grep --quiet --fixed-strings --line-regexp "$reference $name" "$MIRROR_DIR/image-map" || echo "$reference $name" >>"$MIRROR_DIR/image-map"
  fi
  archive=$MIRROR_DIR/$(archive_of "$name")
  [[ ! -f $archive ]] || return 0
  log "image $reference"
  mkdir -p "$MIRROR_DIR/images"
  pull_into_docker "$reference"
  [[ $name == "$reference" ]] || docker tag "$reference" "$name"
  save_image "$name" "$archive"
}

pull_into_docker() { docker image inspect "$1" &>/dev/null || MODE=run run_pull docker pull --quiet "$1" || fail "cannot pull $1"; }

save_image() { # save_image NAME ARCHIVE
  local platform=()
  # Docker's containerd store saves the index of all platforms, and a node then misses the layers of the others.
  if docker save --help | grep --quiet -- --platform; then platform=(--platform "linux/$(machine_architecture)"); fi
  docker save "${platform[@]}" --output "$2.part" "$1"
  mv "$2.part" "$2"
}

# Python packages for the Python of Ubuntu 24.04 and of Debian 12.
mirror_python_packages() { # mirror_python_packages REQUIREMENTS
  local version
  for version in 3.12 3.11; do
    log "Python packages of ${1##*/} for Python $version"
    python3 -m pip download --disable-pip-version-check --quiet --only-binary=:all: --python-version "$version" \
      --dest "$MIRROR_DIR/wheels" --requirement "$1"
  done
}

# --- Manifests -------------------------------------------------------------------------------------------------------

# Renders a Helm chart to standard output: chart RELEASE NAMESPACE ARCHIVE [HELM-ARGUMENT…]
chart() {
  renderer helm
  helm template "$1" "$FILES/$3" --namespace "$2" --include-crds --kube-version "${KUBECTL_VERSION}" "${@:4}"
}

# Renders a folder of provision/ with the files that it names to standard output: kustomization FOLDER NAME=FILE…
kustomization() {
  local folder=$WORK/$1 file
  renderer kubectl
  cp -r "$PROVISION/$1" "$folder"
  for file in "${@:2}"; do cp "$FILES/${file#*=}" "$folder/${file%%=*}"; done
  kubectl kustomize "$folder"
}

# Applies the manifest on standard input: replaces images by the image map, makes sure that the node has them, then
# applies. Server-side, because KServe's CRDs are too large for the annotation of a plain apply. Webhooks of what was
# just installed may not answer yet, so those errors are retried.
apply() {
  local manifest=$WORK/manifest.yaml reference attempt errors=$WORK/apply-errors
  python3 "$PROVISION/images.py" map "${image_maps[@]}" >"$manifest"
  while read -r reference; do image "$reference" </dev/null; done < <(python3 "$PROVISION/images.py" list <"$manifest")
  case $MODE in
    dry-run)
      echo "kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f - <<'MANIFEST'"
      without_secrets <"$manifest"
      echo MANIFEST
      ;;
    run)
      for ((attempt = 1; ; attempt++)); do
        if kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f "$manifest" >"$WORK/applied" 2>"$errors"; then break; fi
        if ((attempt == 30)) || ! grep --quiet --extended-regexp 'webhook|no matches for kind|connection refused|timeout|timed out|etcdserver|not found' "$errors"; then
          without_secrets <"$errors" >&2
          show_unready_pods
          fail "kubectl apply failed (attempt $attempt of 30)"
        fi
        ((attempt > 1)) || log "waiting at most 150 s for the cluster to accept the manifest: $(tail -n 1 "$errors" | cut -c1-200)"
        sleep 5
      done
      log "applied $(wc -l <"$WORK/applied") objects"
      ;;
  esac
}

# --- Waiting ---------------------------------------------------------------------------------------------------------

# Repeats a command until it succeeds: wait_for SECONDS WHAT COMMAND…
wait_for() {
  local seconds=$1 what=$2 deadline
  shift 2
  case $MODE in
    mirror) return ;;
    dry-run)
      echo "# at most $seconds s until ${what}:"
      echo "until $(quoted "$@"); do sleep 2; done"
      return
      ;;
  esac
  if "$@" &>/dev/null; then return; fi
  log "waiting at most $seconds s for $what"
  deadline=$((SECONDS + seconds))
  until "$@" &>"$WORK/waiting"; do
    if ((SECONDS >= deadline)); then
      printf 'error: after %s s still no %s. The last answer was:\n' "$seconds" "$what" >&2
      tail -n 5 "$WORK/waiting" | without_secrets >&2
      show_unready_pods
      fail "$what: not there after $seconds s. Running this step again is safe and goes on from here."
    fi
    sleep 2
  done
}

wait_for_deployments() { # wait_for_deployments SECONDS NAMESPACE NAME…
  local seconds=$1 namespace=$2 name
  for name in "${@:3}"; do
    wait_for "$seconds" "deployment $name in $namespace" kubectl rollout status --namespace "$namespace" "deployment/$name" --timeout=5s
  done
}

# Which pods are not ready, why, and the last thing that they said.
show_unready_pods() {
  local namespace pod reason
  kubectl get pods --all-namespaces --output=json --request-timeout=10s 2>/dev/null >"$WORK/pods.json" || {
    echo "the cluster does not answer" >&2
    return 0
  }
  jq -r '.items[]
      | select(.status.phase != "Succeeded")
      | select(([.status.containerStatuses[]?.ready] | length == 0 or any(. == false)))
      | [.metadata.namespace, .metadata.name,
         (([(.status.initContainerStatuses // []) + (.status.containerStatuses // []) | .[].state | (.waiting // .terminated // empty)
            | "\(.reason // "")\(if .message then ": " + .message else "" end)"]
           + [.status.conditions[]? | select(.status == "False" and .message != null) | "\(.reason // .type): \(.message)"]
           + [.status.phase]) | map(select(. != "" and . != "Completed")) | .[0])] | @tsv' "$WORK/pods.json" |
    while IFS=$'\t' read -r namespace pod reason; do
      printf '\npod %s in %s is not ready: %s\n' "$pod" "$namespace" "$reason" >&2
      kubectl logs --namespace "$namespace" "$pod" --all-containers --prefix --tail=5 --request-timeout=10s 2>&1 </dev/null | without_secrets | sed 's/^/    /' >&2 || true
    done
}
