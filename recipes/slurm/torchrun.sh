#!/bin/bash
# One recipe on several machines without a scheduler: run this on each of them.
#
#   NODES=2 NODE_RANK=0 MASTER=10.0.0.1 recipes/slurm/torchrun.sh dpo \
#       --config recipes/llama-3.2-3b-instruct/dpo/config.yaml --output_dir /shared/dpo
#
# torchrun gives each GPU a copy of the model (DDP). PROCESSES defaults to the GPUs of the machine.
set -euo pipefail

recipe=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec torchrun \
    --nnodes "${NODES:-1}" --node_rank "${NODE_RANK:-0}" \
    --nproc_per_node "${PROCESSES:-gpu}" \
    --rdzv_backend c10d --rdzv_id usermirrorer --rdzv_endpoint "${MASTER:-127.0.0.1}:${PORT:-29500}" \
    "$here/../$recipe.py" "$@"
