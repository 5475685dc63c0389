#!/usr/bin/env bash
# Builds the transformer's image from transformer.Dockerfile and loads it into the node, so that no registry is needed.
source "$(dirname "$0")/functions.sh"

image=$(transformer_image)
base=$(mapped_image "$PYTHON_IMAGE")
build=(docker build --quiet --build-arg "BASE_IMAGE=$base" --tag "$image" --file "$REPOSITORY/transformer.Dockerfile" "$REPOSITORY")

if [[ $MODE == mirror ]]; then
  # Images of earlier versions of the project.
  find "$MIRROR_DIR" -path "$MIRROR_DIR/$(archive_name "$TRANSFORMER_REPOSITORY:*")" -not -path "$MIRROR_DIR/$(archive_name "$image")" -delete
  pull_into_docker "$base"
  "${build[@]}"
  mirror_image "$image"
  exit
fi

if [[ -n $MIRROR_DIR && -f $MIRROR_DIR/$(archive_name "$image") ]]; then
  provide_image "$image"
elif ! already docker exec "$NODE" crictl inspecti --quiet "$image"; then
  [[ -z $MIRROR_DIR ]] || log "the mirror has no image of this version of the project, which needs a network; update it with provision/mirror.sh"
  announce "building $image"
  provide_image "$PYTHON_IMAGE" docker
  run "${build[@]}"
  run kind load docker-image --name "$CLUSTER_NAME" "$image"
fi
write_file "$USER_HOME/transformer-image" 644 <<<"$image"
run chown "$PROVISION_USER:" "$USER_HOME/transformer-image"
