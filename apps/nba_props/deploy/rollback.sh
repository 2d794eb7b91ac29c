#!/usr/bin/env bash
# Gives all traffic of a service back to an earlier revision. Data and locks are not touched: what is staged stays
# staged, and any revision goes on with it.
#
#   rollback.sh worker|coordinator [--to REVISION] [--project-id P] [--region R] [--dry-run]
#
#   --to R   default: the newest ready revision before the one that serves
#
# The next deployment takes the traffic again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
kind="${1:-}"
case "$kind" in
  worker|coordinator) shift ;;
  *) wrong "name the service: worker or coordinator" ;;
esac
to=""
if [ "${1:-}" = --to ]; then
  [ "$#" -ge 2 ] || wrong "--to needs a value"
  to="$2"
  shift 2
fi
no_more_words "$@"
need gcloud
service="prediction-$kind"

serving="$(ask SERVING gcloud run services describe "$service" --project "$project" --region "$region" \
  --format 'value(status.traffic[0].revisionName)')"
if [ -z "$to" ]; then
  ready="$(ask PREVIOUS gcloud run revisions list --service "$service" --project "$project" --region "$region" \
    --filter 'status.conditions.type:Ready AND status.conditions.status:True' \
    --sort-by '~metadata.creationTimestamp' --format 'value(metadata.name)')"
  if [ -n "$dry_run" ]; then
    to="$ready"
  else
    to="$(awk -v serving="$serving" 'seen && !found { print; found = 1 } $0 == serving { seen = 1 }' <<<"$ready")"
  fi
fi
if [ -z "$to" ]; then
  say "There is no ready revision of $service before ${serving:-the one that serves}. Nothing was done."
  exit 1
fi
if [ "$to" = "$serving" ]; then
  say "$to serves already. Nothing was done."
  exit 0
fi
run gcloud run services update-traffic "$service" --project "$project" --region "$region" --to-revisions "$to=100"
[ -n "$dry_run" ] || echo "$service: $to serves, no longer ${serving:-nothing}."
