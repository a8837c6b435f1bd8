"""Recipes: the flagfiles of `flags/`, found by name from anywhere."""

import pathlib
import warnings
from collections.abc import Sequence

from vfd_tf.hyperparameters import InputError, choose

_PACKAGE = pathlib.Path(__file__).parents[1]


def paths() -> dict[str, pathlib.Path]:
    """Name -> file of every recipe: of a checkout, or of what was installed."""
    inside = _PACKAGE / "recipes"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "flags"
    return {path.stem: path for path in sorted(folder.glob("*.flags"))}


def read(argv: list[str]) -> list[str]:
    """The user's command line, expanded, with a warning for each flag that is replaced."""
    for word, how in replaced(argv).items():
        warnings.warn(f"{word} has no effect {how}.", stacklevel=2)
    return expanded(argv)


def expanded(argv: list[str]) -> list[str]:
    """The command line with the flagfile of a recipe in the place of `--recipe=NAME`.

    Flags after it have the last word.

    Raises:
        InputError: There is no such recipe.
    """
    words = list(argv)
    for i, word in enumerate(words):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "recipe":
            if not equals and i + 1 < len(words):
                value = words.pop(i + 1)
            return expanded([*words[:i], _flagfile(value), *words[i + 1 :]])
    return words


def replaced(argv: Sequence[str]) -> dict[str, str]:
    """Each flag that a recipe behind it replaces, as it is written -> how, in a clause."""
    found, given = {}, {}
    for name, value, text in _flags(argv):
        lines = _lines(value) if name == "recipe" else {}
        for other in given.keys() & lines.keys():
            before, word = given[other]
            if before != lines[other]:
                line = f"--{other}={lines[other]}"
                found[other] = word, f"before {text}, which sets {line}: write it behind"
            else:
                found.pop(other, None)
        found.pop(name, None)  # what is behind has the last word
        given[name] = value, text
    return dict(found.values())


def refuse_unread(values) -> None:
    """Raises `InputError` if flags that were read have a recipe: one in a flagfile.

    What is on the command line was expanded before; absl knows nothing of recipes.
    """
    if values.recipe is not None:
        raise InputError(
            f"--recipe={values.recipe} is in a --flagfile, where it is not read: write it "
            "on the command line, before --flagfile."
        )


def _flags(words):
    """(name, value, as it is written) of every flag."""
    for word, behind in zip(words, [*words, "--"][1:], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and not equals and not behind.startswith("-"):
            value, word = behind, f"{word} {behind}"
        if word.startswith("-"):
            yield name, value, word


def _lines(recipe):
    """Name -> value of what a recipe sets."""
    file = paths().get(recipe)
    lines = map(str.strip, file.read_text(encoding="utf-8").splitlines() if file else [])
    flags = _flags([line for line in lines if line.startswith("--")])
    return {name: value for name, value, _ in flags}


def _flagfile(name):
    return f"--flagfile={choose(paths(), name, 'recipe')}"
