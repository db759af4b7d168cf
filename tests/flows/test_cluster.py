"""What a cluster's crew makes of machines that are lost, and what it sends to them; no cluster is needed."""

from types import SimpleNamespace

import httpx
import pytest

from flows.cluster import Cluster, _carry
from ttl.errors import ServiceError


class Lost:
    """A pack that went with its machine."""

    state = SimpleNamespace(is_crashed=lambda: True, message="NodeDiedError")

    def wait(self):
        pass


def make_cluster(said):
    listener = SimpleNamespace(said=said.append)
    return Cluster(None, listener, processes=1, limit=None, resource="ttl_slot", revisions={})


def test_a_machine_that_takes_many_packs_with_it_is_one_loss():
    said = []
    cluster = make_cluster(said)
    packs = [Lost() for _ in range(8)]
    cluster.waves = dict.fromkeys(packs, cluster.wave)
    assert [cluster.collect(pack) for pack in packs] == [False] * 8
    assert cluster.crashes == 1
    assert len(said) == 8


def test_losses_one_after_another_end_the_sweep():
    cluster = make_cluster([])
    for _ in range(3):
        pack = Lost()
        cluster.waves[pack] = cluster.wave
        assert not cluster.collect(pack)
    pack = Lost()
    cluster.waves[pack] = cluster.wave
    with pytest.raises(ServiceError, match="4 packs in a row were lost"):
        cluster.collect(pack)


class Untold:
    """A pack that runs while the server's database is away."""

    @property
    def state(self):
        request = httpx.Request("GET", "http://127.0.0.1/api/task_runs/1")
        raise httpx.HTTPStatusError("500", request=request, response=httpx.Response(500))


def test_what_the_server_cannot_tell_of_a_pack_for_a_while_ends_nothing():
    cluster = make_cluster([])
    pack, lost = Untold(), Lost()
    lost.state = SimpleNamespace(is_final=lambda: True, is_crashed=lambda: True, message="given up")
    cluster.waves = {lost: cluster.wave}
    cluster.running = {pack: ["running"], lost: ["lost"]}
    assert cluster.ended() == [(["lost"], False)]
    assert cluster.running == {pack: ["running"]}


def test_no_image_goes_to_the_machines_of_a_cluster(tmp_path):
    project, carried = tmp_path / "project", tmp_path / "carried"
    for name in (
        "ttl/a.py",
        "ttl/__pycache__/a.pyc",
        "incoming/films/x.png",
        ".dvc/config",
        ".dvc/config.local",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    (project / "params.yaml").write_text("")
    carried.mkdir()
    _carry(project, carried)
    found = {path.relative_to(carried).as_posix() for path in carried.rglob("*") if path.is_file()}
    assert found == {"ttl/a.py", ".dvc/config", "params.yaml"}
