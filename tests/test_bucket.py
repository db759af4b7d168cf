"""A bucket's errors: what they say, and what one whose files may name people keeps to itself."""

import errno
import logging
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.proxy import Proxy
from ttl.bucket import Bucket
from ttl.errors import ServiceError

NAME = "MUELLER_HANS.dcm"


class Failing(LocalFileSystem):
    """Storage that answers once in a while, and then with an error that names the file."""

    cachable = False

    def __init__(self, error, times):
        super().__init__()
        self.error, self.times = error, times

    def _open(self, path, *arguments, **options):
        if self.times:
            self.times -= 1
            raise self.error(f"cannot read {path}")
        return super()._open(path, *arguments, **options)


@pytest.fixture
def failing(tmp_path):
    """Give a bucket with one file, whose storage fails so many times."""
    (tmp_path / NAME).write_bytes(b"film")

    def make(error, times, **options):
        bucket = Bucket(str(tmp_path), **options)
        bucket.files = Failing(error, times)
        return bucket

    return make


@pytest.mark.parametrize("error", [PermissionError, TimeoutError])
@pytest.mark.parametrize("read", [lambda b, p: b.read(p), lambda b, p: b.read_start(p, 10)])
def test_a_private_buckets_error_names_no_file(failing, error, read):
    with pytest.raises(ServiceError, match=f"reading what lies there: {error.__name__}") as caught:
        read(failing(error, 1, patience=0, private=True), NAME)
    assert "MUELLER" not in "".join(traceback.format_exception(caught.value))


def test_a_private_bucket_warns_of_no_file(failing, caplog):
    with caplog.at_level(logging.WARNING):
        assert failing(TimeoutError, 1, patience=60, private=True).read(NAME) == b"film"
    assert "does not answer (reading what lies there: TimeoutError)" in caplog.text
    assert "MUELLER" not in caplog.text


def test_another_bucket_says_which_file_and_why(failing):
    with pytest.raises(ServiceError, match=r"reading .*/MUELLER_HANS.dcm: TimeoutError: cannot read"):
        failing(TimeoutError, 1, patience=0).read(NAME)


def test_a_server_that_takes_a_request_and_answers_nothing_is_given_up(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with Proxy(("127.0.0.1", 9)) as proxy, proxy.fault("silent"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.address)
        bucket = Bucket("s3://films", patience=0, timeout=2)
        for times, put in enumerate((bucket.write, bucket.create), start=1):
            with pytest.raises(ServiceError, match="has not answered for 0 s"):
                put("film", b"film")
            assert proxy.met == times


def test_of_many_that_create_a_file_one_does_and_its_content_stays(tmp_path):
    bucket, start = Bucket(str(tmp_path / "bucket"), patience=0), threading.Barrier(16)
    names = [f"claims/{number}" for number in range(100)]

    def create(content):
        made = []
        for name in names:
            start.wait(timeout=60)
            with suppress(FileExistsError):
                bucket.create(name, content)
                made.append(name)
        return made

    contents = [b"%d" % number for number in range(16)]
    with ThreadPoolExecutor(16) as several:
        made = dict(zip(contents, several.map(create, contents), strict=True))
    assert sorted(name for of_one in made.values() for name in of_one) == sorted(names)
    assert all(bucket.read(name) == content for content, of_one in made.items() for name in of_one)


@pytest.mark.parametrize("put", ["write", "create"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch, put):
    bucket, room = Bucket(str(tmp_path / "bucket"), patience=0), os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ttl.bucket.os.fsync", full)
    with pytest.raises(ServiceError, match="No space left"):
        getattr(bucket, put)("a/b", b"film")
    assert not list((tmp_path / "bucket" / "a").iterdir())
    monkeypatch.setattr("ttl.bucket.os.fsync", room)
    getattr(bucket, put)("a/b", b"film")
    assert bucket.read("a/b") == b"film"
