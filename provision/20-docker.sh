#!/usr/bin/env bash
# Installs Docker and the other packages of the distribution that the steps use.
source "$(dirname "$0")/functions.sh"

packages=(docker.io curl ca-certificates jq iproute2 nftables procps haproxy python3 python3-venv)

# Counted, because dpkg-query prints nothing for a package that it does not know.
installed() { [[ $(dpkg-query --show --showformat='${db:Status-Status}\n' "$@" | grep -cx installed) == "$#" ]]; }
if ! already installed "${packages[@]}"; then
  announce "installing ${packages[*]}"
  # After an interrupted apt, the next one fails until this has run.
  run env DEBIAN_FRONTEND=noninteractive dpkg --configure -a || true
  run apt-get update -qq -o DPkg::Lock::Timeout=300
  run_quietly env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"
fi

# kubelet, containerd and pods watch many files: with Ubuntu's limits, pods fail with "too many open files".
# https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
write_file /etc/sysctl.d/90-kind.conf 644 <<'CONF'
fs.inotify.max_user_watches = 524288
fs.inotify.max_user_instances = 512
CONF
run sysctl --quiet --load /etc/sysctl.d/90-kind.conf

already systemctl is-active docker || run systemctl enable --now docker
wait_for 60 "Docker" docker info

# Access to Docker is equivalent to root, so only Vagrant's own user gets it.
if [[ $PROVISION_USER == vagrant ]]; then run usermod --append --groups docker vagrant; fi
