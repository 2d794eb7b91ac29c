#!/usr/bin/env bash
# Joins the services: Pub/Sub to the worker with a topic for dead letters, the scheduler to the coordinator and to the
# jobs. After the first deployment of both services, and again whenever this file has changed.
#
#   wire.sh --project-id P [--region R] [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse "$@"
set -- "${rest[@]+"${rest[@]}"}"
no_more_words "$@"
need gcloud

requests=prediction-requests
dead=prediction-requests-dead
invoker="$(account "$invoker_account")"

url_of() {
  ask "https://$1.example.run.app" gcloud run services describe "$1" --project "$project" --region "$region" \
    --format 'value(status.url)'
}
worker_url="$(url_of prediction-worker)"
coordinator_url="$(url_of prediction-coordinator)"
if [ -z "$worker_url" ] || [ -z "$coordinator_url" ]; then
  say "Deploy both services first. Nothing was done."
  exit 1
fi
image="$(ask IMAGE gcloud run services describe prediction-coordinator --project "$project" --region "$region" \
  --format 'value(spec.template.spec.containers[0].image)')"
number="$(ask 123456789012 gcloud projects describe "$project" --format 'value(projectNumber)')"
agent="service-$number@gcp-sa-pubsub.iam.gserviceaccount.com"

# Who calls the services.
for service in prediction-worker prediction-coordinator; do
  run gcloud run services add-iam-policy-binding "$service" --project "$project" --region "$region" \
    --member "serviceAccount:$invoker" --role roles/run.invoker
done

# Requests for predictions, pushed to the worker. What fails five times is kept for seven days.
for topic in "$requests" "$dead"; do
  exists gcloud pubsub topics describe "$topic" --project "$project" ||
    run gcloud pubsub topics create "$topic" --project "$project"
done
exists gcloud pubsub subscriptions describe "$dead-kept" --project "$project" ||
  run gcloud pubsub subscriptions create "$dead-kept" --project "$project" --topic "$dead" \
    --message-retention-duration 7d --expiration-period never
push=(--push-endpoint "$worker_url/predict" --push-auth-service-account "$invoker"
  --push-auth-token-audience "$worker_url" --ack-deadline 600 --min-retry-delay 10s --max-retry-delay 600s
  --dead-letter-topic "projects/$project/topics/$dead" --max-delivery-attempts 5 --expiration-period never)
if exists gcloud pubsub subscriptions describe "$requests-worker" --project "$project"; then
  run gcloud pubsub subscriptions update "$requests-worker" --project "$project" "${push[@]}"
else
  run gcloud pubsub subscriptions create "$requests-worker" --project "$project" --topic "$requests" "${push[@]}"
fi
run gcloud pubsub topics add-iam-policy-binding "$requests" --project "$project" \
  --member "serviceAccount:$(account "$coordinator_account")" --role roles/pubsub.publisher
run gcloud pubsub topics add-iam-policy-binding "$dead" --project "$project" \
  --member "serviceAccount:$agent" --role roles/pubsub.publisher
run gcloud pubsub subscriptions add-iam-policy-binding "$requests-worker" --project "$project" \
  --member "serviceAccount:$agent" --role roles/pubsub.subscriber
run gcloud iam service-accounts add-iam-policy-binding "$invoker" --project "$project" \
  --member "serviceAccount:$agent" --role roles/iam.serviceAccountTokenCreator

# Jobs, and who starts them.
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
for job in prediction-grading prediction-quality-check; do
  rendered "$here/jobs/$job.yaml" >"$folder/$job.yaml"
  run gcloud run jobs replace "$folder/$job.yaml" --project "$project" --region "$region"
  run gcloud run jobs add-iam-policy-binding "$job" --project "$project" --region "$region" \
    --member "serviceAccount:$invoker" --role roles/run.invoker
done

# The schedule, by the clock of New York. The coordinator takes today's games; a day without any is answered 200 and
# not repeated. The retry may overlap the first run: nothing is doubled by that.
schedule() {
  local name="$1" verb=create headers=--headers
  shift
  if exists gcloud scheduler jobs describe "$name" --project "$project" --location "$region"; then
    verb=update headers=--update-headers
  fi
  run gcloud scheduler jobs "$verb" http "$name" --project "$project" --location "$region" \
    --time-zone America/New_York --http-method POST "$headers" Content-Type=application/json "$@"
}
to_coordinator=(--uri "$coordinator_url/start" --message-body '{"wait_s": 840}'
  --oidc-service-account-email "$invoker" --oidc-token-audience "$coordinator_url" --attempt-deadline 900s
  --max-retry-attempts 3)
starts="https://run.googleapis.com/v2/projects/$project/locations/$region/jobs"
schedule predictions-daily --schedule '0 11 * * *' "${to_coordinator[@]}"
schedule predictions-retry --schedule '30 11 * * *' "${to_coordinator[@]}"
schedule grading-daily --schedule '0 6 * * *' --uri "$starts/prediction-grading:run" \
  --oauth-service-account-email "$invoker"
schedule quality-check-daily --schedule '30 6 * * *' --uri "$starts/prediction-quality-check:run" \
  --oauth-service-account-email "$invoker"
