"""A small hospital: a project with a git remote, a DVC remote, and drops of the phantom that come in."""

import csv
import datetime
import hashlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.projects import ROOT, Project
from ttl.data.dataset import PackedDataset
from ttl.intake.phantom import write_drop
from ttl.intake.received import taken
from ttl.layout import Layout

NAME = "hospital"
KEY = "5eed" * 16
DAY = datetime.date(2026, 1, 31)
LATER = datetime.date(2026, 2, 28)

INTAKE = {
    "incoming": "incoming",
    "classes": ["normal", "finding"],
    "size": 32,
    "licence": "CC0 1.0",
    "synthetic": True,
}


@dataclass(frozen=True)
class Hospital:
    """A folder with `work`, the project, and all that it talks to beside it; it may be copied as a whole.

    All addresses in it are relative, but for DVC's cache, which each run sets anew.
    """

    folder: Path

    @property
    def work(self):
        """The project's clone."""
        return self.folder / "work"

    @property
    def incoming(self):
        """Where sites drop."""
        return self.work / "incoming"

    @property
    def layout(self):
        """The project's folders."""
        return Layout(root=self.work)

    @property
    def root(self):
        """The growing dataset's folder."""
        return self.layout.datasets / NAME

    @property
    def environment(self):
        """What a process needs that works here."""
        who = {
            f"GIT_{role}_{name}": value
            for role in ("AUTHOR", "COMMITTER")
            for name, value in (("NAME", "IT"), ("EMAIL", "it@hospital.example"))
        }
        return {
            **who,
            "TTL_CACHE": str(self.folder / "cache"),
            "TTL_INTAKE_KEY": KEY,
            "DVC_SITE_CACHE_DIR": str(self.folder / "dvc-site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "TTL_DEVICES": str(self.folder / "devices"),
        }

    @property
    def project(self):
        """The command line in the project."""
        return Project(self.work, self.environment)

    @classmethod
    def make(cls, folder, params, files=()):
        """Make the folder, with `params.yaml` and more `files` (name and text) committed and pushed."""
        self = cls(folder)
        folder.mkdir(parents=True)
        self.run("git", "init", "-q", "--bare", "-b", "main", "origin.git", at=folder)
        self.run("git", "init", "-q", "-b", "main", "work", at=folder)
        self.run("git", "remote", "add", "origin", "../origin.git")
        self.run("dvc", "init", "-q")
        self.run("dvc", "remote", "add", "-q", "--default", "store", "../store")
        for name, text in {
            "params.yaml": yaml.safe_dump(params),
            ".gitignore": (ROOT / ".gitignore").read_text(),
            **dict(files),
        }.items():
            (self.work / name).write_text(text)
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "Our dataset, and our rule")
        self.run("git", "push", "-q", "origin", "main")
        return self

    def copy(self, folder):
        """Return a copy of everything as it lies on the disk now."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Hospital(folder)

    def run(self, *command, at=None, env=None):
        """Run git or DVC, in the project unless told otherwise, and return what it printed."""
        if command[0] == "dvc":
            command = (sys.executable, "-m", *command)
        done = subprocess.run(
            command,
            cwd=at or self.work,
            env={**os.environ, **self.environment, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def drop(self, name, site="north", *, patients=5, date=LATER, **options):
        """Write a drop of the phantom, and return its folder."""
        return write_drop(self.incoming, site=site, drop=name, patients=patients, date=date, **options)

    def dataset(self):
        """Open the growing dataset."""
        return PackedDataset.open(self.root)

    def records(self):
        """Return the drops taken, as `<site>/<drop>`, and what each came to."""
        return {f"{one.site}/{one.drop}": one for one in taken(self.root)}


def rewrite_manifest(folder):
    """List what lies in a drop now, as a site does that has added something or renamed it."""
    rows = [
        (path.relative_to(folder).as_posix(), hashlib.sha256(content).hexdigest(), len(content))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "MANIFEST.csv"
        for content in (path.read_bytes(),)
    ]
    write_table(folder / "MANIFEST.csv", ("path", "sha256", "size"), rows)


def read_table(path):
    """Return a CSV's rows, each as a mapping."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path, header, rows):
    """Write a CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
