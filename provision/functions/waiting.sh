# Waiting with a timeout, and the diagnosis when it expires.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

# Repeats a command until it succeeds: wait_for TIMEOUT-SECONDS WHAT COMMAND…
wait_for() {
  local seconds=$1 what=$2 deadline
  shift 2
  case $MODE in
    mirror) return ;;
    dry-run)
      echo "# waits up to $seconds s for ${what}:"
      echo "until $(quote "$@"); do sleep 2; done"
      return
      ;;
  esac
  if "$@" &>/dev/null; then return; fi
  log "waiting up to $seconds s for $what"
  deadline=$((SECONDS + seconds))
  until "$@" &>"$WORK/waiting"; do
    if ((SECONDS >= deadline)); then
      printf 'error: timeout after %s s waiting for %s. Last output:\n' "$seconds" "$what" >&2
      tail -n 5 "$WORK/waiting" | mask_secrets >&2
      print_unready
      fail "$what: not ready after $seconds s. It is safe to run this step again; it continues from here."
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

# Prints the nodes and pods that are not ready, with the reason and their last log lines.
print_unready() {
  local namespace pod reason
  kubectl get pods --all-namespaces --output=json --request-timeout=10s 2>/dev/null >"$WORK/pods.json" || {
    echo "the cluster does not respond" >&2
    return 0
  }
  kubectl get nodes --output=json --request-timeout=10s 2>/dev/null |
    jq -r '.items[] | .metadata.name as $name | .status.conditions[] | select(.type == "Ready" and .status != "True")
      | "\nnode \($name) is not ready: \(.message)"' >&2 || true
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
      kubectl logs --namespace "$namespace" "$pod" --all-containers --prefix --tail=5 --request-timeout=10s 2>&1 </dev/null | mask_secrets | sed 's/^/    /' >&2 || true
    done
}
