"""The command line's own part: what is printed, as a table and as JSON, and how errors look."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.release.sweeps import trials as made_trials
from ttl import cli
from ttl.cli import app

ROOT = Path(__file__).parents[1]


def json_of(*arguments):
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_cuts_are_listed_from_the_bottom_with_their_names():
    rows = json_of("cuts", "resnet18", "--granularity", "stage")
    assert [row["name"] for row in rows] == ["layer1", "layer2", "layer3", "layer4"]
    assert [row["channels"] for row in rows] == [64, 128, 256, 512]
    both = json_of("cuts", "resnet18")
    assert {row["granularity"] for row in both} == {"stage", "block"}


def test_cost_of_resnet50_is_the_papers():
    """Published: 23.51 M parameters and 4.09 G for two classes at 224 pixels; 8.55 M and 3.28 G at layer3."""
    rows = {
        (row["strategy"], row["cut"]): row
        for row in json_of("cost", "resnet50", "--strategy", "ftl", "--strategy", "ttl", "--cut", "layer3")
    }
    assert rows["ftl", "full"]["params"] == pytest.approx(23.51e6, rel=0.01)
    assert rows["ftl", "full"]["macs"] == pytest.approx(4.09e9, rel=0.01)
    assert rows["ttl", "layer3"]["params"] == pytest.approx(8.55e6, rel=0.01)
    assert rows["ttl", "layer3"]["macs"] == pytest.approx(3.28e9, rel=0.01)


def test_an_error_is_one_message_and_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ttl", "cuts", "resnet_fifty"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "timm has no model called 'resnet_fifty'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("command", ["leaderboard", "report"])
def test_tables_of_a_sweep_that_has_not_been_run_say_what_makes_them(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ttl", command])
    with pytest.raises(SystemExit):
        cli.main()
    assert "`ttl sweep` (or `dvc repro`) makes it" in " ".join(capsys.readouterr().err.split())


def test_a_dataset_that_the_last_sweep_has_not_is_no_empty_table(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    made_trials(seeds=1).write_parquet(tmp_path / "results" / "trials.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ttl", "leaderboard", "--dataset", "pneumonai"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the last sweep has no dataset 'pneumonai' (it has: pneumonia); run `ttl sweep`" in said


def test_every_command_of_the_readme_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    said = set(re.findall(r"\bttl ([a-z]+)\b", re.sub(r"ttl/\S+", "", (ROOT / "README.md").read_text())))
    assert {"sweep", "leaderboard", "release"} <= said
    assert said <= known
