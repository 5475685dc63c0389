# How a step says what happens, and does it.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

# Says something in every mode. In a dry run standard output is the script that would run, so remarks go to standard error.
log() {
  local message="$*"
  [[ ! -t 1 ]] || message=$'\e[1m'$message$'\e[0m'
  if [[ $MODE == dry-run ]]; then printf '%s\n' "$message" >&2; else printf '%s\n' "$message"; fi
}

# Says what is done now, which in the other modes it is not.
doing() { [[ $MODE != run ]] || log "$@"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

quoted() { # arguments as one would type them
  local argument separator=
  for argument in "$@"; do
    [[ $argument =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || argument=${argument@Q}
    printf '%s%s' "$separator" "$argument"
    separator=' '
  done
}

# Does a command, or prints it so that it can be copied.
run() {
  case $MODE in
    run) "$@" ;;
    dry-run) printf '%s\n' "$(quoted "$@")" ;;
  esac
}

# The same for a command that talks also when all is well: what it said is shown only if it fails.
run_quietly() {
  local status=0
  [[ $MODE == run ]] || {
    run "$@"
    return
  }
  "$@" &>"$WORK/said" || status=$?
  ((status == 0)) || without_secrets <"$WORK/said" >&2
  return "$status"
}

# The same as run for a command that needs the network, with two more attempts and half an hour for each.
run_pull() {
  local attempt
  [[ $MODE == run ]] || {
    run "$@"
    return
  }
  for attempt in 1 2 3; do
    # In the foreground, so that Ctrl-C reaches the command.
    if timeout --foreground 1800 "$@"; then return; fi
    ((attempt == 3)) || {
      log "failed, again in $((attempt * 5)) s: $*"
      sleep $((attempt * 5))
    }
  done
  return 1
}

# Is this done already? Only ever true when steps are really run: the other modes show or collect everything.
already() { [[ $MODE == run ]] && "$@" &>/dev/null; }

# Writes standard input to a file, unless it holds the same already: write_file PATH FILE-MODE
write_file() {
  local path=$1 mode=$2 content=$WORK/content
  cat >"$content"
  case $MODE in
    run)
      cmp --silent "$content" "$path" || {
        mkdir -p "$(dirname "$path")"
        install -m "$mode" "$content" "$path"
      }
      ;;
    dry-run) printf "install -D -m %s /dev/stdin '%s' <<'CONTENT'\n%s\nCONTENT\n" "$mode" "$path" "$(without_secrets <"$content")" ;;
  esac
}

# No password on a screen or in a log, not even in a dry run. Python is not there before the docker step.
without_secrets() {
  PASSWORD=${MINIO_ROOT_PASSWORD:-} awk '
    BEGIN { secret = ENVIRON["PASSWORD"] }
    {
      shown = ""
      while (secret != "" && (at = index($0, secret))) {
        shown = shown substr($0, 1, at - 1) "********"
        $0 = substr($0, at + length(secret))
      }
      print shown $0
    }'
}
