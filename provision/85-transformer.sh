#!/usr/bin/env bash
# Builds the transformer's image from transformer.Dockerfile and loads it into the node, so that no registry is needed.
source "$(dirname "$0")/functions.sh"

base=$(mapped_image "$PYTHON_IMAGE")
build() {
  provide_image "$PYTHON_IMAGE" docker
  run docker build --quiet --build-arg "BASE_IMAGE=$base" --tag "$TRANSFORMER_IMAGE" --file "$REPOSITORY/transformer.Dockerfile" "$REPOSITORY"
}

if [[ $MODE == mirror ]]; then
  pull_into_docker "$base"
  docker build --quiet --build-arg "BASE_IMAGE=$base" --tag "$TRANSFORMER_IMAGE" --file "$REPOSITORY/transformer.Dockerfile" "$REPOSITORY"
  mirror_image "$TRANSFORMER_IMAGE"
  exit
fi

archive=$MIRROR_DIR/$(archive_name "$TRANSFORMER_IMAGE")
if [[ -n $MIRROR_DIR && -f $archive ]]; then
  provide_image "$TRANSFORMER_IMAGE"
else
  announce "building $TRANSFORMER_IMAGE"
  build
  run kind load docker-image --name "$CLUSTER_NAME" "$TRANSFORMER_IMAGE"
fi
