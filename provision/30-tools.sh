#!/usr/bin/env bash
# Installs kind, kubectl and Helm in their pinned versions, verified by the checksums that upstream publishes.
source "$(dirname "$0")/functions.sh"

install_tool kind
install_tool kubectl
install_tool helm
