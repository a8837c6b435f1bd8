#!/usr/bin/env bash
# The same on a node without GPUs, in a minute: sbatch examples/cluster/slurm_cpus.sh
#SBATCH --job-name=vfd-cpus
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
code=0
srun --label --kill-on-bad-exit=0 --wait=120 \
  python run.py --dataset=digits --arch=resnet8 --method=trades --distill=none \
  --epochs=2 --schedule=constant --batch_size=64 --pgd_steps=2 --stop_signal=USR1 \
  --runs="${RUNS:-runs}" "$@" || code=$?
if [ "$code" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
