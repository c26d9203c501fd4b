"""llama.cpp's own mixes as a solver: the baseline that any other allocation has to beat.

It gives exactly the types that llama-quantize would: the menu of types and the architecture's floors change nothing.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import InfeasibleError
from bitclass3_core.model import Architecture, Model, padded
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.qtypes import qtype
from bitclass3_stock.choice import stock_qtypes
from bitclass3_stock.mixes import MIXES

BITCLASS3_ANSWERS = "52a1783d6589"  # changes when the answers do

__all__ = ["STOCK_FTYPES", "StockOptions", "bitclass3_solve", "stock_qtypes"]

STOCK_FTYPES = tuple(MIXES)


class StockOptions(PluginOptions):
    """Which of llama.cpp's mixes to take."""

    ftype: str | None = Field(None, description="a mix such as Q4_K_M; unset: the largest one that fits the budget")
    at_least: bool = Field(False, description="without ftype: the smallest mix that is no smaller than the budget, to compare with")

    @classmethod
    def as_baseline(cls, ftype: str | None) -> Mapping[str, Any]:
        """The mix whose size was asked for, else the smallest one that is no smaller than ours."""
        return {"ftype": ftype} if ftype else {"at_least": True}


@hookimpl
def bitclass3_solve(problem: Problem, model: Model, architecture: Architecture, options: StockOptions) -> Allocation:
    """The named mix, whatever its size; without a name the largest mix that fits the budget.

    With ``at_least`` it is the smallest mix that is no smaller than the budget. Raises InfeasibleError if no mix fits.
    """
    if options.ftype is not None:
        ftype = options.ftype.upper()
        qtypes = stock_qtypes(model, architecture.quantizable, ftype)
    else:
        mixes = {name: stock_qtypes(model, architecture.quantizable, name) for name in STOCK_FTYPES}
        sizes = {
            name: sum(padded(model.tensors[tensor].n_bytes(qtype(q))) for tensor, q in mix.items()) for name, mix in mixes.items()
        }
        ftype = (_smallest_reaching if options.at_least else _largest_fitting)(sizes, problem.budget_bytes)
        qtypes = mixes[ftype]
    return Allocation(qtypes, solver="stock", note=f"stock {ftype}", options={"ftype": ftype})


def _largest_fitting(sizes: dict[str, int], budget_bytes: int) -> str:
    fitting = [ftype for ftype in sizes if sizes[ftype] <= budget_bytes]
    if not fitting:
        smallest = min(sizes, key=sizes.__getitem__)
        raise InfeasibleError(
            f"budget leaves {budget_bytes:,} bytes for the quantizable tensors, the smallest stock mix {smallest} takes "
            f"{sizes[smallest]:,}; raise the target"
        )
    return max(fitting, key=sizes.__getitem__)


def _smallest_reaching(sizes: dict[str, int], budget_bytes: int) -> str:
    """The smallest mix of at least that size, else the largest mix; an allocation that is better with fewer bytes has beaten it."""
    reaching = [ftype for ftype in sizes if sizes[ftype] >= budget_bytes]
    return min(reaching, key=sizes.__getitem__) if reaching else max(sizes, key=sizes.__getitem__)
