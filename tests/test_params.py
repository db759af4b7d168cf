"""`params.yaml`: what is refused, and by which words."""

import pytest

from ttl.errors import ParamsError
from ttl.params import load_params

GOOD = "prepare: {toy: {source: phantom, input: x}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sweep: {seeds: []}", "sweep.seeds is empty"),
        ("sweep: {seeds: [1, 1]}", "each may stand there once"),
        ("sweep: {seeds: [-1]}", "seed is not negative"),
        ("sweep: {image_size: 8}", "image_size is 8; it must be at least 16"),
        ("sweep: {strategies: [ttl, all]}", "all"),
        ("sweep: {granularity: layer}", "layer"),
        ("sweep: {recipe: slow}", "no recipe is called 'slow'"),
        ("sweep: {recipe: {base: fast, epoch: 3}}", "no setting 'epoch'"),
        ("sweep: {recipe: 3}", "must be a name or a mapping"),
        ("sweep: {datasets: [other]}", "describes no dataset 'other'"),
        ("sweep: {bakbones: [x]}", "bakbones"),
        ("selection: {margin: 0.7}", "margin is 0.7"),
        ("swep: {}", "section 'swep'"),
        ("sweep: {shares: [0.5, 0]}", "sweep.shares has 0; a share is over 0, at most 1"),
        ("sweep: {shares: [1.0, 1]}", "each may stand there once"),
        ("sweep: {heads: []}", "sweep.heads is empty"),
        ("sweep: {heads: [mean]}", "it must be one of: pooled, flattened"),
        ("sweep: {optimizers: [lamb]}", "it must be one of: adam, adamw, sgd"),
        ("sweep: {resplit: test}", "it must be one of: none, val, all"),
        ("sweep: {slots: 0}", "slots is 0; it must be at least 1"),
        ("sweep: [", "not valid YAML"),
        ("sweep: {seeds: [0]}\nprepare: {}", 'params.yaml, line 3: found duplicate key "prepare"'),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(text, words, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(GOOD + text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert words in str(caught.value)


def test_options_override_the_file_and_nothing_else(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(GOOD + "sweep: {seeds: [0, 1], image_size: 48}")
    params = load_params(path, {"seeds": [7], "granularity": None})
    assert (params.sweep.seeds, params.sweep.image_size, params.sweep.granularity) == ((7,), 48, "stage")
    assert params.datasets == ("toy",)


def test_each_optimizer_is_a_recipe_of_its_own(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(GOOD + "sweep: {recipe: {base: fast, epochs: 3}, optimizers: [adamw, sgd]}")
    names = [recipe.name for recipe in load_params(path).sweep.made_recipes()]
    assert names == ["fast(epochs=3)", "fast(epochs=3,lr=0.01,optimizer=sgd)"]
    assert [one.name for one in load_params(path, {"optimizers": ["adamw"]}).sweep.made_recipes()] == names[
        :1
    ]


def test_a_folder_without_params_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="run ttl in the project's folder"):
        load_params()


def test_a_dataset_without_an_input_that_dvc_can_watch_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("prepare: {mine: {source: phantom}}")
    with pytest.raises(ParamsError, match=r"prepare\.mine\.input is not set.*ttl/data/sources/phantom\.py"):
        load_params(path)


def test_a_dataset_that_does_not_grow_by_drops_is_not_meant_by_any_name(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(GOOD + "intake: {hospital: {incoming: x, classes: [a, b], size: 32}}")
    params = load_params(path)
    assert params.intake_name(None) == params.intake_name("hospital") == "hospital"
    for name in ("toy", "../elsewhere", ""):
        with pytest.raises(ParamsError, match=r"describes no dataset .* under `intake`"):
            params.intake_name(name)
