"""Files of runs: replaced whole, refused where they are damaged, one process a folder."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import pathlib
import secrets
import socket
import tempfile
import time
import zipfile
import zlib

import numpy as np

from vfd_tf import archives
from vfd_tf.hyperparameters import InputError

try:
    import fcntl
except ImportError:  # not on Windows: nothing is locked there
    fcntl = None

LOCK = "lock.json"
_NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS
# What NumPy and zipfile raise for a file that was cut short, damaged or is another's.
DAMAGED = (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, TypeError)
DAMAGED += (NotImplementedError, MemoryError)  # a header's bits turned
DAMAGED += (RuntimeError, AttributeError, OverflowError, SystemError)  # of h5py, NumPy


PART = ".part"
MARK = "[0-9a-f]" * 8  # of the writer, in front of it: shards may write one file at once
_LEFT = 24 * 3600  # seconds after which nobody writes a part any more


@contextlib.contextmanager
def replaced(path: str, ending: str = PART):
    """A path beside `path` to write to, which takes its place if nothing is raised.

    Both the file and its name are on the disk then: after a power cut there is either the
    older file or the whole new one. Of several that write at once the last has its way.
    """
    part = f"{path}.{secrets.token_hex(4)}{ending}"
    for other in glob.glob(f"{glob.escape(path)}.{MARK}{ending}"):
        with contextlib.suppress(OSError):  # another one may have removed it
            if time.time() - os.path.getmtime(other) > _LEFT:
                os.remove(other)
    try:
        yield part
        _flush(part)
        os.replace(part, path)
        _flush(os.path.dirname(path) or ".")
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def _flush(path):
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems without
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: str) -> None:
    """Removes what a process that was killed had half written into this folder."""
    for name in os.listdir(folder):
        if PART in name and os.path.isfile(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))


def sha256(path: str) -> str:
    """Of a file, or of all files of a folder with their names."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    sha, root = hashlib.sha256(), pathlib.Path(path)
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        sha.update(f"{file.relative_to(root)} {sha256(str(file))}\n".encode())
    return sha.hexdigest()


def check_writable(path: str, remedy: str = "choose another --workdir or --runs") -> None:
    """Raises `InputError` unless files can be written into this folder; leaves nothing."""
    there = pathlib.Path(path).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not os.path.isdir(there):
        raise InputError(f"{there} is a file, no folder: {remedy}.")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".vfd", dir=there))
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}): {remedy}."
        ) from error


@contextlib.contextmanager
def read_or_refused(path: str, remedy: str):
    """Inside, what a damaged file raises becomes an `InputError` with the remedy."""
    try:
        yield
    except (*DAMAGED, OSError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:120]
        raise InputError(f"{path} can't be read ({reason}): {remedy}.") from error


def holds(path: str, text: str) -> bool:
    """Whether a file is exactly this text."""
    try:
        with open(path, "rb") as file:
            return file.read() == text.encode()
    except OSError:
        return False


def is_whole(path: str) -> bool:
    """Whether all members of an archive have the checksums that it gives them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (*DAMAGED, OSError):
        return False


def read_json(path: str, remedy: str) -> dict:
    """The object in a JSON file; {} where there is no file."""
    if not os.path.lexists(path):
        return {}
    with read_or_refused(path, remedy):
        _check_plain(path)
        with open(path, "rb") as file:
            return archives.read_json(file.read(archives.LARGEST_JSON + 1))


def read_arrays(path: str, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, read to the end; {} where there is no file."""
    return _read_npz(path, remedy) if os.path.lexists(path) else {}


def read_array(path: str, remedy: str, name: str) -> np.ndarray:
    """One array of an .npz file."""
    with read_or_refused(path, remedy):
        return _read_npz(path, remedy, {name})[name]


def _read_npz(path, remedy, names=None):
    with read_or_refused(path, remedy):
        _check_plain(path)
        return archives.read_npz(path, names)


def _check_plain(path):
    """A pipe or a device would be read for ever."""
    if not os.path.isfile(path):
        raise ValueError("no plain file")


def sentence(error: OSError) -> str:
    """What the system says about a file, and what to do: no space, no right, too large."""
    reason = (error.strerror or str(error) or type(error).__name__).split("\n")[0]
    where = f"{error.filename}: " if error.filename else ""
    full = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if error.errno in full or "too large" in str(error).lower():
        return f"{where}{reason}; make room on the disk"
    return f"{where}{reason}; see that it can be read and written"


@contextlib.contextmanager
def owned(folder: str, wait: bool = False, what: str = "trains"):
    """Inside, no other process has this folder; it is made if it isn't there.

    The lock is the kernel's, on a file that says who has it: it ends with its process,
    and the file is removed. A file system without locks, as NFS may be, is named.

    Args:
        folder: A run directory, or one of results.
        wait: Waits for the other process instead of refusing.
        what: What processes do in it.

    Raises:
        InputError: Another process has it.
    """
    if fcntl is None:
        os.makedirs(folder, exist_ok=True)
        yield
        return
    path, told = os.path.join(folder, LOCK), False
    while (file := _locked(path)) is None:
        holder = _holder(path)
        if not wait:
            raise InputError(
                f"{folder} is in use, {holder}: wait for it, or choose another --workdir."
            )
        if not told:
            waiting = f"another process {what} it, {holder}; waiting for it"
            print(f"{folder}: {waiting}", flush=True)
        told = True
        time.sleep(1)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # of a folder that was removed
            os.remove(path)
        file.close()


def _locked(path):
    """The lock's open file, or None where another process has it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, "a+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.exists(path) or not os.path.samestat(
            os.fstat(file.fileno()), os.stat(path)
        ):
            file.close()  # of the process before, which has just removed it
            return _locked(path)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"Note: the file system of {path} has no locks; see that no other process "
            "takes the folder.",
            flush=True,
        )
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, file)
    file.flush()
    return file


def _holder(path):
    try:
        with open(path) as file:
            return "started {started} by process {pid} on {host}".format(**json.load(file))
    except (OSError, ValueError, KeyError):
        return "started just now"
