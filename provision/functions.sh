# What every step uses, sourced by all of them. Everything that a step does to the machine goes through one of these
# functions, so that one and the same step file can be
#   run       done (the default),
#   dry-run   printed: every command and every manifest, nothing on the machine is changed,
#   mirror    collected: every file and image that it would need is put into MIRROR_DIR.
# shellcheck shell=bash
set -euo pipefail

PROVISION=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$PROVISION/functions/settings.sh"
source "$PROVISION/functions/doing.sh"
source "$PROVISION/functions/waiting.sh"
source "$PROVISION/functions/downloads.sh"
source "$PROVISION/functions/tools.sh"
source "$PROVISION/functions/images.sh"
source "$PROVISION/functions/manifests.sh"
