"""What trains: one device, all GPUs of a machine, or many machines, found and checked."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import threading
import time
import warnings

import keras
import tensorflow as tf

from vfd_tf.hyperparameters import InputError

LOOK_UPS = 60  # tries, a second each, until a host's name is known
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of a name of `STRATEGIES`, before TensorFlow computes.

    "auto" is "multi_worker" where TF_CONFIG or Slurm name several workers, "mirrored" where
    several GPUs are visible, and else "one_device".

    Raises:
        InputError: A cluster that can't be: damaged, of one worker, its port in use, ...
    """
    _warn_of_legacy_keras()
    return STRATEGIES[name]()


def _auto():
    if _tf_config() or _in_slurm():
        return _multi_worker()
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return _mirrored() if several else _one_device()


def _one_device():
    return tf.distribute.get_strategy()


def _mirrored():
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        print(f"Note: --strategy=mirrored has one device, {devices[0].name}, to use.")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker():
    if not _tf_config() and _in_slurm():
        os.environ["TF_CONFIG"] = json.dumps(slurm_cluster())
    own = _tf_config()
    if own is None:
        raise InputError(
            "--strategy=multi_worker needs the addresses of two workers or more: start "
            f"them with srun, or set TF_CONFIG, such as {_EXAMPLE}; for the GPUs of one "
            "machine use --strategy=mirrored."
        )
    _check_address(own)
    print(f"Worker at {own}: waiting for the others.", flush=True)
    try:
        with _ended_by_ctrl_c():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise InputError(
            f"The cluster of the worker at {own} didn't come up ({reason}): start all "
            "workers with the same list of addresses."
        ) from error


@contextlib.contextmanager
def _ended_by_ctrl_c():
    """Inside, where TensorFlow waits and Python can't act, Ctrl-C ends the process.

    TensorFlow catches SIGTERM there, to note a preemption; after it both are as before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    term = signal.getsignal(signal.SIGTERM)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGINT, interrupt)


def _tf_config():
    """This worker's address in TF_CONFIG; None unless that names several workers.

    Raises:
        InputError: It can't be read.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        jobs = {name: _texts(addresses) for name, addresses in cluster.items()}
        own = dict(enumerate(jobs[task["type"]]))[int(task["index"])] if jobs else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG can't be read ({type(error).__name__}: {error}); it is JSON with "
            f"all workers and which of them this is, such as {_EXAMPLE}."
        ) from error
    other = set(jobs) - {"chief", "worker"}
    if other:
        raise InputError(
            f"TF_CONFIG names {', '.join(sorted(other))}: every process is a worker here, "
            'leave in "worker" (and "chief") alone.'
        )
    addresses = [address for job in jobs.values() for address in job]
    twice = sorted({a for a in addresses if addresses.count(a) > 1})
    if twice:
        raise InputError(f"TF_CONFIG names {', '.join(twice)} twice: one address each.")
    return own if len(addresses) > 1 else None


def _texts(addresses):
    if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
        raise TypeError(f"no list of addresses: {addresses!r}")
    return addresses


def _check_address(address):
    """Refuses an address without a port, of no machine, or whose port is in use."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"The address {address!r} of this worker is no host:port.")
    family, kind, protocol, _, where = _looked_up(host.strip("[]"), port, address)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except PermissionError as error:
            raise InputError(
                f"Port {port} can't be opened: choose one above 1023."
            ) from error
        except OSError as error:
            _say_bind(error, address, port)


def _looked_up(host, port, address):
    """The first of the host's socket addresses; a pod's name takes a while to be known."""
    for left in reversed(range(LOOK_UPS)):
        try:
            return socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        except OSError as error:
            if not left:
                raise InputError(
                    f"The host of this worker, {address}, isn't known ({error}): name it "
                    "as the other workers can reach it."
                ) from error
        time.sleep(1)


def _say_bind(error, address, port):
    if error.errno == errno.EADDRINUSE:
        raise InputError(
            f"Port {port} of this worker, {address}, is in use: end the process that has "
            "it, a worker of an earlier start perhaps, or name another port."
        ) from error
    warnings.warn(
        f"{address}, this worker's address, is of no network interface here "
        f"({error.strerror}): if the others can't reach it, TF_CONFIG is another worker's.",
        stacklevel=2,
    )


def _in_slurm() -> bool:
    """Whether srun has started several tasks, of which this is one."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return "SLURM_PROCID" in os.environ and tasks.isdigit() and int(tasks) > 1


def slurm_cluster() -> dict:
    """TF_CONFIG of an srun step: one worker a task, with the GPUs that Slurm shows it.

    Ports follow from the numbers of job and step, 16 for each, so that they can share a
    node.
    """
    job, step = (int(os.environ.get(f"SLURM_{n}_ID", "0")) for n in ("JOB", "STEP"))
    base = 20000 + 16 * (job + step) % 12000
    try:
        # It would share GPUs out by itself, and divides by zero where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=base, gpus_per_node=10**6, gpus_per_task=1, auto_set_gpu=False
        )
        jobs = resolver.cluster_spec().as_dict()
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"Slurm's variables don't say where the workers are ({error}): start them with "
            "srun, or set TF_CONFIG."
        ) from error
    task = {"type": resolver.task_type, "index": resolver.task_id}
    return {"cluster": jobs, "task": task}


def _warn_of_legacy_keras():
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        warnings.warn(
            "TF_USE_LEGACY_KERAS is set (Ray Train sets it): tf.keras is Keras 2 then, "
            f"whose models vfd_tf can't train; vfd_tf itself runs on Keras "
            f"{keras.__version__} all the same. Unset it, and import keras.",
            stacklevel=2,
        )


STRATEGIES = {
    "auto": _auto,
    "one_device": _one_device,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
}
