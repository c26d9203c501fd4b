"""Files that a run writes: the promise of their size, what stays of them, and what is compared with."""

import json
from dataclasses import replace

import pytest
from run_fixtures import HOOKS, MATRICES, SmallRun

from bitclass3_core.errors import ContractError, UnusableTypeError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import Budget, file_bytes
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.runs.candidates import CandidateFile
from bitclass3_core.runs.export import Shipped, check_size, ship, unwanted
from bitclass3_core.runs.select import Choice

OURS = "small-6.00bpw"
SELECT = ("select.enabled=true", "select.stock=false", "select.variations={k=['qtypes.menu=k']}", "evaluate.options.favour=-k")
STOCK = "baseline.plugin=stock"
# Around the exporter: one tensor cannot have some types
PICKY = f"""{HOOKS}
from bitclass3_core.errors import UnusableTypeError

@hookimpl(wrapper=True)
def bitclass3_export(allocation):
    q = allocation.qtypes["blk.0.attn_q.weight"]
    if q in UNUSABLE:
        raise UnusableTypeError("blk.0.attn_q.weight", q, "its blocks come out invalid")
    return (yield)
"""
PADDED = f"""{HOOKS}
@hookimpl(wrapper=True)
def bitclass3_export(out):
    paths = yield
    with paths[0].open("ab") as file:
        file.write(bytes(4096))
    return paths
"""


def picky(small: SmallRun, *unusable: str) -> str:
    return f"wrappers=[{small.plugin('picky', PICKY.replace('UNUSABLE', repr(unusable)))!r}]"


def file(name: str, kind: str) -> CandidateFile:
    return CandidateFile(name, kind, Allocation({}), None, 0, 1000)


def test_ours_is_written_with_the_imatrix_beside_it(small):
    (ours,) = ship(small.solution()).files
    model = GgufModel(small.gguf)
    assert ours.path.stat().st_size == file_bytes(model, ours.allocation.qtypes)
    assert (small.out / "imatrix.gguf").is_file()
    assert small.files(".gguf") == {f"{OURS}.gguf"}


def test_file_is_never_larger_than_asked():
    with pytest.raises(ContractError, match=r"^x.gguf is 1,000 bytes, asked were 990; lower the target by 10 bytes$"):
        check_size(file("x", "ours"), Budget(900, "x", 990))
    check_size(file("x", "ours"), Budget(900, "x", 1000))
    check_size(file("x", "ours"), Budget(1, "x")), "a budget in bits per weight says nothing of the metadata"


def test_exporter_that_adds_to_the_metadata_breaks_the_promise(small):
    padded = f"wrappers=[{small.plugin('padded', PADDED)!r}]"
    with pytest.raises(ContractError, match=r"small-40KB.gguf is [\d,]+ bytes, asked were 40,000; lower the target by"):
        ship(small.solution(padded, "budget.target_size='40KB'"))
    assert ship(small.solution("budget.target_size='40KB'")).files[0].n_bytes <= 40_000


def test_nothing_is_compared_with_where_no_baseline_is_asked_for(small):
    assert [made.kind for made in ship(small.solution()).files] == ["ours"]


def test_baseline_is_the_smallest_stock_mix_that_is_no_smaller_than_ours(small):
    ours, stock = ship(small.solution(STOCK)).files
    assert (stock.kind, stock.allocation.solver) == ("stock", "stock")
    assert stock.name.startswith("small-stock-")
    assert stock.n_data_bytes >= ours.n_data_bytes
    assert stock.path.is_file()


def test_baseline_is_held_against_the_size_of_the_file_that_ships(small):
    """The winner may be smaller than the budget; the mix beside it is one of the winner's size."""
    tiny = (
        "select.enabled=true",
        "select.stock=false",
        'select.variations={t=[\'qtypes.pins={"."="Q4_K"}\']}',
        "evaluate.options.favour=-t",
    )
    beside_winner, beside_ours = (ship(small.solution(STOCK, *settings)).files[1] for settings in (tiny, ()))
    assert beside_winner.n_data_bytes < beside_ours.n_data_bytes


def test_named_mix_is_the_baseline(small):
    _, stock = ship(small.solution(STOCK, "baseline.options={ftype='Q8_0'}")).files
    assert set(stock.allocation.qtypes.values()) == {"Q8_0"}


def test_tensor_that_cannot_be_written_gets_a_larger_type(small):
    (ours,) = ship(small.solution(picky(small, "Q4_K"), "cost_multipliers.attn_q=0.001")).files
    assert ours.allocation.qtypes["blk.0.attn_q.weight"] == "Q8_0"
    assert GgufModel(ours.path).tensors["blk.0.attn_q.weight"].dtype == "Q8_0"
    assert json.loads((small.out / "allocation.json").read_text())["qtypes"] == ours.allocation.qtypes


def test_mix_beside_ours_gets_a_larger_type_too(small):
    settings = (picky(small, "Q4_K"), STOCK, "baseline.options={ftype='Q4_K_S'}")
    solution = small.solution(*settings)
    ours, stock = ship(solution).files
    assert stock.allocation.qtypes["blk.0.attn_q.weight"] != "Q4_K"
    assert any(line.startswith("stock Q4_K_S: blk.0.attn_q.weight is ") for line in solution.inputs.context.warnings)
    assert ours.allocation.qtypes["blk.0.attn_q.weight"] == "Q8_0"


def test_exporter_that_refuses_every_type_ends_the_run(small):
    solution = small.solution(picky(small, "Q4_K", "Q8_0", "BF16"), "budget.target_bpw=15.9")
    with pytest.raises(UnusableTypeError, match=r"blk.0.attn_q.weight cannot be BF16"):
        ship(solution)


def test_allocation_json_is_that_of_the_file_that_ships(small):
    solution = small.solution(*SELECT)
    solution.write_allocation(solution.allocation)
    shipped = ship(solution)
    written = json.loads((small.out / "allocation.json").read_text())["qtypes"]
    assert written == shipped.files[0].allocation.qtypes != solution.allocation.qtypes
    assert shipped.choice.selection.winner.how == "k"


@pytest.mark.parametrize(
    ("keep", "names"),
    [("all", []), ("stock", ["k"]), ("shipped", ["k", "stock"]), ("none", ["k", "ours", "stock"])],
)
def test_what_does_not_stay(keep, names):
    ours, stock, variation = file("ours", "ours"), file("stock", "stock"), file("k", "variation")
    shipped = Shipped([ours, stock], Choice(ours, None, None, (variation, replace(stock))))
    assert [made.name for made in unwanted(shipped, keep)] == names


@pytest.mark.parametrize(("keep", "kinds"), [("all", "ours stock k"), ("stock", "ours stock"), ("shipped", "ours"), ("none", "")])
def test_files_that_are_left(small, keep, kinds):
    solution = small.solution(STOCK, *SELECT, f"keep={keep}")
    shipped = ship(solution)
    store = shipped.choice.store
    store.evaluate(shipped.files, Silent())
    for made in unwanted(shipped, keep):
        store.drop(made)
    names = {"ours": f"{OURS}.gguf", "stock": f"{shipped.files[1].name}.gguf", "k": f"{OURS}-k.gguf"}
    expected = {names[kind] for kind in kinds.split()}
    assert small.files(".gguf") == expected
    again = ship(small.solution(STOCK, *SELECT, f"keep={keep}"))
    assert small.files(".gguf") == expected, "what was measured is not made again"
    assert [made.n_file_bytes for made in again.files] == [made.n_file_bytes for made in shipped.files]


def test_file_without_figures_is_kept_by_nobody_but_made(small):
    """Without text nothing is measured: the file is what the run is for."""
    for _ in range(2):
        (ours,) = ship(small.solution("keep=none", corpus={})).files
        assert ours.path.is_file()


def test_every_matrix_of_ours_is_in_the_menu(small):
    (ours,) = ship(small.solution()).files
    tensors = GgufModel(ours.path).tensors
    assert {tensors[name].dtype for name in MATRICES} <= {"Q4_K", "Q8_0"}
    assert tensors["output_norm.weight"].dtype == "F32"
