#!/usr/bin/env bash
# Train under slurm, one process a GPU. GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are read from the environment.
#
#   tools/slurm_train.sh PARTITION JOB_NAME WORK_DIR CONFIG [CONFIG...] [flags of tools/train.py]
set -euo pipefail
if [[ $# -lt 4 ]]; then
    echo "usage: $0 PARTITION JOB_NAME WORK_DIR CONFIG [CONFIG...] [flags of tools/train.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 work_dir=$3
shift 3
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2086  # SRUN_ARGS is several words
PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" exec srun -p "$partition" --job-name="$job_name" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --gres="gpu:$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$here/train.py" "$@" --work-dir "$work_dir" --launcher slurm
