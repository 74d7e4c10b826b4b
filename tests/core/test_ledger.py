"""Whose store it is: the ledger knows, and refuses another peer."""

from __future__ import annotations

import msgpack
import pytest

from tests.core.pump import Host, Time
from zmqrel.core import tables
from zmqrel.core.shared import Ledger
from zmqrel.errors import ConfigError


def test_a_store_is_kept_for_the_peer_that_made_it() -> None:
    host = Host("shop", Time())
    host.name = "billing"
    with pytest.raises(ConfigError) as told:
        host.reopen("clean")
    assert str(told.value) == (
        "name: the store is that of peer 'shop' and takes no peer 'billing'; give each a directory of its own"
    )
    host.name = "shop"
    host.reopen("clean")


def test_a_store_without_a_name_gets_that_of_the_peer_that_opens_it() -> None:
    host = Host("shop", Time())
    data = host.store.get(tables.META)
    assert data is not None
    fields = list(Ledger.__dataclass_fields__)
    host.store.put(tables.META, msgpack.packb(msgpack.unpackb(data)[: fields.index("name")]))
    host.store.commit()
    host.name = "billing"
    host.reopen("clean")
    data = host.store.get(tables.META)
    assert data is not None
    assert Ledger.decode(data).name == "billing"
