#!/usr/bin/env bash
# Checks whether the platform can run on this machine, and reports all problems at once, before anything is changed.
source "$(dirname "$0")/functions.sh"

problems=()
problem() { problems+=("$*"); }

check_system() {
  local id version
  [[ $EUID == 0 ]] || problem "this must run as root: sudo $PROVISION/all.sh"
  read -r id version < <(. /etc/os-release && echo "$ID $VERSION_ID")
  [[ "$id $version" == "ubuntu 24.04" || "$id $version" == "debian 12" ]] ||
    problem "this is $id $version; the scripts support Ubuntu 24.04 and Debian 12"
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) problem "the processor is $(uname -m); images exist only for x86_64 and aarch64" ;;
  esac
}

check_size() {
  local memory cpus disk docker_root=/var/lib
  memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
  cpus=$(nproc)
  disk=$(df --output=avail --block-size=1G "$docker_root" | tail -n 1 | tr -d ' ')
  ((memory >= MIN_MEMORY_MB)) || problem "$memory MB of memory; at least $MIN_MEMORY_MB MB are needed (under Vagrant: VM_MEMORY_MB=$VM_MEMORY_MB vagrant reload)"
  ((cpus >= MIN_CPUS)) || problem "$cpus CPUs; at least $MIN_CPUS are needed (under Vagrant: VM_CPUS=$VM_CPUS vagrant reload)"
  # An existing cluster already has its images on the disk.
  [[ -e $KUBECONFIG ]] || ((disk >= MIN_DISK_GB)) || problem "$disk GB free in $docker_root; at least $MIN_DISK_GB GB are needed"
}

check_ports() {
  local port
  # The docker step installs ss where it is missing.
  command -v ss >/dev/null || return 0
  # After an earlier run, finished or not, the platform itself uses them.
  [[ ! -e $KUBECONFIG && ! -e $STATE_DIR/haproxy.sha256 ]] || return 0
  for port in "$PORT_MINIO" "$PORT_CONSOLE" "$PORT_KSERVE" "$PORT_PROMETHEUS"; do
    [[ -z $(ss --listening --tcp --numeric --no-header "sport = :$port") ]] ||
      problem "port $port is in use; find the process with: ss -ltnp 'sport = :$port' (or choose other ports with PORT_MINIO, PORT_CONSOLE, PORT_KSERVE, PORT_PROMETHEUS)"
  done
}

check_sources() {
  local url
  if [[ -n $MIRROR_DIR ]]; then
    [[ -f $MIRROR_DIR/complete ]] || problem "MIRROR_DIR=$MIRROR_DIR is not a complete mirror; create one with provision/mirror.sh"
    return
  fi
  # After a complete run everything is on the machine.
  [[ ! -e $STATE_DIR/versions.lock ]] || return 0
  for url in https://github.com https://dl.k8s.io https://registry-1.docker.io/v2/ https://quay.io/v2/; do
    # Without curl this check is left out: the docker step installs it.
    command -v curl >/dev/null || return 0
    curl --silent --output /dev/null --connect-timeout 10 --max-time 20 "$url" ||
      problem "no network: $url does not respond. Set https_proxy if you need a proxy, or MIRROR_DIR to a folder created by provision/mirror.sh"
  done
}

case $MODE in
  mirror) exit ;;
  dry-run)
    echo "# checks for: root, Ubuntu 24.04 or Debian 12, x86_64 or aarch64, $MIN_MEMORY_MB MB of memory, $MIN_CPUS CPUs, $MIN_DISK_GB GB of free disk,"
    echo "# free ports $PORT_MINIO, $PORT_CONSOLE, $PORT_KSERVE and $PORT_PROMETHEUS, and a network or a complete mirror in MIRROR_DIR"
    exit
    ;;
esac
check_system
check_size
check_ports
check_sources
if ((${#problems[@]} > 0)); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 1
fi
log "this machine is suitable: $(nproc) CPUs, $(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo) MB of memory"
