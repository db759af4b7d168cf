"""The store on a real S3 server, with and without TLS, and what only a real one can show."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.proxy import Proxy
from ttl.errors import ServiceError
from ttl.training.runs import WEIGHTS, Runs
from ttl.training.store import Store

ID = "0123456789abcdef"


def test_exactly_one_of_many_creates_a_claim(store):
    stores = [Store(store.address) for _ in range(8)]

    def try_it(one):
        try:
            one.bucket.create(f".claims/{ID}/0", str(id(one)).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as several:
        assert sum(several.map(try_it, stores)) == 1


def test_a_claim_keeps_others_out_until_it_is_given_back(store):
    other = Store(store.address)
    with store.claim(ID, wait=False) as one:
        assert one
        with other.claim(ID, wait=False) as two:
            assert not two
    with other.claim(ID, wait=False) as two:
        assert two
    assert not store.bucket.files.find(f"{store.bucket.root}/.claims")


def test_files_go_up_and_come_down_as_they_were(store, tmp_path):
    """In parts, too: more than S3 takes in one."""
    data = bytes(range(256)) * (1 << 19)
    folder, back = tmp_path / "up", tmp_path / "down"
    folder.mkdir()
    back.mkdir()
    (folder / WEIGHTS).write_bytes(data)
    digest = subprocess.run(
        ["sha256sum", folder / WEIGHTS], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    result = {"status": "completed", "epochs": 1, "val_auroc": 0.5, "files": {WEIGHTS: digest}}
    store.put(ID, folder, result)
    assert store.get(ID, back, [WEIGHTS]) == result
    assert (back / WEIGHTS).read_bytes() == data
    assert Runs(tmp_path / "runs", store).weights(ID).read_bytes() == data


def test_a_missing_bucket_and_wrong_keys_are_said_at_once(client, tmp_path, monkeypatch):
    missing = Store("s3://no-such-bucket/runs")
    with pytest.raises(ServiceError, match="does not exist; make the bucket"):
        missing.put_checkpoint(ID, Path(__file__))
    code = "from ttl.training.store import Store; Store('s3://ttl/runs').result('0')"
    wrong = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be used" in wrong.stderr
    assert "check AWS_ACCESS_KEY_ID" in wrong.stderr
    assert "wrong" not in wrong.stderr.replace("s3fs", "")


def test_tls_is_checked_by_the_authority_that_is_named(stack, client, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*make, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    code = "from ttl.training.store import Store; print(Store('s3://ttl/runs', patience=5).trials())"

    def ask(**environment):
        with Proxy(("127.0.0.1", stack.settings.ports["s3"]), certificate=(certificate, key)) as proxy:
            return subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "AWS_ENDPOINT_URL_S3": proxy.address, **environment},
                capture_output=True,
                text=True,
                check=False,
            )

    trusted = ask(AWS_CA_BUNDLE=str(certificate))
    assert trusted.returncode == 0, trusted.stderr
    assert "set()" in trusted.stdout
    refused = ask(AWS_CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt")
    assert refused.returncode == 1
    assert "AWS_CA_BUNDLE" in refused.stderr
