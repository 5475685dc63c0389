# Installing kind, kubectl and Helm in their pinned versions.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

tool_version() {
  [[ -x $BIN_DIR/$1 ]] || return 0
  case $1 in
    kind) "$BIN_DIR/kind" version --quiet | sed 's/^v\?/v/' ;;
    kubectl) "$BIN_DIR/kubectl" version --client | sed -n 's/^Client Version: //p' ;;
    helm) "$BIN_DIR/helm" version --template '{{.Version}}' ;;
  esac
}

# Installs kind, kubectl or helm. A dry run and a mirror need them to render manifests, and install them in the cache.
install_tool() {
  local name=$1 version architecture file source
  version=$(pinned_version "$name")
  architecture=$(machine_architecture)
  file=$name-$version-linux-$architecture
  source=$FILES/$file
  ! already test "$(tool_version "$name")" == "$version" || return 0
  case $name in
    kind)
      download "$file" "https://github.com/kubernetes-sigs/kind/releases/download/$version/kind-linux-$architecture" \
        "https://github.com/kubernetes-sigs/kind/releases/download/$version/kind-linux-$architecture.sha256sum"
      ;;
    kubectl)
      download "$file" "https://dl.k8s.io/release/$version/bin/linux/$architecture/kubectl" \
        "https://dl.k8s.io/release/$version/bin/linux/$architecture/kubectl.sha256"
      ;;
    helm)
      download "$file.tar.gz" "https://get.helm.sh/$file.tar.gz" "https://get.helm.sh/$file.tar.gz.sha256sum"
      source=$CACHE_DIR/linux-$architecture/helm
      run tar --directory "$CACHE_DIR" -xzf "$FILES/$file.tar.gz" "linux-$architecture/helm"
      [[ $MODE == run ]] || tar --directory "$CACHE_DIR" -xzf "$FILES/$file.tar.gz" "linux-$architecture/helm"
      ;;
  esac
  run install -D -m 755 "$source" "$INSTALL_DIR/$name"
  [[ $MODE == run ]] || install -D -m 755 "$source" "$BIN_DIR/$name"
}

pinned_version() {
  local variable=${1^^}_VERSION
  echo "${!variable}"
}

# In a dry run and for a mirror, the tools step does not install anything on the machine.
require_tool() { [[ $MODE == run || $(tool_version "$1") == "$(pinned_version "$1")" ]] || install_tool "$1" >/dev/null; }
