#!/usr/bin/env bash
# Trains on all GPUs of this host, in one process:
#
#   launch/gpu_host.sh --config=configs/text.py:gapt --workdir=runs/a
#
# PYTHON  the interpreter (default: python)
set -euo pipefail

refuse() {
  echo "gpu_host.sh: $*" >&2
  exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
command -v "$python" >/dev/null ||
  refuse "no interpreter '$python': set PYTHON."
(($# > 0)) || refuse 'no arguments: give --config=... and --workdir=...'

# Without a GPU, JAX would quietly train on the CPU. nvidia-smi sees that there
# is one; IBLM_PLATFORM makes the program refuse to start if JAX got none.
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ') || true
((gpus > 0)) || refuse 'nvidia-smi lists no GPU on this host.'
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} IBLM_PLATFORM=gpu

# In a Slurm step JAX gives every process one GPU, that of its rank on the node.
# Here a process takes all.
if [[ -n ${SLURM_STEP_NODELIST:-} && -z ${JAX_LOCAL_DEVICE_IDS:-} ]]; then
  [[ ${SLURM_NTASKS:-} == "${SLURM_STEP_NUM_NODES:-}" ]] ||
    refuse 'needs one task a node: set --ntasks-per-node=1.'
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    visible=${CUDA_VISIBLE_DEVICES//[^,]/}
    gpus=$((${#visible} + 1))
  fi
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

exec "$python" -m iblm_jax.main "$@"
