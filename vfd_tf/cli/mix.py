"""The mode `mix`: a vanilla and a robust network -> files of both as one classifier.

What is written can be evaluated, plotted and loaded as any other `.keras` file. mix.json
beside the files says what each was made of.
"""

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator

import keras

from vfd_tf import evaluation, files
from vfd_tf.cli import evaluate, flags
from vfd_tf.cli.mode_flags import MIX_KINDS
from vfd_tf.data import datasets
from vfd_tf.experiments.mixtures import held_out_logits
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers, pairs
from vfd_tf.models.mixed_nuts import KEPT
from vfd_tf.models.mixture import OtherArchitecture, fit_nuts
from vfd_tf.versions import __version__

FILE = "mix.json"
_REMEDY = "remove it, or choose another --mix_dir"
_DATA = ("dataset", "data_dir", "image_size", "hold")
_EVALUATION = ("epsilon", "norm", "eval_epsilon", "eval_norm", "eval_attacks")
_EVALUATION += ("eval_batch_size", "max_images")
_WHERE_FITTED = ("mix_kept", "mix_attack", "mix_temperature")
_ELSEWHERE = ("mix_weights",)


def run(values, words: list[str]) -> None:
    """A vanilla and a robust network as one: --mix_kind=probabilities, nuts or weights."""
    if len(words) != 2:
        raise InputError(
            "Name two networks, files or run directories: python run.py mix "
            "VANILLA.keras ROBUST.keras."
        )
    _warn(values)
    kind, folder = MIX_KINDS[values.mix_kind], values.mix_dir
    make = _fitted if kind.fitted else _plain
    shares = _shares(values)
    paths = dict(zip(("vanilla", "robust"), map(evaluate.model_file, words), strict=True))
    networks = {role: classifiers.from_path(path) for role, path in paths.items()}
    made_of = {r: {"file": p, "sha256": files.sha256(p)} for r, p in paths.items()}
    files.check_writable(folder)
    with files.owned(folder, wait=True, what="writes"):
        files.read_json(os.path.join(folder, FILE), _REMEDY)  # refuses a damaged one
        written = []
        for name, model, facts in make(values, networks, paths, shares):
            written.append(_save(model, folder, name))
            _note(folder, name, {**facts, **made_of, "sha256": files.sha256(written[-1])})
    commands = [_command(values, path, paths["robust"]) for path in written]
    print("\nEvaluate with:\n" + "\n".join(commands))


def _warn(values):
    """Says which flags of this mode have no effect on this kind."""
    fitted = MIX_KINDS[values.mix_kind].fitted
    for name in _ELSEWHERE if fitted else _WHERE_FITTED:
        if values[name].present:
            warnings.warn(
                f"--{name} has no effect with --mix_kind={values.mix_kind}.", stacklevel=2
            )


def _shares(values) -> list[float]:
    """The numbers of --mix_weights, or of --mix_kept, of which none is 0; each once."""
    fitted = MIX_KINDS[values.mix_kind].fitted
    name = "mix_kept" if fitted else "mix_weights"
    try:
        found = list(dict.fromkeys(map(float, values[name].value)))
    except ValueError as error:
        raise InputError(f"--{name} must be numbers from 0 to 1: {error}.") from error
    if not found or not all(0 <= share <= 1 for share in found):
        given = ",".join(values[name].value)
        raise InputError(f"--{name}={given} must be numbers from 0 to 1, such as 0.8.")
    if fitted and 0 in found:
        raise InputError(f"--{name} must be above 0, such as {KEPT}: 0 keeps no answer.")
    return found


def _plain(values, networks, paths, weights) -> Iterator[tuple[str, keras.Model, dict]]:
    """Mixtures whose only number is the weight of the robust network."""
    join = MIX_KINDS[values.mix_kind].make
    for weight in weights:
        try:
            model = join(networks["vanilla"], networks["robust"], weight)
        except OtherArchitecture as error:
            fix = "mix their probabilities, --mix_kind=probabilities"
            raise OtherArchitecture(error.why, fix) from error
        yield _name(values, weight), model, {"kind": values.mix_kind, "weight": weight}


def _fitted(values, networks, paths, shares) -> Iterator[tuple[str, keras.Model, dict]]:
    """MixedNUTS with numbers fitted on the validation split, for every share kept."""
    pairs.pair(networks["vanilla"], networks["robust"], 1)  # refused before the attack
    clean, attacked, y, facts = _held_out(values, networks, paths)
    for kept in shares:
        fit = fit_nuts(clean, attacked, y, kept=kept)
        model = MIX_KINDS[values.mix_kind].make(
            *(networks[role] for role in ("vanilla", "robust")),
            **fit.numbers,
            temperature=values.mix_temperature,
        )
        name = _name(values, kept)
        numbers = ", ".join(f"{key} {value:.6g}" for key, value in fit.numbers.items())
        print(
            f"{name}: {numbers}; no vanilla network overrules {100 * fit.kept:.2f} % of "
            f"the right answers under {values.mix_attack} and {100 * fit.errors:.2f} % of "
            "the wrong ones on clean images"
        )
        told = {"temperature": values.mix_temperature, "asked": kept, **vars(fit)}
        yield name, model, {"kind": values.mix_kind, **told, **facts}


def _held_out(values, networks, paths):
    """Logits of the robust network on the validation split, clean and attacked; labels."""
    plan = flags.evaluation_plan(values)
    threat = {"epsilon": plan.epsilon, "norm": plan.norm}
    described = evaluation.protocol(values.mix_attack, **threat).describe()
    more = {name: values[name].value for name in _DATA[1:]}
    data = datasets.load(values.dataset, **more)
    for role, model in networks.items():
        evaluate.check_model(model, paths[role], data)
    held_out, robust = data.validation, networks["robust"]
    x, y = held_out.floats(), held_out.y
    print(f"{values.mix_attack} on {len(y)} validation images of {data.name}")
    size = plan.batch_size
    logits = held_out_logits(robust, x, y, values.mix_attack, batch_size=size, **threat)
    facts = {"dataset": data.name, "images": len(y), "validation_data": held_out.digest}
    facts |= {"attack": described, **threat}
    return *logits, y, facts


def _name(values, share) -> str:
    return f"{values.mix_kind}-{share:.12g}.keras"


def _save(model, folder, name) -> str:
    """The path of the model's file."""
    path = os.path.join(folder, name)
    with files.replaced(path, ".part.keras") as part:
        model.save(part)
    return path


def _note(folder, name, facts):
    """Adds what a file was made of to mix.json."""
    path = os.path.join(folder, FILE)
    known = files.read_json(path, _REMEDY)
    command = shlex.join(["python", "run.py", *sys.argv[1:]])
    known[name] = {**facts, "command": command, "vfd_tf": __version__}
    with files.replaced(path) as part, open(part, "w") as file:
        json.dump(known, file, indent=2)


def _command(values, path, robust) -> str:
    """The command that evaluates a file, with the flags that were given.

    PGD alone overrates MixedNUTS, whose gradients vanish where the robust network is sure.
    """
    given = [name for name in (*_DATA, *_EVALUATION) if values[name].present]
    own = [values[name].serialize() for name in dict.fromkeys(["dataset", *given])]
    if values.mix_kind == "nuts" and "eval_attacks" not in given:
        own += ["--eval_attacks=pgd20,autoattack", f"--surrogate={robust}"]
    return shlex.join(["python", "run.py", "evaluate", f"--model={path}", *own])
