"""Cache, mirror, address: in this order, verified, and never half a file."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from ttl.data.fetch import RemoteFile, fetch
from ttl.errors import DataError

BODY = bytes(range(256)) * 4096
MD5 = "md5:" + hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
WRONG = "md5:" + "0" * 32


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2])
        self.wfile.flush()
        # Half of the file has been sent: nothing may be visible yet under its name.
        cache = self.server.cache
        self.server.seen_half_way = [p.name for p in cache.glob("*") if not p.name.startswith(".")]
        if self.path != "/cut":
            self.wfile.write(BODY[len(BODY) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.cache, server.seen_half_way = [], cache, None
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("checksum", [MD5, SHA, None])
def test_a_download_is_stored_once_and_whole(server, cache, checksum):
    file = RemoteFile(name="a.bin", address=f"{server.address}/a", checksum=checksum)
    for _ in range(2):
        assert fetch(file, cache=cache).read_bytes() == BODY
    assert server.asked == ["/a"]
    assert server.seen_half_way == []
    assert [p.name for p in cache.iterdir()] == ["a.bin"]


def test_a_cut_connection_leaves_nothing(server, cache):
    file = RemoteFile(name="a.bin", address=f"{server.address}/cut")
    with pytest.raises(DataError, match=rf"after {len(BODY) // 2} of {len(BODY)} bytes"):
        fetch(file, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing_and_says_how_to_accept(server, cache):
    file = RemoteFile(name="a.bin", address=f"{server.address}/a", checksum=WRONG)
    with pytest.raises(DataError, match=f"has {MD5}; expected is {WRONG}.*accept_checksum: {SHA}"):
        fetch(file, cache=cache)
    assert list(cache.iterdir()) == []
    assert fetch(file, cache=cache, accept_checksum=SHA).read_bytes() == BODY
    # Without the permission, the cached file does not count either.
    with pytest.raises(DataError, match=WRONG):
        fetch(file, cache=cache)


def test_a_damaged_cache_is_fetched_anew(server, cache):
    cache.mkdir()
    (cache / "a.bin").write_bytes(b"half")
    file = RemoteFile(name="a.bin", address=f"{server.address}/a", checksum=MD5)
    assert fetch(file, cache=cache).read_bytes() == BODY


def test_the_mirrors_folder_comes_before_the_address(server, cache, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "a.bin").write_bytes(BODY)
    monkeypatch.setenv("TTL_DATA_MIRROR", str(mirror))
    file = RemoteFile(name="a.bin", address=f"{server.address}/a", checksum=MD5)
    assert fetch(file, cache=cache) == mirror / "a.bin"
    assert server.asked == []
    (mirror / "a.bin").write_bytes(b"other")
    with pytest.raises(DataError, match=r"mirror/a\.bin has md5:"):
        fetch(file, cache=cache)
    (mirror / "a.bin").unlink()
    assert fetch(file, cache=cache) == cache / "a.bin"


def test_a_bucket_is_a_mirror_too(cache, monkeypatch):
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/bucket/sets/a.bin", BODY)
    monkeypatch.setenv("TTL_DATA_MIRROR", "memory://bucket/sets/")
    try:
        file = RemoteFile(name="a.bin", checksum=SHA)
        assert fetch(file, cache=cache).read_bytes() == BODY
    finally:
        bucket.rm("/bucket", recursive=True)
    with pytest.raises(DataError, match=r"b.bin was found nowhere.*memory://bucket/sets/b.bin"):
        fetch(RemoteFile(name="b.bin"), cache=cache)


def test_a_bucket_of_an_unknown_kind_is_named(cache, monkeypatch):
    monkeypatch.setenv("TTL_DATA_MIRROR", "nosuch://bucket")
    with pytest.raises(DataError, match=r"nosuch://bucket/a\.bin \(ValueError"):
        fetch(RemoteFile(name="a.bin"), cache=cache)


def test_every_place_tried_is_named(server, cache):
    with pytest.raises(DataError) as caught:
        fetch(RemoteFile(name="a.bin", address=f"{server.address}/absent"), cache=cache)
    for part in (str(cache), "/absent", "404", "TTL_DATA_MIRROR"):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["md5:12", "sha1:" + "0" * 40, "0" * 32, "md5:" + "G" * 32])
def test_what_is_no_checksum_is_refused(text):
    with pytest.raises(DataError, match="is not a checksum"):
        RemoteFile(name="a", checksum=text)
