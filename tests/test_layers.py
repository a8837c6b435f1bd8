"""The layers of the package: imports lead down, never up, and never in a circle."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "vfd_tf"
# Floors from the top; rooms of one floor don't know each other.
FLOORS = (
    {"cli"},
    {"suites"},
    {"experiments"},
    {"training"},
    {"evaluation"},
    {"models", "data", "attacks"},
    {"hall"},
)
FRONT = {"__init__", "__main__"}  # name everything, and are imported by nothing
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(name: str) -> str:
    """The folder of a module "vfd_tf.folder.module"; the hall for those without one."""
    first = name.split(".")[1]
    return first if (ROOT / first).is_dir() else "hall"


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: pathlib.Path) -> set[str]:
    """The modules of this package that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vfd_tf"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in NAMES else node.module)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in NAMES}
    return found


INSIDE = [path for path in MODULES if path.parent != ROOT or path.stem not in FRONT]


def test_every_folder_has_its_floor():
    folders = {path.name for path in ROOT.iterdir() if list(path.glob("*.py"))}
    assert folders | {"hall"} == set.union(*FLOORS)


@pytest.mark.parametrize("path", INSIDE, ids=map(name_of, INSIDE))
def test_imports_lead_down(path):
    own = room_of(name_of(path))
    for name in imported(path):
        other = room_of(name)
        assert other == own or floor_of(other) > floor_of(own), f"{own} imports {name}"


def test_imports_make_no_circle():
    waiting = {name_of(path): imported(path) - {name_of(path)} for path in INSIDE}
    while free := {name for name, needs in waiting.items() if not needs & set(waiting)}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert not waiting, f"a circle, or what leads to one: {sorted(waiting)}"
