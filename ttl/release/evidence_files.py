"""Where the evidence of a proposal lies, and what stands for it; readers need no more than this."""

from pathlib import Path

from ttl.files import sha256

FOLDER = "evidence"
MARKDOWN, PAGE, VALUES = "evidence.md", "evidence.html", "evidence.json"


def evidence_sha256(folder: Path) -> str:
    """Return the SHA-256 of the evidence in a folder: of its Markdown, which has every other hash in it."""
    return sha256(folder / MARKDOWN)
