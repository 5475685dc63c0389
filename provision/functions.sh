# Functions that every step uses. A step changes the machine only through them, and MODE decides what they do:
#   run       perform the step (the default)
#   dry-run   print every command and manifest, and change nothing on the machine
#   mirror    collect every file and image that the step needs in MIRROR_DIR
# shellcheck shell=bash
set -euo pipefail

# Ctrl-C ends a step between two commands, also after programs that ignore it.
trap 'exit 130' INT

PROVISION=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$PROVISION/functions/settings.sh"
source "$PROVISION/functions/commands.sh"
source "$PROVISION/functions/waiting.sh"
source "$PROVISION/functions/node.sh"
source "$PROVISION/functions/downloads.sh"
source "$PROVISION/functions/tools.sh"
source "$PROVISION/functions/images.sh"
source "$PROVISION/functions/manifests.sh"
