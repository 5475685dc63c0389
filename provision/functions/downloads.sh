# Downloads, verified by checksums.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

machine_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) fail "this machine is $(uname -m); images exist only for x86_64 (amd64) and aarch64 (arm64)" ;;
  esac
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

recorded_sha256() { # recorded_sha256 LIST NAME: prints a file's checksum from a list in the format of sha256sum
  [[ -f $1 ]] || return 0
  awk -v name="$2" '$2 == name { print $1; exit }' "$1"
}

# Prints the checksum that upstream publishes for a file: alone, in the format of sha256sum, or as the digest in the
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
    fail "cannot download $1. Check the network; set https_proxy if you need a proxy. Without a network, set MIRROR_DIR to a folder created by provision/mirror.sh."
  mv "$2.part" "$2"
}

# Downloads a file to $FILES and verifies it: download NAME URL CHECKSUM
# NAME contains the version. CHECKSUM is sha256:…, or the URL of the checksum that upstream publishes.
# A checksum in provision/versions.lock takes precedence.
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
    fail "$name has sha256 $actual, expected ${expected:-one in $MIRROR_DIR/files/SHA256SUMS}. The file was deleted, and nothing was installed from it."
  fi
  touch "$FILES/SHA256SUMS"
  {
    awk -v name="$name" '$2 != name' "$FILES/SHA256SUMS"
    echo "$actual  $name"
  } | sort -k2 >"$FILES/SHA256SUMS.part"
  mv "$FILES/SHA256SUMS.part" "$FILES/SHA256SUMS"
}
