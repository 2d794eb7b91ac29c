#!/usr/bin/env bash
# Turns the consolidation lock of the coordinator off, or on again, without a new build.
#
#   lock_switch.sh off|on|show [--project-id P] [--region R] [--dry-run]
#
# Off is for emergencies: nothing is duplicated, but consolidations at once do the same work. Each consolidation says so
# with a CRITICAL line. The next deployment turns it on again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
switch="${1:-}"
case "$switch" in
  off) value=false ;;
  on) value=true ;;
  show) value="" ;;
  *) wrong "say off, on or show" ;;
esac
shift
no_more_words "$@"
need gcloud
service=prediction-coordinator
if [ -n "$value" ]; then
  run gcloud run services update "$service" --project "$project" --region "$region" \
    --update-env-vars "CONSOLIDATION_LOCK_ENABLED=$value"
  [ -z "$dry_run" ] || exit 0
fi
now="$(ask true gcloud run services describe "$service" --project "$project" --region "$region" \
  --flatten 'spec.template.spec.containers[0].env' \
  --filter 'spec.template.spec.containers[0].env.name:CONSOLIDATION_LOCK_ENABLED' \
  --format 'value(spec.template.spec.containers[0].env.value)')"
[ -z "$dry_run" ] || exit 0
case "$now" in
  true|"") echo "The consolidation lock is on." ;;
  *) echo "THE CONSOLIDATION LOCK IS OFF. Turn it on again: $0 on --project-id $project --region $region" ;;
esac
