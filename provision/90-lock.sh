#!/usr/bin/env bash
# Records the sha256 of every downloaded file and the ID of every image in the node. A copy of the record in
# provision/versions.lock takes precedence over all other checksums in later downloads.
source "$(dirname "$0")/functions.sh"

case $MODE in
  mirror) exit ;;
  dry-run)
    echo "# written to $STATE_DIR/versions.lock: the sha256 of every file above, and the images of the node"
    exit
    ;;
esac
{
  echo "# Files: sha256, name. Images: ID, reference (as comments, for information only)."
  cat "$FILES/SHA256SUMS"
  docker exec "$NODE" crictl images --output=json |
    jq -r '.images[] | .id as $id | ((.repoDigests // []) + (.repoTags // []))[] | "# \($id)  \(.)"' | sort -k3
} >"$WORK/versions.lock"
write_file "$STATE_DIR/versions.lock" 644 <"$WORK/versions.lock"
log "recorded in $STATE_DIR/versions.lock"
