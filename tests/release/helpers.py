import contextlib
import subprocess
import warnings
from pathlib import Path

from dvc.cli import main as dvc_main

from ttl.data.steps import ImageSteps
from ttl.files import sha256
from ttl.release.description import DESCRIPTION, WEIGHTS, Description, OnnxFacts

DVC_YAML = """\
stages:
  prepare:
    cmd: python make_data.py
    deps: [make_data.py]
    outs: [data]
  sweep:
    cmd: python make_models.py
    deps: [make_models.py, data]
    params: [sweep]
    outs:
    - models:
        persist: true
artifacts:
  phantom:
    path: models/phantom
    type: model
  second:
    path: models/second
    type: model
"""


def run(folder: Path, *command: str) -> str:
    if command[0] == "dvc":
        # In this process: starting DVC takes longer than most of its work here.
        with contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert dvc_main(list(command[1:])) == 0, command
        return ""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def describe(dataset: str, weights: Path, **changes: object) -> Description:
    values: dict = {
        "dataset": dataset,
        "revision": "f00d",
        "synthetic": True,
        "task": "binary",
        "classes": ("normal", "finding"),
        "trial_id": "0123456789abcdef",
        "backbone": "efficientnet_lite0",
        "source": "imagenet",
        "source_sha256": "",
        "strategy": "ttl",
        "cut": "blocks.2",
        "image_size": 64,
        "channels": 1,
        "packed_size": (64, 64),
        "fit": "pad",
        "steps": ImageSteps(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", resize=1.0),
        "threshold": 0.4,
        "params": 55586,
        "weights_sha256": sha256(weights),
        "onnx": OnnxFacts(opset=18, images=8, tolerance=1e-4, sha256="0" * 64),
        "versions": {"torch": "2.13"},
    }
    return Description(**{**values, **changes})


def write_model(folder: Path, content: str) -> None:
    """Write a model folder that the registry takes for one: what is in the weights does not matter to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(content)
    (folder / DESCRIPTION).write_text(describe(folder.name, folder / WEIGHTS).to_json())
