#!/usr/bin/env bash
# Makes what the services stand on in a new project: APIs, datasets, lock database, the bucket of box scores and
# lines, service accounts with their roles, the registry of images and the secret. What is there is left as it is.
#
#   setup.sh --project-id P [--region R] [--location EU|US|...] [--dry-run]
#
#   --location L   of the datasets and of the lock database, which cannot be changed later; default: the region
#
# Then: onerow init (python -m predictions.settings P --init), the deploy scripts, wire.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
location="$region"
if [ "${1:-}" = --location ]; then
  [ "$#" -ge 2 ] || wrong "--location needs a value"
  location="$2"
  shift 2
fi
no_more_words "$@"
need gcloud bq

run gcloud services enable --project "$project" artifactregistry.googleapis.com bigquery.googleapis.com \
  cloudbuild.googleapis.com cloudscheduler.googleapis.com firestore.googleapis.com pubsub.googleapis.com \
  run.googleapis.com secretmanager.googleapis.com storage.googleapis.com

exists gcloud artifacts repositories describe nba-props --project "$project" --location "$region" ||
  run gcloud artifacts repositories create nba-props --project "$project" --location "$region" \
    --repository-format docker
exists gcloud firestore databases describe --project "$project" --database '(default)' ||
  run gcloud firestore databases create --project "$project" --database '(default)' --location "$location"
for name in "$dataset" onerow; do
  exists bq --project_id "$project" show "$project:$name" ||
    run bq --project_id "$project" --location "$location" mk --dataset "$project:$name"
done

data="gs://$project-nba-props"
exists gcloud storage buckets describe "$data" --project "$project" ||
  run gcloud storage buckets create "$data" --project "$project" --location "$location" \
    --uniform-bucket-level-access

for name in "$worker_account" "$coordinator_account" "$invoker_account"; do
  exists gcloud iam service-accounts describe "$(account "$name")" --project "$project" ||
    run gcloud iam service-accounts create "$name" --project "$project"
done
for name in "$worker_account" "$coordinator_account"; do
  for role in roles/bigquery.jobUser roles/datastore.user; do
    run gcloud projects add-iam-policy-binding "$project" --member "serviceAccount:$(account "$name")" \
      --role "$role" --condition None
  done
done
may_write() {
  run bq --project_id "$project" query --use_legacy_sql=false \
    "grant \`roles/bigquery.dataEditor\` on schema \`$project.$2\` to \"serviceAccount:$(account "$1")\""
}
may_write "$worker_account" onerow
may_write "$coordinator_account" onerow
may_write "$coordinator_account" "$dataset"

for name in "$worker_account" "$coordinator_account"; do
  run gcloud storage buckets add-iam-policy-binding "$data" --project "$project" \
    --member "serviceAccount:$(account "$name")" --role roles/storage.objectViewer
done

exists gcloud secrets describe slack-webhook --project "$project" ||
  run gcloud secrets create slack-webhook --project "$project" --replication-policy automatic
for name in "$worker_account" "$coordinator_account"; do
  run gcloud secrets add-iam-policy-binding slack-webhook --project "$project" \
    --member "serviceAccount:$(account "$name")" --role roles/secretmanager.secretAccessor
done
if [ -z "$dry_run" ]; then
  echo "Put player_box_scores.csv and points_lines.csv into $data, as often as they change."
  echo "Put the address of the Slack webhook into the secret: gcloud secrets versions add slack-webhook" \
    "--project $project --data-file -"
fi
