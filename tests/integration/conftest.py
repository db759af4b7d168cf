"""The stack, and what its clients need."""

import pytest

from tests.services import Deployment, running_stack
from ttl.training.store import Store


@pytest.fixture(scope="session")
def stack():
    """The services, started by `make stack`."""
    return running_stack()


@pytest.fixture
def client(stack, monkeypatch):
    """Be a client of the stack."""
    for name, value in stack.settings.client().items():
        monkeypatch.setenv(name, value)
    return stack.settings.client()


@pytest.fixture
def store(client):
    """The store of the deployment's workers; nothing is in it before, nor after."""
    store = Store(client["TTL_STORE"])
    empty(store)
    yield store
    empty(store)


@pytest.fixture
def deployment(stack, store):
    """Run `ttl-sweep/default`."""
    return Deployment(stack, store)


def empty(store):
    """Remove all that is in a store."""
    store.bucket.remove("", folder=True)
