#!/usr/bin/env bash
# Looks whether the service accounts have the roles that they need, and none that is far too wide.
#
#   check_roles.sh [worker|coordinator|invoker ...] [--project-id P] [--dry-run]
#
# Exits with 0: they have; 3: a role is missing or too wide, with the command that mends it; else it could not be seen.
# Rights on datasets are looked at in BigQuery: dataEditor of `onerow` for both, of the platform's for the coordinator.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
[ "$#" -gt 0 ] || set -- worker coordinator invoker
need gcloud bq python3
findings=0

found() { echo "$1"; findings=$((findings + 1)); }

roles_of() {
  ask "" gcloud projects get-iam-policy "$project" --flatten 'bindings[].members' \
    --filter "bindings.members:serviceAccount:$1" --format 'value(bindings.role)'
}

check_project() {
  local mail role roles
  mail="$(account "$1")"
  shift
  roles="$(roles_of "$mail")"
  [ -z "$dry_run" ] || return 0
  for role in "$@"; do
    if ! grep -qxF "$role" <<<"$roles"; then
      found "$mail lacks $role. Mend: gcloud projects add-iam-policy-binding $project \
--member serviceAccount:$mail --role $role --condition None"
    fi
  done
  while read -r role; do
    case "$role" in
      roles/owner|roles/editor|roles/bigquery.admin|roles/datastore.owner|roles/run.admin)
        found "$mail has $role, which is far more than it needs. Mend: gcloud projects remove-iam-policy-binding \
$project --member serviceAccount:$mail --role $role --condition None" ;;
    esac
  done <<<"$roles"
}

check_dataset() {
  local mail access may
  mail="$(account "$1")"
  access="$(ask '{}' bq --project_id "$project" --format json show "$project:$2")"
  [ -z "$dry_run" ] || return 0
  may="$(python3 -c '
import json, sys
granted = json.load(sys.stdin)["access"]
edits = {"WRITER", "OWNER", "roles/bigquery.dataEditor", "roles/bigquery.dataOwner"}
print(any(one.get("userByEmail") == sys.argv[1] and one.get("role") in edits for one in granted))
' "$mail" <<<"$access")"
  if [ "$may" != True ]; then
    found "$mail may not write to the dataset $2. Mend: bq --project_id $project query --use_legacy_sql=false \
'grant \`roles/bigquery.dataEditor\` on schema \`$project.$2\` to \"serviceAccount:$mail\"'"
  fi
}

check_caller() {
  local service members
  for service in prediction-worker prediction-coordinator; do
    if ! exists gcloud run services describe "$service" --project "$project" --region "$region"; then
      continue  # not deployed yet: wire.sh grants it later
    fi
    members="$(gcloud run services get-iam-policy "$service" --project "$project" --region "$region" \
      --flatten 'bindings[].members' --filter 'bindings.role:roles/run.invoker' --format 'value(bindings.members)')"
    if grep -qE '^all(Authenticated)?Users$' <<<"$members"; then
      found "Everybody may call $service. Mend: gcloud run services remove-iam-policy-binding $service \
--project $project --region $region --member allUsers --role roles/run.invoker"
    fi
    if ! grep -qxF "serviceAccount:$(account "$invoker_account")" <<<"$members"; then
      found "$(account "$invoker_account") may not call $service. Mend: wire.sh --project-id $project"
    fi
  done
}

for kind in "$@"; do
  case "$kind" in
    worker)
      check_project "$worker_account" roles/bigquery.jobUser roles/datastore.user
      check_dataset "$worker_account" onerow ;;
    coordinator)
      check_project "$coordinator_account" roles/bigquery.jobUser roles/datastore.user
      check_dataset "$coordinator_account" onerow
      check_dataset "$coordinator_account" "$dataset" ;;
    invoker) check_caller ;;
    *) wrong "unknown option $kind" ;;
  esac
done
if [ "$findings" -gt 0 ]; then
  say "$findings findings; see above."
  exit 3
fi
[ -n "$dry_run" ] || echo "The roles of $* are as they should be."
