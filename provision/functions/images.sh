# Container images: loading them into the node or into this machine's Docker, and saving them to a mirror.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

# Image maps have lines of "reference replacement". The user's is applied first, then the mirror's, which replaces digests
# by tags: an image that is loaded from an archive has no digest.
image_maps=()
[[ -z $IMAGE_MAP ]] || image_maps+=("$IMAGE_MAP")
[[ -z $MIRROR_DIR || $MODE == mirror || ! -f $MIRROR_DIR/image-map ]] || image_maps+=("$MIRROR_DIR/image-map")

mapped_image() { # mapped_image REFERENCE: prints its replacement
  if ((${#image_maps[@]} == 0)); then echo "$1"; else run_python "$PROVISION/manifests.py" map "${image_maps[@]}" <<<"$1"; fi
}

archive_name() { echo "images/$(tr '/:@' '___' <<<"$1").tar"; }

# Makes an image, whose reference is mapped already, available in the node or in this machine's Docker:
# provide_image REFERENCE [docker]
provide_image() {
  local reference=$1 target=${2:-node} archive
  if [[ $MODE == mirror ]]; then
    mirror_image "$reference"
    return
  fi
  archive=$MIRROR_DIR/$(archive_name "$reference")
  [[ -n $MIRROR_DIR && -f $archive ]] || archive=

  case $target in
    docker)
      ! already docker image inspect "$reference" || return 0
      announce "image $reference"
      if [[ -n $archive ]]; then run docker load --input "$archive"; else run_pull docker pull --quiet "$reference" || fail "cannot pull $reference"; fi
      ;;
    node)
      ! already docker exec "$NODE" crictl inspecti --quiet "$reference" || return 0
      announce "image $reference"
      if [[ -n $archive ]]; then
        run kind load image-archive --name "$CLUSTER_NAME" "$archive"
      else
        run_pull docker exec "$NODE" crictl pull "$reference" ||
          fail "cannot pull $reference. If it has moved or needs a login, name another image in versions.env or in an IMAGE_MAP."
      fi
      ;;
  esac
}

# Saves an image under the name that it will have in a node. A reference with a digest gets a line in the image map.
mirror_image() {
  local reference=$1 name=$1 archive
  if [[ $reference == *@sha256:* ]]; then
    name=${reference%@*}
    [[ ${name##*/} == *:* ]] || name=$name:sha256-$(cut -c1-12 <<<"${reference##*@sha256:}")
    grep --quiet --fixed-strings --line-regexp "$reference $name" "$MIRROR_DIR/image-map" || echo "$reference $name" >>"$MIRROR_DIR/image-map"
  fi
  archive=$MIRROR_DIR/$(archive_name "$name")
  [[ ! -f $archive ]] || return 0
  log "image $reference"
  mkdir -p "$MIRROR_DIR/images"
  pull_into_docker "$reference"
  [[ $name == "$reference" ]] || docker tag "$reference" "$name"
  save_image "$name" "$archive"
}

# Prints the references of the images that are built here. Their tags are hashes of everything that they are built from,
# so that an updated project never runs an image of an earlier one.
transformer_image() { echo "$TRANSFORMER_REPOSITORY:$(hash_of_sources builder transformer)"; }
retraining_image() { echo "$RETRAINING_REPOSITORY:$(hash_of_sources retraining-builder retraining)"; }

hash_of_sources() { # hash_of_sources STAGE…
  local sources hash
  mapfile -t sources < <(sources_of "$@")
  hash=$(
    cd "$REPOSITORY" || exit
    {
      echo "$PYTHON_IMAGE $KUBECTL_VERSION"
      find transformer.Dockerfile "${sources[@]}" -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum
  )
  echo "${hash:0:12}"
}

# Prints the files and folders of the repository that stages of transformer.Dockerfile copy. kubectl is not one of them.
sources_of() { # sources_of STAGE…
  awk -v stages=" $* " '$1 == "FROM" { stage = $4 }
    $1 == "COPY" && $2 !~ /^--/ && index(stages, " " stage " ") { for (i = 2; i < NF; i++) if ($i != "kubectl") print $i }' \
    "$REPOSITORY/transformer.Dockerfile"
}

pull_into_docker() { docker image inspect "$1" &>/dev/null || MODE=run run_pull docker pull --quiet "$1" || fail "cannot pull $1"; }

save_image() { # save_image NAME ARCHIVE
  local platform=()
  # Docker's containerd store would save the index of all platforms, and a node cannot load one with missing layers.
  if docker save --help | grep --quiet -- --platform; then platform=(--platform "linux/$(machine_architecture)"); fi
  docker save "${platform[@]}" --output "$2.part" "$1"
  mv "$2.part" "$2"
}

# Downloads Python packages for the Python versions of Ubuntu 24.04 and Debian 12.
mirror_python_packages() { # mirror_python_packages REQUIREMENTS
  local version
  for version in 3.12 3.11; do
    log "Python packages of ${1##*/} for Python $version"
    python3 -m pip download --disable-pip-version-check --quiet --only-binary=:all: --python-version "$version" \
      --dest "$MIRROR_DIR/wheels" --requirement "$1"
  done
}
