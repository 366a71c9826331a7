#!/bin/sh
# Runs timm's train.py on all GPUs of one or several machines; arguments are passed to train.py.
#
#   sh launch.sh -c pretrain_vit_tiny_fractal1_1k.yaml --batch-size 32
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 sh launch.sh -c ...      (and NODE_RANK=1 on the other machine)
#
# TRAIN_PY     timm's training script, from its repository (default: ./train.py)
# NPROC        processes on this machine (default: one per GPU)
# NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: as for torchrun
set -eu
train=${TRAIN_PY:-train.py}
if [ ! -f "$train" ]; then
    echo "launch.sh: no such file: $train; get train.py from https://github.com/huggingface/pytorch-image-models and" \
        "set TRAIN_PY to its path" >&2
    exit 2
fi
nodes=${NNODES:-1}
if [ "$nodes" -eq 1 ]; then
    set -- --standalone --nproc-per-node "${NPROC:-gpu}" "$train" "$@"
else
    set -- --nnodes "$nodes" --node-rank "${NODE_RANK:?number of this machine, from 0}" \
        --master-addr "${MASTER_ADDR:?name of the machine with NODE_RANK=0}" --master-port "${MASTER_PORT:-29500}" \
        --nproc-per-node "${NPROC:-gpu}" "$train" "$@"
fi
exec torchrun "$@"
