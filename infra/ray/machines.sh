#!/usr/bin/env bash
# A Ray cluster on plain machines: run on each, as an ordinary user, in the environment of requirements.lock.
#   machines.sh head            on one of them
#   machines.sh HEAD_ADDRESS    on the others
# Before: export AWS_*, TTL_STORE, PREFECT_API_URL and PREFECT_API_AUTH_STRING. End with `ray stop`.
set -euo pipefail
role=${1:?head, or the address of the head}
slots=()
# Where there are no GPUs, a core stands for a device.
nvidia-smi --list-gpus >/dev/null 2>&1 || slots=(--resources="{\"ttl_slot\": $(nproc)}")
if [ "$role" = head ]; then
  ray start --head --port=6379 --dashboard-host=127.0.0.1 --disable-usage-stats "${slots[@]}"
else
  ray start --address="$role:6379" --disable-usage-stats "${slots[@]}"
fi
