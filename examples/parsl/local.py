"""Parsl on this machine, for --engine=parsl: two workers, reached from here alone."""

import parsl
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from vfd_tf.suites.parsl_engine import retry_cost

config = parsl.Config(
    executors=[
        HighThroughputExecutor(
            label="here",
            address="127.0.0.1",
            loopback_address="127.0.0.1",
            max_workers_per_node=2,
            cores_per_worker=1,
            cpu_affinity="block",  # each has its own half of the cores
            # One GPU a worker, instead of halves of the cores:
            # available_accelerators=["0", "1"],
            heartbeat_period=5,  # seconds until a worker that died is missed
            heartbeat_threshold=60,
            encrypted=False,  # nothing leaves this machine
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
    ],
    retries=1,
    retry_handler=retry_cost,  # bad input stays bad
    strategy="none",  # as many workers at the end as at the beginning
    usage_tracking=0,
)
