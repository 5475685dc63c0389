#!/usr/bin/env bash
# Builds the images of the transformer and of retrain.py from transformer.Dockerfile and loads them into the node, so that no
# registry is needed.
source "$(dirname "$0")/functions.sh"

base=$(mapped_image "$PYTHON_IMAGE")
require_tool kubectl

build_image() { # build_image STAGE IMAGE
  # Docker copies from the repository only.
  [[ $1 == transformer ]] || run install -m 755 "$BIN_DIR/kubectl" "$REPOSITORY/kubectl"
  run docker build --quiet --build-arg "BASE_IMAGE=$base" --target "$1" --tag "$2" --file "$REPOSITORY/transformer.Dockerfile" "$REPOSITORY"
  [[ $1 == transformer ]] || run rm "$REPOSITORY/kubectl"
}

provide_built_image() { # provide_built_image STAGE IMAGE
  local archive
  archive=$(archive_name "$2")
  if [[ $MODE == mirror ]]; then
    # Images of earlier versions of the project.
    find "$MIRROR_DIR" -path "$MIRROR_DIR/$(archive_name "${2%:*}:*")" -not -path "$MIRROR_DIR/$archive" -delete
    pull_into_docker "$base"
    MODE=run build_image "$@"
    mirror_image "$2"
  elif [[ -n $MIRROR_DIR && -f $MIRROR_DIR/$archive ]]; then
    provide_image "$2"
  elif ! already docker exec "$NODE" crictl inspecti --quiet "$2"; then
    [[ -z $MIRROR_DIR ]] || log "the mirror has no image of this version of the project, which needs a network; update it with provision/mirror.sh"
    announce "building $2"
    provide_image "$base" docker
    build_image "$@"
    run kind load docker-image --name "$CLUSTER_NAME" "$2"
  fi
}

provide_built_image transformer "$(transformer_image)"
provide_built_image retraining "$(retraining_image)"
[[ $MODE != mirror ]] || exit 0

write_file "$USER_HOME/transformer-image" 644 <<<"$(transformer_image)"
write_file "$USER_HOME/retraining-image" 644 <<<"$(retraining_image)"
run chown "$PROVISION_USER:" "$USER_HOME/transformer-image" "$USER_HOME/retraining-image"
