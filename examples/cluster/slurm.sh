#!/usr/bin/env bash
# One training on several nodes under Slurm: sbatch examples/cluster/slurm.sh
# A task is a worker; it trains on all GPUs that Slurm gives it. The command is the one of
# one GPU: --strategy=auto finds the other workers in Slurm's variables. Ports are between
# 20000 and 32000, by the number of the job.
# A job that was stopped continues when it is submitted again; --requeue does that.
# RUNS has to be writable by worker 0 alone, the data readable by all.
#SBATCH --job-name=vfd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail
srun --label --kill-on-bad-exit=1 \
  python run.py --recipe=trades --distill=vfd --batch_size=1024 --runs="${RUNS:-runs}" "$@"
