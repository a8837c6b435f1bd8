"""Parsl on a cluster with Slurm, for --engine=parsl: nodes of four GPUs, a worker a GPU.

Not run by the tests. Runs, logs and `run_dir` have to be on a file system that all nodes
share.
"""

import parsl
from parsl.addresses import address_by_hostname
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import SlurmProvider

from vfd_tf.suites.parsl_engine import retry_cost

config = parsl.Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            address=address_by_hostname(),
            available_accelerators=4,
            max_workers_per_node=4,
            cpu_affinity="block",
            provider=SlurmProvider(
                partition="gpu",
                nodes_per_block=1,
                init_blocks=0,
                min_blocks=0,
                max_blocks=4,  # jobs at once
                walltime="24:00:00",
                scheduler_options="#SBATCH --gpus-per-node=4",
                # What makes vfd_tf importable on a node:
                worker_init="source $HOME/venv/bin/activate",
                # Not srun: a command would take its step for one of several workers.
                launcher=SingleNodeLauncher(),
            ),
        )
    ],
    retries=2,  # a job that ends takes its commands along; they continue
    retry_handler=retry_cost,
    run_dir="runinfo",
    usage_tracking=0,
)
