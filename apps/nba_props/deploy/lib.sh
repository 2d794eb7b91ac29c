# shellcheck shell=bash
# shellcheck disable=SC2034  # variables are used by those who source this
# What the deploy scripts share. Sourced, after `set -euo pipefail`.
# Options and environment: --project-id P (PROJECT_ID), --region R (REGION), --dry-run.

exec 3>&1  # what a dry run tells, also from within a substitution
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
app="$(dirname "$here")"
root="$(cd "$app/../.." && pwd)"

project="${PROJECT_ID:-}"
region="${REGION:-us-central1}"
dataset="${NBA_PROPS_DATASET:-nba_predictions}"
dry_run=""
rest=()

worker_account="prediction-worker"
coordinator_account="prediction-coordinator"
invoker_account="prediction-invoker"

say() { echo "$*" >&2; }
wrong() { say "$1 (see --help)"; exit 2; }

# The comment at the head of the script that was started.
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

# Take the options that all scripts have; the others are left in `rest`.
parse() {
  while [ "$#" -gt 0 ]; do
    case "$1" in
      --project-id|--region)
        [ "$#" -ge 2 ] || wrong "$1 needs a value"
        if [ "$1" = --region ]; then region="$2"; else project="$2"; fi
        shift 2 ;;
      --dry-run) dry_run=yes; shift ;;
      --help|-h) usage; exit 0 ;;
      *) rest+=("$1"); shift ;;
    esac
  done
  if [ -z "$project" ]; then
    wrong "Name the project of Google Cloud: set PROJECT_ID, or give --project-id"
  fi
  if ! [[ "$project" =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]]; then
    wrong "'$project' is no project of Google Cloud"
  fi
}

# Refuse the leftovers that a script has no use for.
no_more_words() { [ "$#" -eq 0 ] || wrong "unknown option $1"; }

# Say what is missing before anything is begun; a dry run needs nothing.
need() {
  local program
  [ -z "$dry_run" ] || return 0
  for program in "$@"; do
    if ! command -v "$program" >/dev/null; then
      say "$program is not installed, or not on PATH. Nothing was done."
      exit 2
    fi
  done
}

# Run a command that changes something, or say that it would be.
run() {
  local line
  printf -v line '%q ' "$@"
  if [ -n "$dry_run" ]; then
    echo "would run: ${line% }"
  else
    say "+ ${line% }"
    "$@"
  fi
}

# Whether something is there: a question, so that a dry run says what it would ask and takes it for missing.
exists() {
  if [ -n "$dry_run" ]; then
    local line
    printf -v line '%q ' "$@"
    echo "would ask: ${line% }" >&3
    return 1
  fi
  local problem
  if problem="$("$@" 2>&1 >/dev/null)"; then
    return 0
  fi
  if grep -qiE 'not[ _]found|does not exist|cannot find' <<<"$problem"; then
    return 1
  fi
  say "$problem"
  say "Whether it is there could not be seen: $*"
  exit 1
}

# What a question answers; a dry run answers with its second word.
ask() {
  local answer="$1" line
  shift
  if [ -n "$dry_run" ]; then
    printf -v line '%q ' "$@"
    echo "would ask: ${line% }" >&3
    echo "$answer"
  else
    "$@"
  fi
}

account() { echo "$1@$project.iam.gserviceaccount.com"; }

# A service's or job's description, filled in. Refuses one in which something is left open.
rendered() {
  local text name
  text="$(<"$1")"
  local value
  for name in PROJECT_ID REGION DATASET IMAGE; do
    case "$name" in
      PROJECT_ID) value="$project" ;;
      REGION) value="$region" ;;
      DATASET) value="$dataset" ;;
      IMAGE) value="${image:-}" ;;
    esac
    text="${text//"\${$name}"/"$value"}"
  done
  if grep -v '^#' <<<"$text" | grep -qF "\${"; then
    say "$1 names something that nobody fills in."
    exit 1
  fi
  echo "$text"
}
