#!/usr/bin/env bash
# Builds the image of a service, puts it into Cloud Run and looks whether it is well.
#
#   deploy_service.sh worker|coordinator [--project-id P] [--region R] [--tag T | --image I] [--dry-run]
#
#   --tag T     the image's tag; default: the commit that is checked out
#   --image I   deploy this image, which is there already; nothing is built
#
# A revision that does not become healthy gets no traffic; the one before goes on. Exits with 0 only if the new one
# serves and its checks are good; else the last lines say how to roll back.
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
tag="" image=""
while [ "$#" -gt 0 ]; do
  case "$1" in
    --tag|--image)
      [ "$#" -ge 2 ] || wrong "$1 needs a value"
      if [ "$1" = --tag ]; then tag="$2"; else image="$2"; fi
      shift 2 ;;
    *) wrong "unknown option $1" ;;
  esac
done
need gcloud curl python3
service="prediction-$kind"

"$here/check_roles.sh" "$kind" --project-id "$project" --region "$region" ${dry_run:+--dry-run}

if [ -z "$image" ]; then
  if [ -z "$tag" ]; then
    tag="$(git -C "$root" describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)" ||
      wrong "this is no checkout of git, so name the image's tag with --tag"
  fi
  image="$region-docker.pkg.dev/$project/nba-props/$service:$tag"
  run gcloud builds submit "$root" --project "$project" --region "$region" \
    --config "$here/cloudbuild.yaml" \
    --substitutions "_TARGET=$kind,_IMAGE=$image"
fi

before=""
if exists gcloud run services describe "$service" --project "$project" --region "$region"; then
  before="$(gcloud run services describe "$service" --project "$project" --region "$region" \
    --format 'value(status.latestReadyRevisionName)')"
fi

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
file="$folder/$service.yaml"
rendered "$here/services/$service.yaml" >"$file"
if [ -n "$dry_run" ]; then
  echo "would fill in: $service.yaml with the image $image"
fi
if ! run gcloud run services replace "$file" --project "$project" --region "$region"; then
  say "The new revision of $service was not taken in service; ${before:-nothing} serves on."
  exit 1
fi

if ! "$here/verify.sh" "$kind" --project-id "$project" --region "$region" --fresh ${dry_run:+--dry-run}; then
  say "The new revision of $service serves, and its checks are NOT good."
  if [ -n "$before" ]; then
    say "Roll back: $here/rollback.sh $kind --project-id $project --region $region --to $before"
  fi
  exit 1
fi
