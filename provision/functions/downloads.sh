# Downloads, each verified by its checksum.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

machine_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) fail "this machine is $(uname -m); the images exist for x86_64 (amd64) and aarch64 (arm64) only" ;;
  esac
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

recorded_sha256() { # recorded_sha256 LIST NAME: what a list in the format of sha256sum says of a file
  [[ -f $1 ]] || return 0
  awk -v name="$2" '$2 == name { print $1; exit }' "$1"
}

# The checksum that upstream publishes beside a file: either alone, or in the format of sha256sum, or the digest in the
# index.yaml of a Helm repository.
published_sha256() { # published_sha256 URL NAME-AT-UPSTREAM
  local list=$WORK/published
  fetch "$1" "$list"
  if [[ $1 == */index.yaml ]]; then
    awk -v name="$2" '$1 == "digest:" { digest = $2 } $1 == "-" && $2 ~ ("(^|/)" name "$") { print digest; exit }' "$list"
  else
    awk '{ print $1; exit }' "$list"
  fi
}

fetch() { # fetch URL FILE
  curl --fail --location --silent --show-error --retry 4 --retry-all-errors --connect-timeout 15 --max-time 1200 \
    --output "$2.part" "$1" ||
    fail "cannot download $1. Is the network up, and a proxy set in https_proxy if one is needed? Without a network, set MIRROR_DIR to a folder made by provision/mirror.sh."
  mv "$2.part" "$2"
}

# Puts a file into $FILES, verified: download NAME URL CHECKSUM
# NAME carries the version. CHECKSUM is sha256:… where it was read from upstream, else the URL of a published one.
# provision/versions.lock, where it exists, has the last word.
download() {
  local name=$1 url=$2 checksum=$3 file=$FILES/$1 expected actual
  mkdir -p "$FILES"
  expected=$(recorded_sha256 "$PROVISION/versions.lock" "$name")
  [[ -n $expected || $checksum != sha256:* ]] || expected=${checksum#sha256:}
  [[ -n $expected || -z $MIRROR_DIR ]] || expected=$(recorded_sha256 "$MIRROR_DIR/files/SHA256SUMS" "$name")
  [[ -n $expected ]] || expected=$(recorded_sha256 "$FILES/SHA256SUMS" "$name")

  if [[ $MODE == dry-run ]]; then
    echo "curl --fail --location --output ${file@Q} ${url@Q}   # verified: ${expected:-$checksum}"
  fi
  if [[ -f $file && -n $expected && $(sha256_of "$file") == "$expected" ]]; then return; fi

  if [[ -n $MIRROR_DIR && $MODE != mirror && -f $MIRROR_DIR/files/$name ]]; then
    cp "$MIRROR_DIR/files/$name" "$file.part" && mv "$file.part" "$file"
  else
    log "downloading $url"
    [[ -n $expected ]] || expected=$(published_sha256 "$checksum" "${url##*/}")
    [[ $expected =~ ^[0-9a-f]{64}$ ]] || fail "no checksum for ${url##*/} in $checksum"
    fetch "$url" "$file"
  fi

  actual=$(sha256_of "$file")
  if [[ $actual != "$expected" ]]; then
    rm -f "$file"
    fail "$name has sha256 $actual, expected ${expected:-one in $MIRROR_DIR/files/SHA256SUMS}. It was deleted; nothing was installed from it."
  fi
  touch "$FILES/SHA256SUMS"
  {
    awk -v name="$name" '$2 != name' "$FILES/SHA256SUMS"
    echo "$actual  $name"
  } | sort -k2 >"$FILES/SHA256SUMS.part"
  mv "$FILES/SHA256SUMS.part" "$FILES/SHA256SUMS"
}
