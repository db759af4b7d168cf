import pytest


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch, tmp_path):
    monkeypatch.delenv("TTL_DATA_MIRROR", raising=False)
    monkeypatch.setenv("TTL_CACHE", str(tmp_path / "own-cache"))
