#!/usr/bin/env bash
# Records what was downloaded: the sha256 of every file and the identity of every image in the node. Copied to
# provision/versions.lock, the record has the last word on every later download.
source "$(dirname "$0")/functions.sh"

case $MODE in
  mirror) exit ;;
  dry-run)
    echo "# written to $STATE_DIR/versions.lock: the sha256 of every file above, and the images of the node"
    exit
    ;;
esac
{
  echo "# Files: sha256, name. Images: identity, reference (a comment, for the record)."
  cat "$FILES/SHA256SUMS"
  docker exec "$NODE" crictl images --output=json |
    jq -r '.images[] | .id as $id | ((.repoDigests // []) + (.repoTags // []))[] | "# \($id)  \(.)"' | sort -k3
} >"$WORK/versions.lock"
write_file "$STATE_DIR/versions.lock" 644 <"$WORK/versions.lock"
log "recorded in $STATE_DIR/versions.lock"
