#!/usr/bin/env bash
# Collects every file, image and Python package that the steps use in a folder, so that provisioning downloads nothing
# but the distribution's packages. Runs the steps themselves in a mode that only collects.
set -euo pipefail

usage() {
  cat <<USAGE
usage: provision/mirror.sh DIRECTORY

Collects everything that provisioning downloads. Run it on a connected machine with the same processor architecture as
the one to be provisioned. It needs access to Docker, curl, jq, Python 3 with pip, and about 15 GB of disk. After an
interruption, run it again: it skips existing downloads.

  DIRECTORY/files/      downloads, with SHA256SUMS
  DIRECTORY/images/     one archive for each image (docker save)
  DIRECTORY/image-map   replacements: those of IMAGE_MAP, and tags for images that manifests name by digest
  DIRECTORY/wheels/     Python packages for scripts/requirements.txt
  DIRECTORY/complete    marks a complete mirror

Use it with: MIRROR_DIR=DIRECTORY vagrant up    or: sudo MIRROR_DIR=DIRECTORY provision/all.sh
With IMAGE_MAP, a file with lines of "reference replacement", the mirror contains the replacements.
USAGE
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  '' | -*)
    usage >&2
    exit 2
    ;;
esac
(($# == 1)) || {
  usage >&2
  exit 2
}

for tool in docker curl jq python3; do
  command -v "$tool" >/dev/null || {
    echo "error: $tool is not installed; a mirror needs it" >&2
    exit 2
  }
done
python3 -c 'import pip' 2>/dev/null || {
  echo "error: pip is not installed; a mirror needs it. On Debian and Ubuntu: apt-get install python3-pip" >&2
  exit 2
}
[[ -z ${IMAGE_MAP:-} || -f $IMAGE_MAP ]] || {
  echo "error: IMAGE_MAP is \"$IMAGE_MAP\", but there is no such file" >&2
  exit 2
}
docker info >/dev/null 2>&1 || {
  echo "error: Docker does not respond, or you have no access to it; see: docker info" >&2
  exit 1
}

provision=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
MIRROR_DIR=$(cd "$1" && pwd)
export MIRROR_DIR MODE=mirror
rm -f "$MIRROR_DIR/complete"
# Provisioning from the mirror needs the same replacements; the steps add those of images with a digest.
cat "${IMAGE_MAP:-/dev/null}" >"$MIRROR_DIR/image-map"

for script in "$provision"/[0-9][0-9]-*.sh; do
  echo "== ${script##*/}"
  "$script"
done

date --utc --iso-8601=seconds >"$MIRROR_DIR/complete"
echo "complete: $(find "$MIRROR_DIR/files" -type f | wc -l) files, $(find "$MIRROR_DIR/images" -name '*.tar' | wc -l) images, $(du -sh "$MIRROR_DIR" | cut -f1) in $MIRROR_DIR"
