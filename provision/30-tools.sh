#!/usr/bin/env bash
# kind, kubectl and Helm, in the pinned versions, verified against the checksums that upstream publishes.
source "$(dirname "$0")/functions.sh"

tool kind
tool kubectl
tool helm
