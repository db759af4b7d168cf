import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.release.conftest import OFFERED
from tests.release.trained import CLASSES, NAME, Trained
from ttl.data.transforms import prepare
from ttl.errors import ReleaseError
from ttl.evaluation.metrics import auroc
from ttl.files import sha256
from ttl.models.network import NetworkSpec, build_network
from ttl.release.description import read_description
from ttl.release.export import export_model
from ttl.release.int8 import Int8Rule
from ttl.release.onnx import check_onnx, open_session, run_session
from ttl.release.predict import load_model, load_network
from ttl.training.runs import Runs

FILES = ["card.md", "model.int8.onnx", "model.json", "model.onnx", "model.safetensors"]

ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np
from ttl.data.dataset import PackedDataset
from ttl.release.export import export_model
from ttl.release.int8 import Int8Rule
from ttl.release.predict import load_model

root, out, written = map(Path, sys.argv[1:])
dataset = PackedDataset.open(root / "datasets" / "squares")
selection = json.loads((out / "selection.json").read_text())
pixels = dataset.read(dataset.indices("test"))
answers = {e: load_model(written, engine=e).probabilities(pixels).tolist() for e in ("onnx", "torch")}
rule = Int8Rule(largest_auroc_change=0.05, least_gain=0)
export_model(selection, runs=root / "runs", dataset=dataset, out=out, int8_rule=rule)
print(json.dumps(answers))
"""


def changed(trained: Trained, *path: str, value: object) -> dict:
    selection = copy.deepcopy(trained.selection)
    inner = selection
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return selection


def test_the_folder_holds_the_trial_and_what_rebuilds_it(trained: Trained, exported: Path) -> None:
    assert exported == trained.root / "models" / NAME
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert [path.name for path in exported.parent.iterdir()] == [NAME]
    weights = trained.runs / trained.trial.trial_id / "model.safetensors"
    assert (exported / "model.safetensors").read_bytes() == weights.read_bytes()
    known = read_description(exported)
    assert (known.dataset, known.revision, known.synthetic) == (NAME, trained.dataset.revision, True)
    assert known.network == "efficientnet_lite0 ttl blocks.1"
    assert (known.classes, known.threshold, known.num_classes) == (CLASSES, 0.4375, 2)
    assert (known.channels, known.packed_size, known.fit, known.image_size) == (1, (28, 28), "pad", 32)
    assert known.steps.mean == (0.485, 0.456, 0.406)
    assert known.steps.resize == 1.25
    # The paper's prototype counts 15,842 parameters at this cut, in the table of stage cuts.
    assert known.params == 15842
    assert known.weights_sha256 == sha256(weights)
    assert (known.source, known.source_sha256) == ("own.safetensors", trained.trial.source_sha256)
    assert known.onnx.sha256 == sha256(exported / "model.onnx")
    assert set(known.versions) == {"python", "torch", "timm", "accelerate", "numpy"}
    assert json.loads((exported / "model.json").read_text())["num_classes"] == 2


def test_weights_come_back_bit_for_bit(trained: Trained, exported: Path) -> None:
    spec = NetworkSpec(
        backbone="efficientnet_lite0", strategy="ttl", cut="blocks.1", num_classes=2, image_size=32
    )
    by_hand = build_network(spec, pretrained=False, seed=7)
    by_hand.net.load_state_dict(load_file(trained.runs / trained.trial.trial_id / "model.safetensors"))
    model = load_model(exported, engine="torch")
    pixels = trained.dataset.read(trained.dataset.indices("val"))
    images = prepare(torch.from_numpy(pixels), image_size=32, steps=model.description.steps)
    with torch.inference_mode():
        expected = by_hand.eval()(images).numpy()
    np.testing.assert_array_equal(model.logits(pixels), expected)
    assert expected.std() > 1e-3


def test_onnx_agrees_with_torch_on_images_it_was_not_checked_on(trained: Trained, exported: Path) -> None:
    pixels = trained.dataset.read(trained.dataset.indices("test"))
    both = [load_model(exported, engine=engine).logits(pixels) for engine in ("onnx", "torch")]
    assert np.abs(both[0] - both[1]).max() < 1e-4
    session = open_session(exported / "model.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", 3, 32, 32])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 2])]
    assert run_session(session, np.zeros((5, 3, 32, 32), dtype=np.float32)).shape == (5, 2)


def test_another_process_writes_the_same_bytes_and_gives_the_same_answers(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "selection.json").write_text(json.dumps(trained.selection))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(trained.root), str(tmp_path), str(exported)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "42"},
    )
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / NAME / name).read_bytes() == (exported / name).read_bytes(), name
    pixels = trained.dataset.read(trained.dataset.indices("test"))
    for engine, answers in json.loads(done.stdout).items():
        ours = load_model(exported, engine=engine).probabilities(pixels)
        np.testing.assert_allclose(np.array(answers), ours, rtol=0, atol=1e-6)


def test_int8_is_the_same_network_nearly_and_smaller(trained: Trained, exported: Path) -> None:
    facts = read_description(exported).int8
    assert facts is not None
    assert facts.sha256 == sha256(exported / "model.int8.onnx")
    rows = trained.dataset.indices("val")
    pixels, labels = trained.dataset.read(rows), trained.dataset.samples["label"].to_numpy()[rows]
    int8, exact = (load_model(exported, engine=engine) for engine in ("int8", "torch"))
    ours, theirs = (model.probabilities(pixels) for model in (int8, exact))
    assert (facts.images, facts.calibration) == (len(rows), len(trained.dataset.indices("train")))
    assert facts.val_auroc_change == pytest.approx(auroc(labels, ours) - auroc(labels, theirs), abs=1e-9)
    assert int8.threshold == facts.threshold
    assert exact.threshold == 0.4375
    same = (ours[:, 1] >= facts.threshold) == (theirs[:, 1] >= 0.4375)
    assert facts.agreement == pytest.approx(same.mean())
    assert 1e-4 < np.abs(ours - theirs).max() < 0.2
    weights = onnx.load(exported / "model.int8.onnx").graph.initializer
    assert sum(values.data_type == onnx.TensorProto.INT8 for values in weights) >= 10
    assert "8-bit weights" in (exported / "card.md").read_text()


@pytest.mark.parametrize(
    "rule",
    [Int8Rule(largest_auroc_change=0.05, least_gain=1e6), Int8Rule(largest_auroc_change=-1, least_gain=0)],
)
def test_int8_is_not_offered_where_it_is_slow_or_worse(
    rule: Int8Rule, trained: Trained, tmp_path: Path
) -> None:
    out = export_model(
        trained.selection, runs=trained.runs, dataset=trained.dataset, out=tmp_path, int8_rule=rule
    )
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if "int8" not in name]
    assert read_description(out).int8 is None
    assert "8-bit" not in (out / "card.md").read_text()
    with pytest.raises(ReleaseError, match="no int8 file"):
        load_model(out, engine="int8")


def test_no_path_of_this_machine_is_in_any_file(trained: Trained, exported: Path) -> None:
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(trained.root).encode() not in content, path.name
        assert str(Path(torch.__file__).parents[1]).encode() not in content, path.name
        assert str(Path.cwd()).encode() not in content, path.name


def test_an_older_model_is_replaced_and_a_failed_export_leaves_it(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "models"
    (out / NAME).mkdir(parents=True)
    (out / NAME / "stale.txt").write_text("old")
    (out / f".{NAME}.partial").mkdir()
    broken = changed(trained, "figures", "reference", "trial_id", value="f" * 16)
    with pytest.raises(ReleaseError, match="ffff holds no result"):
        export_model(broken, runs=trained.runs, dataset=trained.dataset, out=out)
    assert [path.name for path in out.rglob("*")] == [NAME, "stale.txt"]
    export_model(trained.selection, runs=trained.runs, dataset=trained.dataset, out=out, int8_rule=OFFERED)
    assert sorted(path.name for path in out.rglob("*")) == sorted([NAME, *FILES])


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (
            ("data", "revision"),
            "0123456789abcdef",
            "selection was made on squares of revision 0123456789abcdef",
        ),
        (("data", "name"), "circles", "selection was made on circles"),
        (("chosen", "cut"), "blocks.2", r"has cut blocks\.1, and the selection says blocks\.2"),
        (("figures", "chosen", "trial_id"), "f" * 16, "holds no result"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    trained: Trained, tmp_path: Path, path: tuple[str, ...], value: str, reason: str
) -> None:
    with pytest.raises(ReleaseError, match=reason):
        export_model(
            changed(trained, *path, value=value), runs=trained.runs, dataset=trained.dataset, out=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be read"),
        (
            lambda path: save_file({"conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path),
            "not of efficientnet_lite0 ttl blocks.1: .*Missing key",
        ),
    ],
)
def test_damaged_weights_of_the_trial(trained: Trained, tmp_path: Path, damage, reason: str) -> None:
    shutil.copytree(trained.runs, tmp_path / "runs")
    damage(tmp_path / "runs" / trained.trial.trial_id / "model.safetensors")
    with pytest.raises(ReleaseError, match=reason):
        export_model(
            trained.selection, runs=tmp_path / "runs", dataset=trained.dataset, out=tmp_path / "models"
        )


def test_a_failed_trial_is_not_exported(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.runs, tmp_path / "runs")
    Runs(tmp_path / "runs").publish_failure(trained.trial, "the loss is not finite")
    with pytest.raises(ReleaseError, match="is failed: the loss is not finite"):
        export_model(
            trained.selection, runs=tmp_path / "runs", dataset=trained.dataset, out=tmp_path / "models"
        )


def test_an_onnx_file_that_differs_is_refused(trained: Trained, exported: Path, tmp_path: Path) -> None:
    known = read_description(exported)
    spec = NetworkSpec(backbone=known.backbone, strategy="ttl", cut=known.cut, num_classes=2, image_size=32)
    network = load_network(spec, exported / "model.safetensors")
    pixels = torch.from_numpy(trained.dataset.read(trained.dataset.indices("val")))
    images = prepare(pixels, image_size=32, steps=known.steps)
    assert check_onnx(network, exported / "model.onnx", images) < 1e-4
    graph = onnx.load(exported / "model.onnx")
    bias = next(tensor for tensor in graph.graph.initializer if tensor.dims == [2])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 2e-4, bias.name))
    onnx.save(graph, tmp_path / "off.onnx")
    with pytest.raises(ReleaseError, match=r"differs from the network by 0\.0002 on 40 images"):
        check_onnx(network, tmp_path / "off.onnx", images)
