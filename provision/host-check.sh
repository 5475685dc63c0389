#!/usr/bin/env bash
# Checks whether this computer can run the VM; Vagrant runs it before creating one.
# usage: host-check.sh MEMORY_MB CPUS DISK_GB MIN_MEMORY_MB MIN_CPUS PORT…
set -euo pipefail

memory_needed=$1 cpus_needed=$2 disk_needed=$3 min_memory=$4 min_cpus=$5
shift 5
problems=()

case $(uname -s) in
  Linux)
    memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' "${MEMINFO:-/proc/meminfo}")
    cpus=$(nproc)
    if [[ $(uname -m) == x86_64 ]] && ! grep --quiet --extended-regexp '\b(vmx|svm)\b' "${CPUINFO:-/proc/cpuinfo}"; then
      problems+=("hardware virtualisation is off or missing: enable VT-x or AMD-V in the firmware (inside a VM: nested virtualisation)")
    fi
    ;;
  Darwin)
    memory=$(($(sysctl -n hw.memsize) / 1024 / 1024))
    cpus=$(sysctl -n hw.ncpu)
    [[ $(sysctl -n kern.hv_support) == 1 ]] || problems+=("this Mac has no hardware virtualisation")
    ;;
  *) exit 0 ;;
esac
disk=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')

# Memory that the operating system of this computer and the kernel of the VM need for themselves.
own_memory=1024 kernel_memory=320
((memory >= memory_needed + own_memory)) ||
  problems+=("the VM needs $memory_needed MB of memory and this computer has $memory MB, of which it needs $own_memory MB itself (smallest VM: VM_MEMORY_MB=$((min_memory + kernel_memory)) vagrant up)")
((cpus >= cpus_needed)) || problems+=("the VM needs $cpus_needed CPUs and this computer has $cpus (smallest VM: VM_CPUS=$min_cpus vagrant up)")
((disk >= disk_needed)) || problems+=("$disk GB of disk are free here, and the VM needs about $disk_needed GB")
for port in "$@"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    problems+=("port $port of this computer is in use (choose others with HOST_PORT_MINIO, HOST_PORT_CONSOLE, HOST_PORT_KSERVE, HOST_PORT_PROMETHEUS)")
  fi
done

if ((${#problems[@]} > 0)); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 1
fi
