"""What a dataset knows of the drops it was made of: a record of each, and which image came with which."""

import datetime
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from ttl.intake.spec import PatientIds

ROLLING = "rolling"
"""The split of patients who came after the test set was frozen, and who are not trained on either."""

IMAGES_SCHEMA = pl.Schema({"sample_id": pl.String, "phash": pl.String})
RECEIVED_SCHEMA = pl.Schema(
    [("sample_id", pl.String), ("digest", pl.String), ("received_at", pl.Datetime("us", "UTC"))]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The record of a drop that has been taken, beside the dataset's shards: `drop-<digest>.json`.

    `digest` is the SHA-256 of the drop's manifest. `received_at` is when it was taken. `quarantined` gives
    each file that did not get in, by a keyed hash of its path, with the reason. `patient_ids` is as in
    `IntakeSpec`: what the patients' pseudonyms were made of.
    """

    site: str
    drop: str
    digest: str
    received_at: datetime.datetime
    accepted: int
    quarantined: Mapping[str, str] = field(default_factory=dict)
    patient_ids: PatientIds = "of-site"

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were quarantined, by reason."""
        return dict(sorted(Counter(self.quarantined.values()).items()))

    def to_json(self) -> str:
        """Return the record as JSON."""
        values = {**asdict(self), "received_at": self.received_at.isoformat()}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Taken":
        """Return the record that `to_json` gave."""
        # Records of before the setting are of shared ids.
        values = {"patient_ids": "shared", **json.loads(text)}
        return cls(**{**values, "received_at": datetime.datetime.fromisoformat(values["received_at"])})


def taken(root: Path) -> list[Taken]:
    """Return the drops that a dataset was made of, in the order in which they came."""
    records = [Taken.from_json(path.read_text(encoding="utf-8")) for path in root.glob("drop-*.json")]
    return sorted(records, key=lambda one: (one.received_at, one.site, one.drop))


def phashes(root: Path) -> pl.DataFrame:
    """Return the perceptual hashes of the samples that came in drops: `sample_id`, `phash`."""
    return pl.concat(
        [pl.DataFrame(schema=IMAGES_SCHEMA), *(pl.read_parquet(path) for path in root.glob("drop-*.parquet"))]
    )


def received(root: Path) -> pl.DataFrame:
    """Return which sample came with which drop, and when: `sample_id`, `digest`, `received_at` (UTC)."""
    rows = [
        pl.read_parquet(root / f"{stem(one.digest)}.parquet").select(
            "sample_id",
            pl.lit(one.digest).alias("digest"),
            pl.lit(one.received_at).dt.cast_time_unit("us").alias("received_at"),
        )
        for one in taken(root)
    ]
    return pl.concat([pl.DataFrame(schema=RECEIVED_SCHEMA), *rows])


def stem(digest: str) -> str:
    """Return what the files of a drop are called in the dataset's folder."""
    return f"drop-{digest[:16]}"
