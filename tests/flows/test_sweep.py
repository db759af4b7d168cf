"""Sweeps from the command line to the tables: real trainers, a real Prefect server, kills and failures."""

import json
import time

import psutil

from ttl.search.results import read_selections, read_trials

TIMES = ("train_seconds", "latency_ms")

CUTS = ["blocks.0", "blocks.1", "blocks.2"]
"""The cuts that a sweep of these tests looks at, where more would only take longer."""


def table(project):
    return read_trials(project.folder / "results").drop(TIMES).sort("trial_id")


def finished(project):
    return {
        path.parent.name: path.stat().st_mtime_ns for path in (project.folder / "runs").glob("*/result.json")
    }


def test_a_killed_sweep_goes_on_where_it_was_and_ends_as_an_uninterrupted_one(make_project):
    killed, whole = make_project("killed", cuts=CUTS), make_project("whole", cuts=CUTS)
    process = killed.start("sweep")
    below = psutil.Process(process.pid)
    watched = []
    for line in process.stdout:
        if line.startswith("[1/"):
            watched = below.children(recursive=True)
            process.kill()
            break
    process.wait()
    assert watched, "the sweep ended before it was killed"
    _, alive = psutil.wait_procs(watched, timeout=15)
    assert not alive
    before = finished(killed)
    assert 1 <= len(before) < 4
    status, output = killed.run("sweep")
    assert status == 0, output
    after = finished(killed)
    assert before.items() <= after.items()
    assert f"{4 - len(before)} trial" in output

    status, output = whole.run("sweep")
    assert status == 0, output
    assert "ttl" in output
    assert table(whole).height == 4
    assert table(killed).equals(table(whole))
    chosen = [read_selections(one.folder / "results")["toy"]["figures"] for one in (killed, whole)]
    assert chosen[0] == chosen[1]
    assert (whole.folder / "models" / "toy" / "model.safetensors").is_file()

    # Asked for again, nothing is run, written or imported that takes long.
    files = [path for name in ("results", "models", "runs") for path in (whole.folder / name).rglob("*")]
    times = {path: path.stat().st_mtime_ns for path in files}
    started = time.monotonic()
    status, again = whole.run("sweep")
    assert status == 0
    assert time.monotonic() - started < 15
    assert "selected" in again
    assert {path: path.stat().st_mtime_ns for path in files} == times

    # Tables of another sweep, though this one's stamp should lie beside them, are not taken for its own.
    board = whole.folder / "results" / "leaderboard.csv"
    text = board.read_text()
    board.write_text(text.replace("fast", "paper"))
    # What is missing is made again from what has been trained.
    (whole.folder / "models" / "toy" / "model.json").unlink()
    assert whole.run("sweep")[0] == 0
    assert board.read_text() == text
    assert (whole.folder / "models" / "toy" / "model.json").is_file()
    assert finished(whole) == {
        path.parent.name: value for path, value in times.items() if path.name == "result.json"
    }


def test_a_sweep_that_is_told_to_stop_stops_at_once_and_leaves_nothing(make_project):
    project = make_project(recipe={"base": "fast", "epochs": 500, "batch_size": 16}, strategies=["ftl"])
    process = project.start("sweep")
    output = process.stdout.readline()
    assert "1 trial to run" in output
    watched = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 128 + 15
    assert "the same command goes on from there" in output
    _, alive = psutil.wait_procs(watched, timeout=15)
    assert not alive
    assert not finished(project)


def test_a_lost_strategy_is_said_and_makes_the_sweep_fail(make_project):
    project = make_project(
        recipe={"base": "fast", "epochs": 1, "batch_size": 16, "lr": 1e30}, strategies=["ttl"], cuts=CUTS[:2]
    )
    earlier = project.folder / "models" / "toy" / "model.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    status, output = project.run("sweep")
    assert status == 1
    assert "every trial failed of: toy ttl" in output
    assert "toy: no model was selected: the sweep has no trial of the whole network" in output
    assert "models/toy is an earlier sweep's; it stays" in output
    assert earlier.read_text() == "{}"
    assert "the training loss is nan" in output
    trials = read_trials(project.folder / "results")
    assert trials["status"].to_list() == ["failed"] * trials.height
    assert trials.height == 2
    status, output = project.run("leaderboard", "--json")
    assert status == 0
    assert {row["failed"] for row in json.loads(output)} == {1}
