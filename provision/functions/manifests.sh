# Rendering and applying manifests.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

# Renders a Helm chart to standard output: render_chart RELEASE NAMESPACE ARCHIVE [HELM-ARGUMENT…]
render_chart() {
  require_tool helm
  helm template "$1" "$FILES/$3" --namespace "$2" --include-crds --kube-version "${KUBECTL_VERSION}" "${@:4}"
}

# Renders a folder of provision/ to standard output, with downloads as its resources:
# render_kustomization FOLDER NAME=FILE…
render_kustomization() {
  local folder=$WORK/$1 file
  require_tool kubectl
  cp -r "$PROVISION/$1" "$folder"
  for file in "${@:2}"; do cp "$FILES/${file#*=}" "$folder/${file%%=*}"; done
  kubectl kustomize "$folder"
}

# Applies the manifest on standard input: replaces images by the image map, loads them into the node, and applies the
# CustomResourceDefinitions before the objects, which may be instances of them.
apply() {
  local reference types
  run_python "$PROVISION/manifests.py" split "$WORK" "${image_maps[@]}"
  while read -r reference; do provide_image "$reference" </dev/null; done <"$WORK/images"
  [[ $MODE != mirror ]] || return 0
  if [[ -s $WORK/types.yaml ]]; then
    apply_file "$WORK/types.yaml"
    mapfile -t types < <(sed -n 's|^  name: |crd/|p' "$WORK/types.yaml")
    # kubectl checks six types per second.
    wait_for 60 "the new resource types to be established" kubectl wait --for=condition=Established --timeout=30s "${types[@]}"
  fi
  [[ ! -s $WORK/objects.yaml ]] || apply_file "$WORK/objects.yaml"
}

# Server-side, because KServe's resource types are too large for the annotation of a client-side apply. Newly installed
# webhooks may not be ready yet, so their errors are retried.
apply_file() {
  local attempt errors=$WORK/apply-errors
  if [[ $MODE == dry-run ]]; then
    echo "kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f - <<'MANIFEST'"
    mask_secrets <"$1"
    echo MANIFEST
    return
  fi
  for ((attempt = 1; ; attempt++)); do
    if kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f "$1" >"$WORK/applied" 2>"$errors"; then break; fi
    if ((attempt == 30)) || ! grep --quiet --extended-regexp 'webhook|no matches for kind|connection refused|timeout|timed out|etcdserver|not found' "$errors"; then
      mask_secrets <"$errors" >&2
      print_unready
      fail "kubectl apply failed (attempt $attempt of 30)"
    fi
    ((attempt > 1)) || log "waiting up to 150 s for the cluster to accept the manifest: $(tail -n 1 "$errors" | cut -c1-200)"
    sleep 5
  done
  log "applied $(wc -l <"$WORK/applied") objects"
}
