#!/usr/bin/env bash
# One training on several nodes under Slurm: sbatch examples/cluster/slurm.sh
# A task is a worker; it trains on all GPUs that Slurm gives it. The command is the one of
# one GPU: --strategy=auto finds the other workers in Slurm's variables. Ports are between
# 20000 and 32000, by the number of the job.
# Two minutes before the time limit, or a minute earlier, Slurm sends USR1 to every task of
# the step that srun starts (B:USR1@120 would send it to this shell alone). The tasks stop
# together, save, and end with 75; the job is then queued again under its number and
# continues in the middle of the epoch. A node that fails is Slurm's own reason to do that.
# srun doesn't end the other tasks when the first one ends: they stop by themselves.
# RUNS has to be writable by worker 0 alone, the data readable by all.
#SBATCH --job-name=vfd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
code=0
srun --label --kill-on-bad-exit=0 --wait=120 \
  python run.py --recipe=trades --distill=vfd --batch_size=1024 --stop_signal=USR1 \
  --runs="${RUNS:-runs}" "$@" || code=$?
if [ "$code" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
