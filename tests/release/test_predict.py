import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.intake.conftest import SPEC, as_bytes, dataset
from tests.release.helpers import run
from tests.release.trained import Trained
from ttl.cache import cache_folder
from ttl.errors import DataError, ReleaseError
from ttl.intake.dicom import read
from ttl.release.description import DESCRIPTION, read_description
from ttl.release.predict import LoadedModel, load_model, predict, resolve_model
from ttl.release.registry import release
from ttl.training.runs import Runs


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


@pytest.fixture(scope="module")
def pictures(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The validation images as files, by sample."""
    folder = tmp_path_factory.mktemp("pictures")
    indices = trained.dataset.indices("val")
    paths = {}
    for sample, pixels in zip(
        trained.dataset.samples["sample_id"][indices], trained.dataset.read(indices), strict=True
    ):
        paths[sample] = folder / f"{sample}.png"
        Image.fromarray(pixels[0]).save(paths[sample])
    return paths


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_files_get_what_the_training_recorded(
    trained: Trained, exported: Path, pictures: dict[str, Path], engine: str
) -> None:
    recorded = Runs(trained.runs).predictions(trained.trial.trial_id)
    scores = dict(recorded.filter(split="val").select("sample_id", "scores").iter_rows())
    found = predict(load_model(exported, engine=engine), list(pictures.values()))
    assert [one.image for one in found] == list(pictures.values())
    assert len(found) == 40
    for sample, one in zip(pictures, found, strict=True):
        assert list(one.probabilities) == ["plain", "square"]
        assert list(one.probabilities.values()) == pytest.approx(scores[sample], abs=1e-5)
        assert one.predicted == ("square" if one.probabilities["square"] >= 0.4375 else "plain")
    assert np.std([one.probabilities["square"] for one in found]) > 1e-4


def test_the_threshold_decides_not_the_likelier_class(exported: Path, pictures: dict[str, Path]) -> None:
    model = load_model(exported)
    image = next(iter(pictures.values()))
    for logits, threshold, expected in [
        ([0.1, 0.0], 0.4, "square"),
        ([0.1, 0.0], 0.6, "plain"),
        ([0.0, 0.0], 0.5, "square"),
        ([0.0, 0.1], 0.6, "plain"),
        ([0.0, 0.1], None, "square"),
    ]:
        fixed = LoadedModel(
            folder=exported,
            description=model.description,
            threshold=threshold,
            engine="onnx",
            forward=lambda images, row=logits: np.array([row] * len(images), dtype=np.float32),
        )
        assert predict(fixed, [image])[0].predicted == expected


def test_order_and_batches_do_not_matter(exported: Path, pictures: dict[str, Path]) -> None:
    model = load_model(exported)
    paths = list(pictures.values())
    alone = {one.image: one for path in paths[:5] for one in predict(model, [path])}
    many = predict(model, paths[::-1] + paths)
    assert len(many) == 80
    for one in many:
        if one.image in alone:
            expected = list(alone[one.image].probabilities.values())
            assert list(one.probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert predict(model, []) == []


def test_a_colour_picture_of_another_shape_is_brought_to_the_packed_size(
    exported: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (90, 50, 3), dtype=np.uint8)).save(tmp_path / "tall.jpg")
    found = predict(load_model(exported), [tmp_path / "tall.jpg"])[0]
    assert sum(found.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("window", "spec"), [("voi", {}), ([2000.0, 1500.0], {"centre": 2000, "width": 1500})]
)
def test_a_film_is_read_as_the_intake_reads_it_whoever_it_names(
    copy: Path, tmp_path: Path, window: object, spec: dict[str, Any]
) -> None:
    window_of_file = {"WindowCenter": "1500", "WindowWidth": "900"}
    made = dataset(PatientName="Hart^Ada", PatientIdentityRemoved=None, **window_of_file)
    (tmp_path / "film").write_bytes(as_bytes(made))
    with pytest.raises(DataError, match=r"film: it is DICOM, and model\.json does not say"):
        predict(load_model(copy), [tmp_path / "film"])
    values = json.loads((copy / DESCRIPTION).read_text())
    (copy / DESCRIPTION).write_text(json.dumps(values | {"window": window}))
    taken = read(as_bytes(dataset(**window_of_file)), replace(SPEC, **spec))
    Image.fromarray(taken.pixels).save(tmp_path / "film.png")
    film, png = predict(load_model(copy), [tmp_path / "film", tmp_path / "film.png"])
    assert film.probabilities == png.probabilities
    (tmp_path / "two").write_bytes(as_bytes(dataset(NumberOfFrames="2")))
    with pytest.raises(DataError, match=r"two: it has 2 frames"):
        predict(load_model(copy), [tmp_path / "two"])


def test_a_missing_or_damaged_image_is_named(
    exported: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    model = load_model(exported)
    with pytest.raises(DataError, match=r"nowhere\.png: the image is missing"):
        predict(model, [*pictures.values(), tmp_path / "nowhere.png"])
    (tmp_path / "cut.png").write_bytes(next(iter(pictures.values())).read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png: the image cannot be read"):
        predict(model, [tmp_path / "cut.png"])
    with pytest.raises(DataError, match="cannot be read"):
        predict(model, [tmp_path])


@pytest.mark.parametrize(
    ("engine", "name"), [("onnx", "model.onnx"), ("torch", "model.safetensors"), ("auto", "model.onnx")]
)
def test_one_changed_byte_is_found(copy: Path, engine: str, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=rf"{name} has SHA-256 .* damaged or of another model"):
        load_model(copy, engine=engine)


def test_torch_takes_over_where_there_is_no_onnx_file(copy: Path) -> None:
    assert load_model(copy).engine == "onnx"
    (copy / "model.onnx").unlink()
    assert load_model(copy).engine == "torch"
    with pytest.raises(ReleaseError, match=r"model\.onnx is missing"):
        load_model(copy, engine="onnx")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ReleaseError, match=r"model\.safetensors is missing"):
        load_model(copy)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"format": 1', '"format": 2', "its format is 2 and this version of ttl reads 1"),
        ('"image_size": 32', '"image_size": "big"', "image_size: .* valid integer"),
        ('"threshold": 0.4375,', "", "threshold: Field required"),
        ('"resize": 1.25', '"resize": null', r"steps\.resize: .* valid number"),
        ('"fit": "pad"', '"fit": "bend"', "fit: Input should be 'pad', 'crop' or 'stretch'"),
        ("{", "", "it is not JSON"),
    ],
)
def test_a_damaged_description_says_what_is_wrong(copy: Path, old: str, new: str, reason: str) -> None:
    text = (copy / "model.json").read_text()
    assert old in text
    (copy / "model.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ReleaseError, match=rf"model\.json cannot be read: {reason}"):
        load_model(copy)


def test_a_model_is_named_by_its_folder(
    exported: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_model(str(exported), repo) == exported
    monkeypatch.chdir(exported.parent)
    assert resolve_model(exported.name, repo) == Path(exported.name)
    for text in (str(tmp_path), "./nothing"):
        with pytest.raises(ReleaseError, match=r"holds no model: model\.json is missing"):
            resolve_model(text, repo)
    with pytest.raises(ReleaseError, match="no release is called 'models/nothing'"):
        resolve_model("models/nothing", repo)


def test_a_release_is_fetched_and_predicts(
    exported: Path, repo: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    target = repo / "models" / "squares"
    shutil.copytree(exported, target)
    listed = "\n  squares:\n    path: models/squares\n    type: model\n"
    (repo / "dvc.yaml").write_text((repo / "dvc.yaml").read_text().rstrip() + listed)
    run(repo, "dvc", "commit", "-q", "--force")
    assert release("squares", repo=repo).version == "v1.0.0"
    shutil.rmtree(target)
    expected = predict(load_model(exported), list(pictures.values())[:3])
    for name in ("squares", "squares@v1.0.0", "squares#challenger"):
        folder = resolve_model(name, repo)
        assert folder.parent == cache_folder("releases")
        assert read_description(folder).dataset == "squares"
    assert predict(load_model(folder), list(pictures.values())[:3]) == expected
