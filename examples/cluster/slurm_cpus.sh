#!/usr/bin/env bash
# The same on a node without GPUs, in a minute: sbatch examples/cluster/slurm_cpus.sh
#SBATCH --job-name=vfd-cpus
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --output=%x-%j.log
set -euo pipefail
srun --label --kill-on-bad-exit=1 \
  python run.py --dataset=digits --arch=resnet8 --method=trades --distill=none \
  --epochs=2 --schedule=constant --batch_size=64 --pgd_steps=2 --runs="${RUNS:-runs}" "$@"
