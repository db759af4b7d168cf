"""Writing the chosen trial as a model folder: weights, description, ONNX and card."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ttl.data.dataset import PackedDataset
from ttl.data.steps import ImageSteps
from ttl.errors import ReleaseError, TrialError
from ttl.files import sha256
from ttl.release.card import write_card
from ttl.release.description import (
    CARD,
    DESCRIPTION,
    ONNX,
    WEIGHTS,
    Description,
    Int8Facts,
    OnnxFacts,
)
from ttl.release.int8 import Int8Rule, offer_int8
from ttl.release.onnx import OPSET, TOLERANCE, check_onnx, open_session, run_session, write_onnx
from ttl.release.parity import Parity
from ttl.release.predict import load_network
from ttl.search.results import ABLATIONS
from ttl.training.loop import image_steps, network_spec
from ttl.training.runs import COMPLETED, Runs
from ttl.training.trial import Trial

CHECKED_IMAGES = 32
"""Validation images on which ONNX's logits are compared with torch's."""

CALIBRATION_IMAGES, CALIBRATION_VOLUMES = 256, 32


def export_model(
    selection: Mapping[str, Any],
    *,
    runs: Path,
    dataset: PackedDataset,
    out: Path,
    int8_rule: Int8Rule = Int8Rule(),  # noqa: B008 - it is frozen
) -> Path:
    """Write the chosen model of one dataset to `out/<dataset>`, and return that folder.

    `selection` is the dataset's entry of `results/selection.json`; `runs` holds its trials. The same inputs
    give the same weights and ONNX; figures measured here, and whether an int8 file is offered, follow the
    machine. What was in the folder is replaced when all of the new is there. Raises
    `ReleaseError` where the trial, the selection and the dataset do not belong together, and where ONNX and
    torch differ by more than 1e-4 on real validation images.
    """
    name, revision = dataset.info.name, dataset.revision
    if (selection["data"]["name"], selection["data"]["revision"]) != (name, revision):
        raise ReleaseError(
            f"the selection was made on {selection['data']['name']} of revision "
            f"{selection['data']['revision']}, and the dataset in {dataset.root} is {name} of revision "
            f"{revision}; run `ttl sweep` on it first"
        )
    trial, result = _read_trial(Runs(runs), selection, revision)
    weights = runs / trial.trial_id / WEIGHTS
    network = load_network(network_spec(trial, dataset.info), weights)
    steps = image_steps(trial)

    parity = Parity(network, dataset, image_size=trial.image_size, steps=steps)
    images = parity.spread("val", CHECKED_IMAGES)
    calibration = CALIBRATION_VOLUMES if dataset.info.volumes else CALIBRATION_IMAGES
    partly = out / f".{name}.partial"
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    try:
        shutil.copyfile(weights, partly / WEIGHTS)
        write_onnx(network, images, partly / ONNX)
        check_onnx(network, partly / ONNX, images)
        session = open_session(partly / ONNX)
        change = parity.auroc_change(parity.run(partial(run_session, session)))
        int8 = offer_int8(
            partly,
            parity,
            calibration=parity.spread("train", calibration).numpy(),
            threshold=selection["figures"]["chosen"]["threshold"],
            rule=int8_rule,
        )
        description = _describe(
            selection,
            trial=trial,
            dataset=dataset,
            steps=steps,
            params=sum(parameter.numel() for parameter in network.parameters()),
            weights_sha256=sha256(weights),
            onnx=OnnxFacts(
                opset=OPSET,
                images=len(images),
                tolerance=TOLERANCE,
                sha256=sha256(partly / ONNX),
                val_auroc_change=change,
            ),
            int8=int8,
            versions=dict(sorted(result["versions"].items())),
        )
        (partly / DESCRIPTION).write_text(description.to_json(), encoding="utf-8")
        devices = {role: _device(Runs(runs), selection, role) for role in ("chosen", "reference")}
        card = write_card(selection, description=description, dataset=dataset, devices=devices)
        (partly / CARD).write_text(card, encoding="utf-8")
        return _put(partly, out / name)
    finally:
        shutil.rmtree(partly, ignore_errors=True)


def _read_trial(runs: Runs, selection: Mapping[str, Any], revision: str) -> tuple[Trial, dict[str, Any]]:
    """Return the released trial and its result, once they are what the selection says."""
    chosen, trial_id = selection["chosen"], selection["figures"]["chosen"]["trial_id"]
    result = _result(runs, trial_id)
    if result["status"] != COMPLETED:
        raise ReleaseError(
            f"trial {trial_id} was selected, and is {result['status']}: {result.get('error')}; "
            "run `ttl sweep` again"
        )
    trial = runs.trial(trial_id)
    if trial.share < 1 or trial.resplit != "none":
        raise ReleaseError(
            f"trial {trial_id} was trained on a share of the data, or on a split of its own: it is an "
            "experiment's, and no model to release"
        )
    known = {**ABLATIONS, **chosen}
    for field in ("backbone", "strategy", "cut", "image_size", "head"):
        if getattr(trial, field) != known[field]:
            raise ReleaseError(
                f"trial {trial_id} has {field} {getattr(trial, field)}, and the selection says "
                f"{known[field]}; run `ttl sweep` again"
            )
    if (trial.trial_id, trial.revision) != (trial_id, revision):
        raise ReleaseError(
            f"trial {trial_id} was trained by other code or on other data (revision {trial.revision}, now "
            f"{revision}); run `ttl sweep` again"
        )
    return trial, result


def _result(runs: Runs, trial_id: str) -> dict[str, Any]:
    try:
        result = runs.result(trial_id)
    except TrialError as error:
        raise ReleaseError(str(error)) from error
    if result is None:
        raise ReleaseError(f"{runs.folder(trial_id)} holds no result; run `ttl sweep` again")
    return result


def _device(runs: Runs, selection: Mapping[str, Any], role: str) -> str:
    """Return where a model's latency was measured."""
    return str(_result(runs, selection["figures"][role]["trial_id"])["device"])


def _describe(
    selection: Mapping[str, Any],
    *,
    trial: Trial,
    dataset: PackedDataset,
    steps: ImageSteps,
    params: int,
    weights_sha256: str,
    onnx: OnnxFacts,
    int8: Int8Facts | None,
    versions: dict[str, str],
) -> Description:
    info, threshold = dataset.info, selection["figures"]["chosen"]["threshold"]
    return Description(
        dataset=info.name,
        revision=trial.revision,
        synthetic=info.synthetic,
        task=info.task,
        classes=info.classes,
        trial_id=trial.trial_id,
        backbone=trial.backbone,
        # A file's folder is this machine's business; its content is in the checksum.
        source=Path(trial.source).name,
        source_sha256=trial.source_sha256,
        strategy=trial.strategy,
        cut=trial.cut,
        head=trial.head,
        image_size=trial.image_size,
        channels=info.shape[0],
        packed_size=info.shape[1:],
        fit=info.fit,
        window=info.window,
        steps=steps,
        threshold=tuple(threshold) if isinstance(threshold, Sequence) else threshold,
        params=params,
        weights_sha256=weights_sha256,
        onnx=onnx,
        int8=int8,
        versions=versions,
    )


def _put(partly: Path, folder: Path) -> Path:
    """Make `partly` the folder, in place of what was there."""
    if not folder.exists():
        return partly.rename(folder)
    old = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    partly.rename(folder)
    shutil.rmtree(old)
    return folder
