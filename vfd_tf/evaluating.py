"""The mode `evaluate`: a model file and a data set -> accuracies under attack."""

import hashlib
import os
import pathlib
import shlex
import sys

import numpy as np

import vfd_tf
from vfd_tf import config, datasets, evaluation, inputs, network, running
from vfd_tf.distillation import NoDistillation
from vfd_tf.evaluation import report
from vfd_tf.experiment import Evaluating
from vfd_tf.methods import Natural
from vfd_tf.part import InputError
from vfd_tf.run_directory import provenance


def run(values, words: list[str]) -> None:
    """Accuracy of a .keras file under attack: --model=FILE --eval_attacks=autoattack."""
    path = values.model or (words[0] if len(words) == 1 else None)
    if not path:
        raise InputError("Name the model: python run.py evaluate --model=FILE.keras")
    plan = config.evaluating(values)
    described = {
        name: evaluation.protocol(name, plan.epsilon, plan.norm).describe()
        for name in plan.attacks
    }
    model = network.load(path)
    data = datasets.load(values.dataset, values.data_dir)
    test = data.test[: plan.max_images]
    check_model(model, path, data)
    check_writable(values.save_adversarial)
    facts = _facts(values, path, test, plan, described)
    surrogate, columns = _black_box(values, data, described, facts)
    folder = values.eval_dir or os.path.splitext(path)[0] + ".eval"
    journal = evaluation.Journal(os.path.join(folder, "journal"), facts["owner"], columns)
    result = evaluation.evaluate(
        model,
        test,
        plan.attacks,
        plan.epsilon,
        plan.norm,
        seed=values.eval_seed,
        batch_size=plan.batch_size,
        verbose=1,
        early_stop=values.eval_early_stop,
        surrogate=surrogate,
        referees=values.referee == "cleverhans",
        craft_precision=values.craft_precision,
        strict=values.strict,
        journal=journal,
        examples=bool(values.save_adversarial),
    )
    title = f"{path}, {data.name}, {len(test)} test images"
    if values.craft_precision:
        title += f", crafted in {values.craft_precision}"
    if surrogate is not None:
        facts["surrogate"]["accuracy"] = 100 * float(result.surrogate_clean.mean())
        title += f", surrogate {facts['surrogate']['accuracy']:.2f} % right"
    _report(folder, result, facts, title)
    if values.save_adversarial:
        save_examples(values.save_adversarial, test, result)


def _report(folder, result, facts, title):
    print("\n" + report.write(folder, result, facts, title))
    for name, entry in result.referee.items():
        print(_referee(name, entry))
    print(f"\n{os.path.join(folder, 'results.json')}")


def check_model(model, path: str, data) -> None:
    """Raises `InputError` for a model of other images or classes than the data set's."""
    network.tap(model)  # one input, logits as the only output
    plain = network.classifier(model)
    if not hasattr(plain, "input_shape"):
        return  # subclassed: the first batch will tell
    shape, classes = plain.input_shape[1:], plain.output_shape[-1]
    if not inputs.takes(shape, data.input_shape) or classes != data.num_classes:
        raise InputError(
            f"{path} takes images {tuple(shape)} of {classes} classes; {data.name} has "
            f"{tuple(data.input_shape)} and {data.num_classes}: choose another --dataset."
        )


def check_writable(path: str | None) -> None:
    """Raises `InputError` for a file in a folder that isn't there, before the work."""
    folder = os.path.dirname(path or "") or "."
    if not os.path.isdir(folder):
        raise InputError(f"There is no folder {folder} for {path}: make it first.")


def save_examples(path: str, test, result) -> None:
    """Writes x, y and x_adv of every attack, in order, as float32 arrays."""
    arrays = {f"x_adv/{name}": x_adv for name, x_adv in result.examples.items()}
    with open(path, "wb") as file:
        np.savez_compressed(file, x=test.floats(), y=test.y, **arrays)


def _facts(values, path, test, plan, described):
    """What repeats the evaluation; "owner": what its journal depends on."""
    versions = provenance()
    owner = {
        "vfd_tf": f"{vfd_tf.__version__}, sources {_sources()}",
        "tensorflow": versions["tensorflow"],
        "keras": versions["keras"],
        "model_sha256": _sha256(path),
        "dataset": values.dataset,
        "test_data": test.digest,
        "images": len(test),
        "seed": values.eval_seed,
        "batch_size": plan.batch_size,
        "early_stop": values.eval_early_stop,
        "craft_precision": values.craft_precision,
    }
    return {
        "owner": owner,
        "model": path,
        "order": "official"
        if values.dataset in datasets.DATASETS
        else "shuffled once, seed 0, as saved with --save_adversarial",
        "attacks": described,
        "threat_model": {"norm": plan.norm, "epsilon": plan.epsilon},
        "command": shlex.join(["python", "run.py", *sys.argv[1:]]),
        "verdicts": "float32 forward",
        **versions,
    }


def _sources() -> str:
    """Short hash of this package's code: verdicts of another code are not reused."""
    sha, root = hashlib.sha256(), pathlib.Path(vfd_tf.__file__).parent
    for path in sorted(root.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def _sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _referee(name, entry) -> str:
    return (
        f"cleverhans {name}, no random start, {entry['images']} images: "
        f"{entry['cleverhans']:.2f}%, ours {entry['ours']:.2f}%, "
        f"{entry['verdicts_that_differ']} verdicts differ"
    )


def _black_box(values, data, described, facts):
    """The surrogate, or None, and what its columns and all others are, by name.

    Writes file and hash into the facts.
    """
    if not values.surrogate:
        return None, described
    path = _surrogate(values, data)
    surrogate, mark = network.load(path), _sha256(path)
    check_model(surrogate, path, data)
    facts["surrogate"] = {"file": path, "sha256": mark}
    columns = {f"transfer-{n}": f"{d} {mark}" for n, d in described.items()}
    return surrogate, described | columns


def _surrogate(values, data) -> str:
    """The file of the surrogate; "auto" trains a natural one first, or finds it."""
    if values.surrogate != "auto":
        return values.surrogate
    values.arch = values.surrogate_arch
    values.method, values.distill = ["natural"], ["none"]
    experiment = config.experiments(values)[0].replace(
        method=Natural(), distillation=NoDistillation(), seed=values.teacher_seed
    )
    setting = running.Setting(
        data=data,
        evaluating=Evaluating(attacks=(), max_images=values.max_images),
        root=values.runs,
        panel_every=0,
        describe=config.flagfile,
    )
    running.check(experiment, setting)
    return running.run(experiment, setting).student("best")
