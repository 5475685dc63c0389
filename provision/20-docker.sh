#!/usr/bin/env bash
# Docker, and the other packages of the distribution that the steps use.
source "$(dirname "$0")/functions.sh"

packages=(docker.io curl ca-certificates jq iproute2 procps haproxy python3 python3-venv)

# Counted, because dpkg-query prints nothing at all for a package that it has never heard of.
installed() { [[ $(dpkg-query --show --showformat='${db:Status-Status}\n' "$@" | grep -cx installed) == "$#" ]]; }
if ! already installed "${packages[@]}"; then
  doing "installing ${packages[*]}"
  # After an apt that was interrupted, the next one refuses to work before this.
  run env DEBIAN_FRONTEND=noninteractive dpkg --configure -a || true
  run apt-get update -qq -o DPkg::Lock::Timeout=300
  run_quietly env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"
fi

# kubelet, containerd and the pods of a node all watch files: with Ubuntu's defaults pods fail with "too many open files".
# https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
write_file /etc/sysctl.d/90-kind.conf 644 <<'CONF'
fs.inotify.max_user_watches = 524288
fs.inotify.max_user_instances = 512
CONF
run sysctl --quiet --load /etc/sysctl.d/90-kind.conf

already systemctl is-active docker || run systemctl enable --now docker
wait_for 60 "Docker" docker info

# As in any Docker installation, whoever may talk to the engine is as good as root: only Vagrant's own user is let in.
if [[ $PROVISION_USER == vagrant ]]; then run usermod --append --groups docker vagrant; fi
