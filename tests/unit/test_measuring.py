"""Running the measure hook: only what is missing, and nothing that was measured is lost."""

import pytest
from gguf_files import memory_model

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.constraints.wanted import wanted_cells, wanted_qtypes
from bitclass3_core.costs import Cost, CostStore, CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.machine import default_threads
from bitclass3_core.model import OneTensor, TensorInfo
from bitclass3_core.plugin.stage_table import STAGE_TABLE
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import menu
from bitclass3_core.runs.measure import CostJob

# by falling size: the order in which they are measured
MODEL = memory_model(blk__0__ffn_up=(64, 256), blk__0__attn_q=(32, 256), blk__1__attn_q=(16, 32), output_norm=(256,))
UP, Q, SMALL = "blk.0.ffn_up.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight"
QUANTIZABLE = frozenset({UP, Q, SMALL})
MENU = menu(["Q4_K", "Q8_0", "BF16"])


class Hook:
    """Counts what it is asked for; fails on its call number ``fail_at``."""

    def __init__(self, fail_at=None, answer=None):
        self.calls, self.fail_at, self.answer = [], fail_at, answer

    def __call__(self, model, qtypes):
        (name,) = model.tensors
        self.calls.append((name, [q.name for q in qtypes]))
        if len(self.calls) == self.fail_at:
            raise RuntimeError("kernel failed")
        cells = {q.name: Cost(q.bpw, 0.0, model.tensors[name].n_rows) for q in qtypes}
        return CostTable({name: cells} if self.answer is None else self.answer(name, cells))


@pytest.fixture
def store(tmp_path):
    return CostStore(tmp_path / "costs.sqlite")


def checked(hook):
    """The hook as the core calls it: every answer is checked."""

    def call(model, qtypes):
        table = hook(model, qtypes)
        STAGE_TABLE["measure"].check(table, {"model": model, "qtypes": qtypes}, "mine")
        return table

    return call


def measure(hook, store, qtypes=MENU, fingerprint="f", pins=None, quantizable=QUANTIZABLE, progress=None):
    job = CostJob(MODEL, wanted_cells(MODEL, quantizable, qtypes, Limits(pins=pins or {})), store, fingerprint)
    job.measure(checked(hook), 1, progress or Silent())
    return job.table(in_nats=True)


def test_every_tensor_at_every_type_that_fits_largest_first(store):
    hook = Hook()
    table = measure(hook, store)
    assert hook.calls == [(UP, ["Q4_K", "Q8_0"]), (Q, ["Q4_K", "Q8_0"]), (SMALL, ["Q8_0"])]
    assert set(table.costs) == QUANTIZABLE
    assert table.costs[SMALL] == {"Q8_0": Cost(8.5, 0.0, 16), "BF16": Cost(0.0, 0.0, 0)}


def test_nothing_is_measured_twice(store):
    first = measure(Hook(), store)
    again = Hook()
    assert measure(again, CostStore(store.path)) == first
    assert again.calls == []


def test_only_missing_types_and_tensors_are_measured(store):
    measure(Hook(), store, quantizable=frozenset({UP, SMALL}))
    hook = Hook()
    table = measure(hook, store, menu(["Q4_K", "Q6_K", "Q8_0"]))
    assert hook.calls == [(UP, ["Q6_K"]), (Q, ["Q4_K", "Q6_K", "Q8_0"])]
    assert list(table.costs[UP]) == ["Q4_K", "Q6_K", "Q8_0", "BF16"]


def test_other_fingerprint_measures_again(store):
    measure(Hook(), store)
    hook = Hook()
    measure(hook, store, fingerprint="g")
    assert len(hook.calls) == 3


def test_smaller_menu_leaves_the_other_types_out(store):
    measure(Hook(), store)
    assert set(measure(Hook(), store, menu(["Q8_0"])).costs[UP]) == {"Q8_0", "BF16"}


def test_pinned_tensor_is_measured_at_its_pin(store):
    hook = Hook()
    table = measure(hook, store, menu(["Q8_0"]), pins={Q: "Q3_K", SMALL: "Q8_0"})
    assert hook.calls == [(UP, ["Q8_0"]), (Q, ["Q8_0", "Q3_K"]), (SMALL, ["Q8_0"])]
    assert "Q3_K" in table.costs[Q]


def test_failure_on_the_third_tensor_keeps_the_first_two(store):
    with pytest.raises(RuntimeError, match="kernel failed"):
        measure(Hook(fail_at=3), store)
    assert set(store.load("f")) == {UP, Q}
    hook = Hook()
    measure(hook, store)
    assert [name for name, _ in hook.calls] == [SMALL]


def test_failure_drops_what_waits(store):
    hook = Hook(fail_at=1)
    with pytest.raises(RuntimeError, match="kernel failed"):
        measure(hook, store)
    assert len(hook.calls) <= 3
    assert UP not in store.load("f")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda name, cells: {}, f"plugin 'mine' gave no cost for {UP} at Q4_K, Q8_0"),
        (lambda name, cells: {name: {"Q8_0": cells["Q8_0"]}}, "plugin 'mine' gave no cost for .* at Q4_K"),
        (lambda name, cells: {name: dict.fromkeys(cells, Cost(float("nan"), 0.0, 1))}, "expected a number of 0 or more"),
    ],
)
def test_bad_answers_are_refused_and_not_kept(store, answer, message):
    with pytest.raises(ContractError, match=message):
        measure(Hook(answer=answer), store, quantizable=frozenset({UP}))
    assert store.load("f") == {}


def test_more_than_was_asked_is_not_kept(store):
    hook = Hook(answer=lambda name, cells: {name: {**cells, "Q2_K": Cost(0.0, 0.0, 1)}})
    table = measure(hook, store, quantizable=frozenset({UP}))
    assert set(store.load("f")[UP]) == {"Q4_K", "Q8_0"}
    assert set(table.costs[UP]) == {"Q4_K", "Q8_0", "BF16"}


class Recorded(Silent):
    def __init__(self):
        self.total, self.done, self.lines = 0.0, 0.0, []

    def begin(self, label, total):
        self.total = total

    def advance(self, units=1.0):
        self.done += units

    def say(self, line):
        self.lines.append(line)


def test_progress_adds_up(store):
    progress = Recorded()
    measure(Hook(), store, quantizable=frozenset({UP}))
    measure(Hook(), store, progress=progress)
    assert progress.lines == ["measure: 3 costs (2 already measured) of 2 tensors"]
    assert progress.done == progress.total == 2 * 32 * 256 + 16 * 32


def test_view_of_one_tensor():
    view = OneTensor(MODEL, Q)
    assert list(view.tensors) == [Q]
    assert (view.arch, view.fingerprint, view.path) == (MODEL.arch, MODEL.fingerprint, MODEL.path)
    assert view.read(Q, slice(0, 2)).shape == (2, 256)
    assert view.read_raw(Q).nbytes == 32 * 256 * 4


@pytest.mark.parametrize(
    ("dtype", "n_in", "expected"),
    [
        ("BF16", 256, ["Q4_K", "Q8_0"]),
        ("BF16", 32, ["Q8_0"]),
        ("Q8_0", 256, ["Q4_K"]),
        ("Q4_K", 256, []),
        ("F32", 256, ["Q4_K", "Q8_0"]),
    ],
)
def test_types_that_are_wanted(dtype, n_in, expected):
    assert [q.name for q in wanted_qtypes(TensorInfo("a.weight", (4, n_in), dtype), MENU)] == expected


def test_threads():
    assert default_threads(3) == 3
    assert default_threads(0) >= 1
