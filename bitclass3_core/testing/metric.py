"""What every error metric keeps: a cost for each pair of tensor and type, one tensor at a time, from several threads."""

import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from bitclass3_core.constraints.wanted import wanted_qtypes
from bitclass3_core.costs import CostTable
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture, Model, OneTensor
from bitclass3_core.plugin.checks import check_costs
from bitclass3_core.plugin.manager import PluginManager, parse_options
from bitclass3_core.qtypes import QType, menu
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity
from bitclass3_core.testing.base import Conformance
from bitclass3_core.testing.samples import sample_sensitivity

_TYPES = menu(("Q2_K", "Q4_K", "Q8_0", "Q4_0"))
_STACK, _TABLE = "blk.1.ffn_up_exps.weight", "token_embd.weight"


class MetricConformance(Conformance):
    """Switches: ``in_nats`` (costs are nats per token where the sensitivity is), ``finer_costs_less`` (False for a random baseline)."""

    stage: ClassVar[str] = "measure"
    in_nats: ClassVar[bool] = True
    finer_costs_less: ClassVar[bool] = True

    def measure(self, model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...] = _TYPES) -> CostTable:
        """The costs of every tensor of ``model``, each measured alone as in a run, checked."""
        costs = {}
        for name in sorted(sensitivity.tensors):
            table = self.one(model, name, sensitivity, qtypes)
            costs[name] = table.costs[name]
        return CostTable(costs, table.in_nats)

    def one(self, model: Model, name: str, sensitivity: Sensitivity, qtypes: tuple[QType, ...] = _TYPES) -> CostTable:
        """The costs of one tensor."""
        wanted = wanted_qtypes(model.tensors[name], qtypes)
        table = self.call(model=OneTensor(model, name), sensitivity=sensitivity, qtypes=wanted)
        assert isinstance(table, CostTable), f"answered {type(table).__name__}, expected CostTable"
        check_costs(table, {name: [q.name for q in wanted]}, self.loaded.name)
        return table

    def test_every_pair_has_a_cost(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """A number of 0 or more, with a standard error; infinity where a tensor cannot have the type."""
        for name, cells in _measured(self, model, sensitivity).costs.items():
            for q, cell in cells.items():
                assert 0 <= cell.se < np.inf, f"standard error of {name} at {q} is {cell.se}; 0 if all rows were measured"

    def test_same_answer_twice(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """Costs measured before and after a kill stand in one table."""
        assert _measured(self, model, sensitivity) == self.measure(model, sensitivity), (
            "two calls gave different costs; if rows are sampled, seed the generator from the tensor's name and an option"
        )

    def test_threads_do_not_disturb_each_other(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """The hook is called from several threads at once: no state between calls."""
        names = sorted(sensitivity.tensors)
        alone = _measured(self, model, sensitivity).costs
        plugin = self.loaded
        manager, options = PluginManager([plugin]), parse_options(plugin, self.stage, self.options)

        def one(name: str) -> Mapping[str, object]:
            arguments = {
                "model": OneTensor(model, name),
                "sensitivity": sensitivity,
                "qtypes": wanted_qtypes(model.tensors[name], _TYPES),
            }
            costs: Mapping[str, object] = manager.call(self.stage, plugin, options, **arguments).costs[name]
            return costs

        with ThreadPoolExecutor(4) as pool:
            together = dict(zip(names, pool.map(one, names), strict=True))
        assert together == dict(alone), "four threads at once gave other costs than one; keep no state in the module between calls"

    def test_finer_types_cost_less(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """Q8_0 under Q4_K under Q2_K: a cost that falls with size would make the solver choose upside down."""
        self._needs("finer_costs_less")
        for name, cells in _measured(self, model, sensitivity).costs.items():
            known = [cells[q].cost for q in ("Q8_0", "Q4_K", "Q2_K") if q in cells]
            assert known == sorted(known), f"costs of {name} at Q8_0, Q4_K, Q2_K are {known}, expected to rise as bits fall"
            assert len(known) < 2 or known[0] < known[-1], f"costs of {name} do not depend on the type: {known}"

    @pytest.mark.parametrize("name", [_STACK, _TABLE])
    def test_takes_stacks_and_tables(self, model: GgufModel, sensitivity: Sensitivity, name: str) -> None:
        """A stack's in_power has a row for each expert [n_expert, n_in]; an embedding's powers are those of its look-up."""
        if name not in sensitivity.tensors:
            pytest.skip(f"the model has no {name}")
        self.one(model, name, sensitivity)

    def test_takes_an_imatrix_alone(self, model: GgufModel, architecture: Architecture) -> None:
        """Where the estimator knows no out_power (None), every row counts the same, and costs are no nats."""
        table = self.measure(model, sample_sensitivity(model, architecture.quantizable, out_powers=False))
        assert not table.in_nats, (
            "the sensitivity has no out_power, so these costs are no nats; answer CostTable(costs, sensitivity.in_nats)"
        )

    def test_says_whether_costs_are_nats(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """Predicted KLD is printed beside measured KLD: a number in other units must not pass for it."""
        table = _measured(self, model, sensitivity)
        assert table.in_nats == self.in_nats, (
            f"in_nats is {table.in_nats}, the suite's switch says {self.in_nats}; costs that are no KLD need CostTable(costs, in_nats=False)"
        )

    def test_nats_scale_with_out_power(self, model: GgufModel, sensitivity: Sensitivity) -> None:
        """Twice the E[g^2] of every row is twice the divergence, to second order: that is what nats mean here."""
        self._needs("in_nats")
        name = "blk.0.attn_q.weight"
        powers = sensitivity.tensors[name].roles[0]
        assert powers.out_power is not None
        doubled = TensorSensitivity(Powers(powers.in_power, 2 * powers.out_power))
        before = self.one(model, name, sensitivity).costs[name]
        after = self.one(model, name, replace(sensitivity, tensors={**sensitivity.tensors, name: doubled})).costs[name]
        for q, cell in before.items():
            assert after[q].cost == pytest.approx(2 * cell.cost, rel=1e-4), (
                f"out_power twice as large took the cost of {name} at {q} from {cell.cost:.4g} to {after[q].cost:.4g}, expected twice"
            )


_MEASURED: dict[type[MetricConformance], tuple[bytes, CostTable]] = {}  # the last measurement of each class


def _measured(suite: MetricConformance, model: GgufModel, sensitivity: Sensitivity) -> CostTable:
    """``suite.measure``, once a class unless its options, its model or its sensitivity differ from those of the test before."""
    given = pickle.dumps((dict(suite.options), model.fingerprint, sensitivity))
    known = _MEASURED.get(type(suite))
    if known is None or known[0] != given:
        known = _MEASURED[type(suite)] = (given, suite.measure(model, sensitivity))
    return known[1]
