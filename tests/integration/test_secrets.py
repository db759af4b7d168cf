"""Secrets stay where they are: a run leaves them in no log, artifact, result or file of the repository."""

import os
import subprocess
from pathlib import Path

from infra.stack.settings import PROJECT


def test_a_run_leaves_no_secret_anywhere(stack, client, store, deployment, tmp_path):
    from tests.integration.test_three_ways import PARAMETERS  # noqa: PLC0415

    deployment.start(**{**PARAMETERS, "strategies": ["ttl"]})
    assert deployment.ends("Completed", "Failed", "Crashed") == "Completed"
    settings = stack.settings
    secrets = [settings.secrets[name] for name in ("prefect", "postgres", "s3_secret", "ray", "intake")]
    database = dump(settings)
    assert "ttl-leaderboard" in database, "the dump does not have the run"
    places = {"the database": database, "the run's logs": deployment.logs()}
    for path in [*settings.folder.glob("logs/*.log"), *settings.folder.glob("worker/**/*.log")]:
        places[str(path)] = path.read_text(errors="replace")
    for name in store.bucket.files.find(store.bucket.root):
        if not name.endswith((".safetensors", ".parquet")):
            places[name] = store.bucket.files.cat_file(name).decode(errors="replace")
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        places[name] = (PROJECT / name).read_bytes().decode(errors="replace")
    found = [(place, secret[:4]) for place, text in places.items() for secret in secrets if secret in text]
    assert not found
    # The one file that has them can be read by its owner alone.
    assert (settings.folder / "env").stat().st_mode & 0o077 == 0
    assert (settings.folder / "settings.json").stat().st_mode & 0o077 == 0


def dump(settings):
    """Return all that Prefect's database has."""
    tool = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))[-1]
    address = f"postgresql://ttl@127.0.0.1:{settings.ports['postgres']}/postgres"
    secret = {"PGPASSWORD": settings.secrets["postgres"]}
    done = subprocess.run(
        [tool, "--data-only", address],
        env={**os.environ, **secret},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
