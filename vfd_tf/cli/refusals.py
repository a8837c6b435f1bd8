"""What absl says of flags that it can't read, as one sentence."""

import contextlib
import difflib

import absl.flags

from vfd_tf.hyperparameters import InputError


@contextlib.contextmanager
def of_flags(values):
    """Inside, what reading these flags raises becomes an `InputError`."""
    try:
        yield
    except absl.flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1)
        hint = f"the nearest name is --{near[0]}" if near else "--help lists all"
        raise InputError(f"Unknown flag --{error.flagname}; {hint}.") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            "The --flagfile is no text file; name one with a flag a line, such as "
            "flags/demo.flags."
        ) from error
    except absl.flags.CantOpenFlagFileError as error:
        reason = str(error).split("]")[-1].strip()
        raise InputError(f"The --flagfile can't be opened: {reason}.") from error
    except absl.flags.Error as error:
        raise InputError(f"{str(error).rstrip('.')}.") from error
