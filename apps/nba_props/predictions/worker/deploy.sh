#!/usr/bin/env bash
# What bin/predictions/deploy/deploy_prediction_worker.sh does, from where the team is used to start it.
set -euo pipefail
exec "$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/deploy/deploy_service.sh" worker "$@"
