#!/usr/bin/env bash
# Train on several processes and machines with torchrun: one GPU a process, or CPU processes on a
# machine without GPU.
#
#   tools/dist_train.sh CONFIG [CONFIG...] GPUS [flags of tools/train.py]
#
# Several machines: the same command on each, with NNODES, NODE_RANK and MASTER_ADDR set, and a
# shared folder.
set -euo pipefail
configs=()
while [[ $# -gt 0 && ! $1 =~ ^[0-9]+$ ]]; do configs+=("$1"); shift; done
if [[ ${#configs[@]} -eq 0 || $# -eq 0 ]]; then
    echo "usage: $0 CONFIG [CONFIG...] GPUS [flags of tools/train.py]" >&2
    exit 2
fi
gpus=$1; shift
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" exec torchrun \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$here/train.py" "${configs[@]}" --launcher pytorch "$@"
