"""Files of strangers: what archives declare is checked before anything is allocated.

Nothing is unpickled and nothing is extracted: the names in an archive stay names.
"""

import copy
import io
import json
import math
import os
import zipfile

import h5py
import numpy as np

ROOM = 2**26  # bytes that every archive may unfold to
EXPANSION = 100  # times its own size that a larger one may
LARGEST_JSON = 2**26
_KINDS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def read_npz(path: str, names: set[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those of some names, read to the end.

    Raises:
        ValueError, zipfile.BadZipFile, ...: See `vfd_tf.files.DAMAGED`. The file is
            damaged, holds objects, or declares more than is in it.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        wanted = {
            name: member
            for name, member in _arrays(archive).items()
            if names is None or name in names
        }
        for member in wanted.values():
            with archive.open(member) as file:
                _check_header(member, file)
        for name, member in wanted.items():
            with archive.open(member) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def sizes_of_npz(path: str) -> dict[str, int]:
    """Name -> bytes of the arrays of an .npz file, as it declares them."""
    with zipfile.ZipFile(path) as archive:
        return {name: member.file_size for name, member in _arrays(archive).items()}


def _arrays(archive):
    """Name -> member; keys such as "after/0" and "best|linf:8/255 n=64|fgsm" are names."""
    found = {}
    for member in checked(archive):
        name, dot, ending = member.filename.rpartition(".")
        if dot + ending != ".npy" or name.split("/")[0] in ("", ".."):
            raise ValueError(f"its member {member.filename[:80]!r} is no array")
        found[name] = member
    return found


def _check_header(member, file):
    """Raises `ValueError` unless a member holds the numbers that it declares."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version, name = np.lib.format.read_magic(file), member.filename[:80]
    if version not in readers:
        raise ValueError(f"{name} has the format {version}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects instead of numbers")
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not dtype.itemsize:
        raise ValueError(f"{name} declares {shape} values of {dtype.itemsize} bytes")
    if file.tell() + declared != member.file_size:
        raise ValueError(f"{name} declares {declared:,} bytes that are not in the file")


def checked(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of an archive that unfolds to a size in proportion to its own.

    Raises:
        ValueError: One that doesn't, is encrypted, or isn't stored or deflated.
    """
    members, size = archive.infolist(), os.stat(archive.fp.fileno()).st_size
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.flag_bits & 1 or member.compress_type not in _KINDS:
            raise ValueError(f"its member {member.filename[:80]!r} is encrypted or packed")
        if stored and member.file_size != member.compress_size:
            raise ValueError(f"its member {member.filename[:80]!r} has two sizes")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its members have one name")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members overlap or are cut short")
    _check_total(sum(member.file_size for member in members), size)
    return members


def _check_total(declared, size):
    if declared > max(ROOM, EXPANSION * size):
        raise ValueError(f"{size:,} bytes that declare to be {declared:,}")


def _outside(parts) -> bool:
    """Whether these are parts of a path that leads out of the folder that it is read in."""
    return any(part in ("", "..") or "\\" in part or ":" in part[1:2] for part in parts)


def read_member(archive: zipfile.ZipFile, name: str, largest: int | None = None) -> bytes:
    """The bytes of a member, `largest` at most.

    Raises:
        ValueError: There is none, or it is larger.
    """
    if name not in archive.namelist():
        raise ValueError(f"it holds no {name}")
    size = archive.getinfo(name).file_size
    if largest is not None and size > largest:
        raise ValueError(f"{name} has {size:,} bytes, and {largest:,} at most are read")
    with archive.open(name) as file:
        return file.read(size)  # without a number, what it unfolds to has no bound


def check_folder(archive: zipfile.ZipFile) -> None:
    """Raises `ValueError` for an archive that can't safely be unpacked as a whole."""
    for member in checked(archive):
        name = member.filename
        if _outside(name.removesuffix("/").split("/")):
            raise ValueError(f"its member {name[:80]!r} leads out of it")
        if member.compress_type != zipfile.ZIP_STORED:
            _check_length(archive, member)


def _check_length(archive, member):
    """Raises `ValueError` for a member that unfolds to more than it declares."""
    longer, size = copy.copy(member), member.file_size
    longer.file_size += 1
    with archive.open(longer) as file:
        if sum(map(len, iter(lambda: file.read(2**20), b""))) != size:
            raise ValueError(f"{member.filename[:80]} has more than {size:,} bytes")


def check_h5(file: h5py.File) -> int:
    """How many numbers an HDF5 file holds.

    Raises:
        ValueError: It holds anything but numbers of its own.
    """
    names, count, total = [], 0, 0
    file.visit_links(names.append)
    for name in names:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name[:80]} is a link to another place")
        found = file[name]
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise ValueError(f"{name[:80]} is in another file")
            if found.dtype.hasobject:
                raise ValueError(f"{name[:80]} holds something other than numbers")
            count += math.prod(found.shape or ())
            total += math.prod(found.shape or ()) * found.dtype.itemsize
    _check_total(total, file.id.get_filesize())
    return count


def check_h5_bytes(data: bytes) -> int:
    """As `check_h5`, of a file in memory."""
    with h5py.File(io.BytesIO(data), "r") as file:
        return check_h5(file)


def read_json(text: str | bytes) -> dict:
    """The object of a JSON text.

    Raises:
        ValueError: It is too long, no object, or has texts that can't be written.
    """
    if len(text) > LARGEST_JSON:
        raise ValueError(f"more than {LARGEST_JSON:,} bytes")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__} instead of an object")
    json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return found
