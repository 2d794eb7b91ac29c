#!/usr/bin/env bash
# Stages what has arrived, consolidates the day's batch and checks it. For cron, every few minutes if you like.
#
#   consolidate.sh FOLDER
#
# FOLDER has the onerow.toml; predictions arrive in FOLDER/inbox as files, whole (written elsewhere and moved there), and
# leave for FOLDER/done. Exits with onerow's exit code: 0 done, or somebody is at it; 3 bad data, do not repeat; others
# may be repeated, which cron does.
set -euo pipefail

folder="${1:?name the folder with the onerow.toml}"
table="${TABLE:-player_prop_predictions}"
batch="${BATCH:-$(date -u +%F)}"
onerow() { command "${ONEROW:-onerow}" --config "$folder/onerow.toml" --quiet "$@"; }

# Only so that two do not move the same files. That nothing is doubled does not depend on it.
exec 9>"$folder/consolidate.lock"
if ! flock --nonblock 9; then
  echo "somebody is at it"
  exit 0
fi

mkdir -p "$folder/inbox" "$folder/done"
for file in "$folder"/inbox/*; do
  [ -e "$file" ] || continue
  onerow stage "$file" --table "$table" --batch "$batch" --worker cron
  mv "$file" "$folder/done/"
done
if onerow batches list --table "$table" --output json | grep -qF "\"$batch\""; then
  onerow consolidate --table "$table" --batch "$batch"
fi
onerow check --table "$table" --since 7d
