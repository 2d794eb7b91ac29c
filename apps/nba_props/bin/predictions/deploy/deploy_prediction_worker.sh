#!/usr/bin/env bash
# Builds, deploys and verifies the prediction worker. Options: see ../../../deploy/deploy_service.sh --help.
set -euo pipefail
exec "$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)/deploy/deploy_service.sh" worker "$@"
