# Logging, and running commands.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

# Logs in every mode. In a dry run, standard output is the printed script, so the log goes to standard error.
log() {
  local message="$*"
  [[ ! -t 1 ]] || message=$'\e[1m'$message$'\e[0m'
  if [[ $MODE == dry-run ]]; then printf '%s\n' "$message" >&2; else printf '%s\n' "$message"; fi
}

# Logs the start of an action that only mode "run" performs.
announce() { [[ $MODE != run ]] || log "$@"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

quote() { # prints arguments as they would be typed in a shell
  local argument separator=
  for argument in "$@"; do
    [[ $argument =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || argument=${argument@Q}
    printf '%s%s' "$separator" "$argument"
    separator=' '
  done
}

# Runs a command; in a dry run, prints it so that it can be copied.
run() {
  case $MODE in
    run) "$@" ;;
    dry-run) printf '%s\n' "$(quote "$@")" ;;
  esac
}

# Runs a verbose command, and prints its output only if it fails.
run_quietly() {
  local status=0
  [[ $MODE == run ]] || {
    run "$@"
    return
  }
  "$@" &>"$WORK/output" || status=$?
  ((status == 0 || status == 130)) || mask_secrets <"$WORK/output" >&2
  return "$status"
}

# Runs a command that needs the network: up to three attempts, each with a timeout of half an hour.
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
      log "failed, retrying in $((attempt * 5)) s: $*"
      sleep $((attempt * 5))
    }
  done
  return 1
}

# Runs a Python program that ends at once. It ignores Ctrl-C, which would show a traceback; the step ends after it.
run_python() (
  trap '' INT
  python3 "$@"
)

# True if the command succeeds in mode "run". Always false in the other modes, which print or collect everything.
already() { [[ $MODE == run ]] && "$@" &>/dev/null; }

# Writes standard input to a file, unless the file has the same content: write_file PATH FILE-MODE
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
    dry-run) printf "install -D -m %s /dev/stdin '%s' <<'CONTENT'\n%s\nCONTENT\n" "$mode" "$path" "$(mask_secrets <"$content")" ;;
  esac
}

# Replaces MinIO's password, so that no output ever shows it. In awk, because the docker step installs Python.
mask_secrets() {
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
