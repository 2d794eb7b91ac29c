#!/usr/bin/env bash
# Looks for duplicate predictions, broken row checks and rows that nothing explains. For a daily schedule.
#
#   daily_data_quality_check.sh [--project-id P] [--since 7d] [--format text|json|markdown] [--dry-run]
#
# Exits with 0: clean; 3: something was found, it is printed; anything else: the check could not run.
# PYTHON and ONEROW name other programs than python3 and onerow.
set -euo pipefail

project="${PROJECT_ID:-local}"
since="7d"
format="text"
dry_run=""

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
wrong() { echo "$1 (see --help)" >&2; exit 2; }

while [ "$#" -gt 0 ]; do
  case "$1" in
    --project-id|--since|--format)
      [ "$#" -ge 2 ] || wrong "$1 needs a value"
      case "$1" in
        --project-id) project="$2" ;;
        --since) since="$2" ;;
        --format) format="$2" ;;
      esac
      shift 2 ;;
    --dry-run) dry_run="--dry-run"; shift ;;
    --help|-h) usage; exit 0 ;;
    *) wrong "unknown option $1" ;;
  esac
done

app="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
config="$(PYTHONPATH="$app${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" -m predictions.settings "$project" ${dry_run:+"$dry_run"})"

if [ -n "$dry_run" ]; then
  echo "would run: ${ONEROW:-onerow} --config $config check --since $since --format $format"
  exit 0
fi
exec "${ONEROW:-onerow}" --config "$config" check --since "$since" --format "$format"
