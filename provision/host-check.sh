#!/usr/bin/env bash
# Run by Vagrant before the VM is made: can this computer carry it?
# usage: host-check.sh MEMORY_MB CPUS DISK_GB LEAST_MEMORY_MB LEAST_CPUS PORT…
set -euo pipefail

memory_needed=$1 cpus_needed=$2 disk_needed=$3 least_memory=$4 least_cpus=$5
shift 5
problems=()

case $(uname -s) in
  Linux)
    memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' "${MEMINFO:-/proc/meminfo}")
    cpus=$(nproc)
    if [[ $(uname -m) == x86_64 ]] && ! grep --quiet --extended-regexp '\b(vmx|svm)\b' "${CPUINFO:-/proc/cpuinfo}"; then
      problems+=("hardware virtualisation is off or missing: switch on VT-x or AMD-V in the firmware (inside a VM: nested virtualisation)")
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

# This computer needs some memory for itself, and so does the kernel of the VM.
own_memory=1024 kernel_memory=320
((memory >= memory_needed + own_memory)) ||
  problems+=("the VM takes $memory_needed MB of memory and this computer has $memory MB, of which it needs $own_memory itself (the smallest VM: VM_MEMORY_MB=$((least_memory + kernel_memory)) vagrant up)")
((cpus >= cpus_needed)) || problems+=("the VM takes $cpus_needed CPUs and this computer has $cpus (the smallest VM: VM_CPUS=$least_cpus vagrant up)")
((disk >= disk_needed)) || problems+=("$disk GB of disk are free here and the VM grows to about $disk_needed GB")
for port in "$@"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    problems+=("port $port of this computer is taken (choose others: HOST_PORT_MINIO, HOST_PORT_CONSOLE, HOST_PORT_KSERVE, HOST_PORT_PROMETHEUS)")
  fi
done

if ((${#problems[@]} > 0)); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 1
fi
