#!/usr/bin/env bash
# Looks whether the services are well, and whether the criteria of success or of rollback are met.
#
#   verify.sh [worker|coordinator ...] [--project-id P] [--region R] [--since TIME] [--fresh] [--format table|json]
#             [--dry-run]
#
#   --since T   what happened from then on; default: since the coordinator's newest revision was made
#   --fresh     only whether the services are well: nothing has been consolidated since the deployment
#
# Exits with 0: healthy; 3: roll back; 4: wait and look again, a criterion of success is not met; anything else: it could
# not be judged, which is never a pass.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
kinds=() since="" fresh="" format=table
while [ "$#" -gt 0 ]; do
  case "$1" in
    worker|coordinator) kinds+=("$1"); shift ;;
    --since|--format)
      [ "$#" -ge 2 ] || wrong "$1 needs a value"
      if [ "$1" = --since ]; then since="$2"; else format="$2"; fi
      shift 2 ;;
    --fresh) fresh=yes; shift ;;
    *) wrong "unknown option $1" ;;
  esac
done
[ "${#kinds[@]}" -gt 0 ] || kinds=(worker coordinator)
need gcloud curl "${PYTHON:-python3}"

described() {
  ask "DESCRIBED" gcloud run services describe "$1" --project "$project" --region "$region" --format "value($2)"
}

sick=0
for kind in "${kinds[@]}"; do
  service="prediction-$kind"
  newest="$(described "$service" status.latestCreatedRevisionName)"
  ready="$(described "$service" status.latestReadyRevisionName)"
  url="$(described "$service" status.url)"
  if [ "$newest" != "$ready" ]; then
    echo "$service: the newest revision $newest is not ready; ${ready:-nothing} serves."
    sick=1
  fi
  [ -n "$dry_run" ] || token="$(gcloud auth print-identity-token)"
  for path in /health /health/deep; do
    if [ -n "$dry_run" ]; then
      echo "would look: the URL of $service, $path"
    elif curl --silent --show-error --fail-with-body --max-time 20 \
      --header @<(echo "Authorization: Bearer $token") "$url$path" >&2; then
      say ""
      echo "$service: $path is good."
    else
      say ""
      echo "$service: $path is NOT good."
      sick=1
    fi
  done
done
if [ "$sick" -ne 0 ]; then
  exit 1
fi
[ -z "$fresh" ] || exit 0

if [ -z "$since" ]; then
  revision="$(described prediction-coordinator status.latestReadyRevisionName)"
  since="$(ask 2026-01-01T00:00:00Z gcloud run revisions describe "$revision" --project "$project" \
    --region "$region" --format 'value(metadata.creationTimestamp)')"
fi
errors="resource.type=cloud_run_revision AND timestamp>=\"$since\" \
AND resource.labels.service_name=(prediction-worker OR prediction-coordinator) \
AND (severity>=ERROR OR jsonPayload.level=(error OR critical))"
lines="$(ask "" gcloud logging read "$errors" --project "$project" --limit 1000 \
  --format 'value(textPayload,jsonPayload.event,jsonPayload.error)')"
PYTHONPATH="$app${PYTHONPATH:+:$PYTHONPATH}" run "${PYTHON:-python3}" -m deploy.verify_deployment \
  --project-id "$project" --deployed-at "$since" --format "$format" --log-lines - <<<"$lines"
