"""What users are told: every mistake and the one sentence that names its fix.

A case is a function that makes the mistake, under the message it must meet: a regular
expression that has to match the whole sentence. Cases are refused with `InputError`, in
Python before anything is trained, at the command line with exit code 2 and one line on
stderr. Cases marked `warning=True` go on, with that warning.
"""

import contextlib
import io
import re
import warnings

import vfd_tf  # noqa: F401  before TensorFlow

import pytest

from vfd_tf import InputError, command

CASES = []


def case(name, message, warning=False):
    """Registers a mistake; `message` has to match what the user reads, as a whole."""

    def register(mistake):
        CASES.append(pytest.param(mistake, message, warning, id=name))
        return mistake

    return register


def command_line(*words):
    """Runs `python run.py WORDS`; raises what it prints on stderr as an `InputError`."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = command.main(["run.py", *words])
    lines = [li for li in stderr.getvalue().splitlines() if li.startswith("error: ")]
    if code:
        assert code == 2 and len(lines) == 1, stderr.getvalue()
        raise InputError(lines[0].removeprefix("error: "))


# --- training ---------------------------------------------------------------------------


# --- attacks and evaluation -------------------------------------------------------------


# --- command line -----------------------------------------------------------------------


# --- the test itself --------------------------------------------------------------------


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if warning:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mistake()
        told = [str(w.message) for w in caught]
        assert any(re.fullmatch(message, text) for text in told), told
        return
    with pytest.raises(InputError) as refusal:
        mistake()
    text = str(refusal.value)
    assert "\n" not in text and text.endswith("."), text
    assert re.fullmatch(message, text), text
