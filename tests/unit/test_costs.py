"""The cost table and its store."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.errors import Bitclass3Error, ModelFileError

CELLS = {"Q4_K": Cost(0.25, 0.01, 512), "Q6_K": Cost(1 / 3, 0.0, 1024)}


@pytest.fixture
def store(tmp_path):
    return CostStore(tmp_path / "run" / "costs.sqlite")


def test_round_trip_is_exact(store):
    store.save("f", "blk.0.attn_q.weight", CELLS)
    assert CostStore(store.path).load("f") == {"blk.0.attn_q.weight": CELLS}


def test_only_what_has_the_same_fingerprint_is_used(store):
    store.save("f", "a", CELLS)
    store.save("g", "b", CELLS)
    assert set(store.load("f")) == {"a"}
    assert store.load("h") == {}


def test_later_types_are_added_and_same_ones_replaced(store):
    store.save("f", "a", {"Q4_K": CELLS["Q4_K"]})
    store.save("f", "a", {"Q6_K": CELLS["Q6_K"], "Q4_K": Cost(9.0, 0.0, 1)})
    assert store.load("f") == {"a": {"Q4_K": Cost(9.0, 0.0, 1), "Q6_K": CELLS["Q6_K"]}}


def test_saves_from_four_threads_all_arrive(store):
    def save(i: int) -> None:
        (store if i % 2 else CostStore(store.path)).save("f", f"t{i}", {"Q4_K": Cost(float(i), 0.0, i)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(60)))
    assert {name: cells["Q4_K"].cost for name, cells in store.load("f").items()} == {f"t{i}": float(i) for i in range(60)}


@pytest.mark.parametrize("content", [b"this is no database, but a text of some length" * 30, b"SQLite format 3\0" + bytes(4)])
def test_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "costs.sqlite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"costs\.sqlite is no cost table of bitclass3 \(.*\); delete it and run again"):
        CostStore(path)


def test_database_of_something_else(tmp_path):
    path = tmp_path / "costs.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE cost (price REAL)")
    with pytest.raises(ModelFileError, match="is no cost table of bitclass3"):
        CostStore(path).load("f")


def test_folder_in_the_way(tmp_path):
    with pytest.raises(ModelFileError, match="is no cost table of bitclass3"):
        CostStore(tmp_path)


def test_store_that_cannot_be_written(store, monkeypatch):
    def full():
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "_connect", full)
    with pytest.raises(Bitclass3Error, match=r"costs\.sqlite cannot be written \(database or disk is full\); make room"):
        store.save("f", "a", CELLS)


def test_total_of_an_allocation():
    table = CostTable({"a": CELLS, "b": {"Q4_K": Cost(1.0, 0.0, 1)}})
    assert table.total({"a": "Q4_K", "b": "Q4_K"}) == 1.25
    assert table.total({"a": "Q4_K", "b": "Q8_0"}) is None
    assert table.total({"c": "Q4_K"}) is None
    assert table.total({}) == 0
