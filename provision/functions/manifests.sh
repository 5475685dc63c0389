# Manifests: rendered, given their images, applied.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

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
# applies the resource types in it, and what may be of these types once the cluster knows them.
apply() {
  local manifest=$WORK/manifest.yaml reference types
  python3 "$PROVISION/manifests.py" map "${image_maps[@]}" >"$manifest"
  while read -r reference; do image "$reference" </dev/null; done < <(python3 "$PROVISION/manifests.py" images <"$manifest")
  [[ $MODE != mirror ]] || return 0
  python3 "$PROVISION/manifests.py" types <"$manifest" >"$WORK/types.yaml"
  python3 "$PROVISION/manifests.py" objects <"$manifest" >"$WORK/objects.yaml"
  if [[ -s $WORK/types.yaml ]]; then
    apply_file "$WORK/types.yaml"
    mapfile -t types < <(sed -n 's|^  name: |crd/|p' "$WORK/types.yaml")
    # kubectl looks at six types a second.
    wait_for 60 "the cluster to know the new resource types" kubectl wait --for=condition=Established --timeout=30s "${types[@]}"
  fi
  [[ ! -s $WORK/objects.yaml ]] || apply_file "$WORK/objects.yaml"
}

# Server-side, because KServe's types are too large for the annotation of a plain apply. Webhooks of what was just
# installed may not answer yet, so those errors are retried.
apply_file() {
  local attempt errors=$WORK/apply-errors
  if [[ $MODE == dry-run ]]; then
    echo "kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f - <<'MANIFEST'"
    without_secrets <"$1"
    echo MANIFEST
    return
  fi
  for ((attempt = 1; ; attempt++)); do
    if kubectl apply --server-side --force-conflicts --field-manager=mlops-poc -f "$1" >"$WORK/applied" 2>"$errors"; then break; fi
    if ((attempt == 30)) || ! grep --quiet --extended-regexp 'webhook|no matches for kind|connection refused|timeout|timed out|etcdserver|not found' "$errors"; then
      without_secrets <"$errors" >&2
      show_unready
      fail "kubectl apply failed (attempt $attempt of 30)"
    fi
    ((attempt > 1)) || log "waiting at most 150 s for the cluster to accept the manifest: $(tail -n 1 "$errors" | cut -c1-200)"
    sleep 5
  done
  log "applied $(wc -l <"$WORK/applied") objects"
}
