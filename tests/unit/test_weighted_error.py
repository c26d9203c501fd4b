"""The cost of a type, against the formula computed by hand from quantize and dequantize."""

import bitclass3_uniform
import bitclass3_weighted_error as weighted_error
import numpy as np
import pytest
from bitclass3_weighted_error import Options
from gguf_files import MemoryModel, heavy_tailed, matrices, memory_model

from bitclass3_core.costs import Cost
from bitclass3_core.errors import ConfigError, UnusableTypeError
from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.gguf.rounding_gains import RoundingGain, save_gains
from bitclass3_core.plugin.checks import check_sensitivity
from bitclass3_core.qtypes import menu, qtype
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

Q, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
MENU = menu(["Q3_K", "Q4_K", "IQ4_XS", "Q8_0"])


def gamma(*shape, seed=0):
    return np.random.default_rng(seed).gamma(0.5, 2.0, shape).astype(np.float32)


def measure(model, tensors, qtypes=MENU, **options):
    sensitivity = Sensitivity(tensors, "test", 1, 1, "")
    return weighted_error.bitclass3_measure(model=model, sensitivity=sensitivity, qtypes=qtypes, options=Options(**options))


def squared(rows, q, imatrix):
    return (dequantize(quantize(rows, q, imatrix), q).astype(np.float64) - rows) ** 2


@pytest.mark.parametrize("q", MENU, ids=lambda q: q.name)
def test_cost_is_the_formula(q):
    model = memory_model(blk__0__attn_q=(16, 512))
    in_power, out_power = gamma(512), gamma(16, seed=1)
    table = measure(model, {Q: TensorSensitivity(Powers(in_power, out_power))}, (q,))
    expected = 0.5 * (out_power[:, None] * in_power * squared(model.values[Q], q, in_power)).sum()
    cell = table.costs[Q][q.name]
    assert cell.cost == pytest.approx(expected, rel=1e-5)
    assert (cell.se, cell.n_rows, table.in_nats) == (0.0, 16, True)


def test_costs_fall_with_size():
    cells = measure(memory_model(blk__0__attn_q=(16, 512)), {Q: TensorSensitivity(Powers(gamma(512), gamma(16)))}).costs[Q]
    assert cells["Q3_K"].cost > cells["IQ4_XS"].cost > cells["Q8_0"].cost > 0


def test_both_roles_add_up_and_the_linear_one_guides_the_kernel():
    model, q = memory_model(blk__0__attn_q=(16, 512)), qtype("Q4_K")
    linear, lookup = Powers(gamma(512), gamma(16, seed=1)), Powers(gamma(512, seed=2), gamma(16, seed=3))
    cost = measure(model, {Q: TensorSensitivity(linear, lookup)}, (q,)).costs[Q]["Q4_K"].cost
    error = squared(model.values[Q], q, linear.in_power)
    parts = [0.5 * (powers.out_power[:, None] * powers.in_power * error).sum() for powers in (linear, lookup)]
    assert cost == pytest.approx(sum(parts), rel=1e-5)
    assert min(parts) > 0.01 * sum(parts)


def test_without_out_power_rows_count_alike():
    model, q = memory_model(blk__0__attn_q=(16, 512)), qtype("Q4_K")
    table = measure(model, {Q: TensorSensitivity(Powers(gamma(512)))}, (q,))
    expected = 0.5 * (gamma(512) * squared(model.values[Q], q, gamma(512))).sum()
    assert table.costs[Q]["Q4_K"].cost == pytest.approx(expected, rel=1e-5)
    assert not table.in_nats


def test_experts_use_their_own_vectors():
    model, q = memory_model(blk__0__ffn_up_exps=(3, 8, 256)), qtype("Q3_K")
    in_power, out_power = gamma(3, 256), gamma(24, seed=1)
    cost = measure(model, {EXPERTS: TensorSensitivity(Powers(in_power, out_power))}, (q,)).costs[EXPERTS]["Q3_K"].cost
    by_expert = [
        0.5 * (out_power[8 * e : 8 * e + 8, None] * in_power[e] * squared(model.values[EXPERTS][e], q, in_power[e])).sum()
        for e in range(3)
    ]
    assert cost == pytest.approx(sum(by_expert), rel=1e-5)


def test_experts_may_share_one_vector():
    model, q = memory_model(blk__0__ffn_up_exps=(3, 8, 256)), qtype("Q3_K")
    shared = measure(model, {EXPERTS: TensorSensitivity(Powers(gamma(256), gamma(24, seed=1)))}, (q,)).costs
    each = measure(model, {EXPERTS: TensorSensitivity(Powers(np.tile(gamma(256), (3, 1)), gamma(24, seed=1)))}, (q,)).costs
    assert shared == each


def tall(n_rows=20_000, n_in=256, n_experts=1):
    """A tall tensor whose rows and out_power differ by orders of magnitude, as an embedding's do."""
    rng = np.random.default_rng(4)
    values = heavy_tailed((n_rows, n_in), 5) * np.exp(rng.normal(0, 0.7, (n_rows, 1))).astype(np.float32)
    shape = (n_rows, n_in) if n_experts == 1 else (n_experts, n_rows // n_experts, n_in)
    name = Q if n_experts == 1 else EXPERTS
    in_power = gamma(n_in) if n_experts == 1 else gamma(n_experts, n_in)
    tensor = TensorSensitivity(Powers(in_power, np.exp(rng.normal(0, 2, n_rows)).astype(np.float32)))
    return MemoryModel({name: values.reshape(shape)}), {name: tensor}, name


@pytest.mark.parametrize("n_experts", [1, 4])
def test_sampled_cost_is_near_the_whole(n_experts):
    model, tensors, name = tall(n_experts=n_experts)
    qtypes = (qtype("Q4_0"), qtype("Q8_0"))
    whole = measure(model, tensors, qtypes, relative_error=0).costs[name]
    for seed in range(3):
        sampled = measure(model, tensors, qtypes, min_rows=128, relative_error=0.05, seed=seed).costs[name]
        for q in qtypes:
            cell = sampled[q.name]
            assert 0 < cell.se <= 0.05 * cell.cost
            assert cell.n_rows < model.tensors[name].n_rows / 4
            assert abs(cell.cost - whole[q.name].cost) < 4 * cell.se
            assert whole[q.name].se == 0


def test_smaller_error_takes_more_rows():
    model, tensors, name = tall()
    n_rows = [
        measure(model, tensors, (qtype("Q4_0"),), relative_error=e, min_rows=64).costs[name]["Q4_0"].n_rows for e in (0.2, 0.03)
    ]
    assert n_rows[0] < n_rows[1]


def test_error_that_sampling_cannot_reach_is_measured_whole():
    model, tensors, name = tall(n_rows=600)
    cell = measure(model, tensors, (qtype("Q4_0"),), relative_error=1e-6, min_rows=32, whole_weights=0).costs[name]["Q4_0"]
    assert (cell.n_rows, cell.se) == (600, 0.0)
    assert cell == measure(model, tensors, (qtype("Q4_0"),), relative_error=0).costs[name]["Q4_0"]


@pytest.mark.parametrize("n_in", [256, 288])  # rows of 288 hold no K type: sampled by the ratio to another
def test_estimates_are_unbiased_and_their_errors_honest(n_in):
    model, tensors, name = tall(n_rows=3000, n_in=n_in)
    qtypes = menu(["Q3_K", "IQ4_XS", "Q4_0"] if n_in == 256 else ["Q4_0", "Q5_1", "IQ4_NL"])
    whole = measure(model, tensors, qtypes, relative_error=0).costs[name]
    z = []
    for seed in range(40):
        cells = measure(model, tensors, qtypes, min_rows=64, relative_error=0.05, seed=seed).costs[name]
        z += [(cells[q.name].cost - whole[q.name].cost) / cells[q.name].se for q in qtypes if cells[q.name].se]
    assert len(z) > 100
    # types of one seed share their rows, so 40 of the numbers are independent
    assert abs(np.mean(z)) < 4 / np.sqrt(40)
    assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.4


def test_the_ratio_to_a_fast_type_needs_far_fewer_rows():
    model, tensors, name = tall(n_rows=4000)
    cells = measure(model, tensors, (qtype("Q4_K"),), min_rows=128, relative_error=1.0).costs[name]
    cost, se = cells["Q4_K"].cost, cells["Q4_K"].se
    weights = weighted_error._weights(model, name, tensors[name])
    errors = weighted_error._errors_of_rows(model, name, np.arange(4000), qtype("Q4_K"), weights)
    chances = weighted_error._known(model, name, weights).chances
    plain = np.sqrt((errors**2 / chances).sum() - errors.sum() ** 2) / np.sqrt(128)
    assert cells["Q4_K"].n_rows == 128
    assert cost == pytest.approx(errors.sum(), abs=4 * se)
    assert se < 0.65 * plain  # two fifths of the rows, at most


def test_rows_are_known_by_their_energies_where_the_fast_type_fails(monkeypatch):
    model, tensors, name = tall(n_rows=3000)
    whole = measure(model, tensors, (qtype("Q4_0"),), relative_error=0).costs[name]["Q4_0"]
    errors_of_rows = weighted_error._errors_of_rows

    def failing(model, name, rows, q, weights):
        if q.name == "Q6_K":
            raise UnusableTypeError(name, q.name, "NaN")
        return errors_of_rows(model, name, rows, q, weights)

    monkeypatch.setattr(weighted_error, "_errors_of_rows", failing)
    cell = measure(model, tensors, (qtype("Q4_0"),)).costs[name]["Q4_0"]
    assert 0 < cell.se <= 0.02 * cell.cost
    assert abs(cell.cost - whole.cost) < 4 * cell.se


def test_a_cost_depends_on_no_other_type_of_the_menu():
    model, tensors, name = tall()
    alone = measure(model, tensors, (qtype("Q4_0"),)).costs[name]["Q4_0"]
    assert measure(model, tensors, menu(["Q3_K", "Q4_0", "Q6_K"])).costs[name]["Q4_0"] == alone


def test_sampling_is_deterministic_and_follows_the_seed():
    model, tensors, _ = tall()
    options = {"qtypes": (qtype("Q4_0"),), "min_rows": 64, "relative_error": 0.1}
    assert measure(model, tensors, **options).costs == measure(model, tensors, **options).costs
    assert measure(model, tensors, **options, seed=1).costs != measure(model, tensors, **options).costs


def test_costs_do_not_depend_on_the_order_of_rows():
    """Whole tensors: the same sums; sampled ones: other rows are drawn, within the errors that they state."""
    model, order = memory_model(blk__0__attn_q=(64, 512)), np.random.default_rng(3).permutation(64)
    in_power, out_power = gamma(512), gamma(64, seed=1)
    other = memory_model(blk__0__attn_q=(64, 512))
    other.values[Q] = model.values[Q][order]
    given, turned = (TensorSensitivity(Powers(in_power, out)) for out in (out_power, out_power[order]))
    for options in ({}, {"min_rows": 8, "whole_weights": 0, "relative_error": 0.2}):
        costs = [measure(m, {Q: t}, **options).costs[Q] for m, t in ((model, given), (other, turned))]
        for q in costs[0]:
            error = 4 * np.hypot(costs[0][q].se, costs[1][q].se)
            assert costs[0][q].cost == pytest.approx(costs[1][q].cost, rel=1e-6, abs=error), (options, q)


def test_rows_without_any_weight_cost_nothing():
    model, _, name = tall(n_rows=5000)
    nothing = {name: TensorSensitivity(Powers(np.zeros(256, np.float32), np.zeros(5000, np.float32)))}
    assert measure(model, nothing, (qtype("Q4_0"),), min_rows=64).costs[name]["Q4_0"].cost == 0


def test_slabs_change_nothing(monkeypatch):
    model, tensors, name = tall(n_rows=1000, n_experts=4)
    whole = measure(model, tensors).costs[name]
    monkeypatch.setattr(weighted_error, "_SLAB_WEIGHTS", 256 * 7)
    assert {q: c.cost for q, c in measure(model, tensors).costs[name].items()} == pytest.approx(
        {q: c.cost for q, c in whole.items()}
    )


def test_what_the_rounding_leaves_is_what_a_tensor_costs(tmp_path):
    model = memory_model(blk__0__attn_q=(16, 512), blk__0__attn_k=(16, 512))
    known = TensorSensitivity(Powers(gamma(512), gamma(16)), activation={"Q8_K": 0.125})
    tensors = {Q: known, Q.replace("_q", "_k"): known}
    gains = {Q: RoundingGain("Q4_K", 0.5, 0.125, "rows together")}
    save_gains(tmp_path / "m.rounding.json", gains)
    types = menu(["Q3_K", "Q4_K", "F16"])
    plain, priced = measure(model, tensors, types), measure(model, tensors, types, rounding=tmp_path / "m.rounding.json")
    for q in ("Q3_K", "Q4_K"):
        assert priced.costs[Q][q].cost - 0.125 == pytest.approx((plain.costs[Q][q].cost - 0.125) / 4)
    assert priced.costs[Q]["F16"] == plain.costs[Q]["F16"]
    assert priced.costs[Q.replace("_q", "_k")] == plain.costs[Q.replace("_q", "_k")]
    assert Options(rounding=str(tmp_path / "m.rounding.json")).model_dump()["rounding"] == {Q: 0.25}


@pytest.mark.parametrize("content", [None, "", "{}", '{"tensors": 1}', '{"tensors": {"a": {"qtype": "Q4_K"}}}', "\0"])
def test_file_that_holds_no_gains(tmp_path, content):
    path = tmp_path / "x.rounding.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="do not exist; an export with" if content is None else "is no file of rounding gains"):
        Options(rounding=path)


def test_gains_are_shares():
    assert [RoundingGain("Q4_K", *errors, "plain").left for errors in ((2.0, 1.0), (0.0, 0.0), (1.0, 3.0))] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "options", [{"relative_error": -1}, {"relative_error": 2}, {"min_rows": 1}, {"seeds": 1}, {"rounding": {"a": 0}}]
)
def test_options_that_are_refused(options):
    with pytest.raises(ValueError, match="validation error"):
        Options(**options)


def test_uniform_estimator_makes_it_half_the_squared_error():
    model, q = memory_model(blk__0__attn_q=(16, 512), output_norm=(512,)), qtype("Q4_0")
    sensitivity = bitclass3_uniform.bitclass3_estimate(model=model, architecture=matrices(model))
    check_sensitivity(sensitivity, model, frozenset({Q}), "uniform")
    cost = measure(memory_model(blk__0__attn_q=(16, 512)), sensitivity.tensors, (q,)).costs[Q]["Q4_0"].cost
    assert cost == pytest.approx(0.5 * squared(model.values[Q], q, np.ones(512, np.float32)).sum(), rel=1e-5)


def test_rows_without_out_power_cost_nothing_and_are_not_measured():
    model, tensors, name = tall(n_rows=6000)
    known = tensors[name].linear
    few = np.where(np.arange(6000) % 10 == 3, known.out_power, 0).astype(np.float32)
    qtypes = menu(["Q3_K", "Q4_0"])
    sparse = {name: TensorSensitivity(Powers(known.in_power, few))}
    whole = measure(model, sparse, qtypes, relative_error=0).costs[name]
    assert {cell.n_rows for cell in whole.values()} == {600}
    rows = np.flatnonzero(few)
    alone = MemoryModel({name: model.read(name, rows)})
    same = measure(alone, {name: TensorSensitivity(Powers(known.in_power, few[rows]))}, qtypes, relative_error=0).costs[name]
    sampled = measure(model, sparse, qtypes, min_rows=64, relative_error=0.1, whole_weights=0).costs[name]
    for q in ("Q3_K", "Q4_0"):
        assert whole[q].cost == pytest.approx(same[q].cost, rel=1e-6)
        assert sampled[q].n_rows < 600
        assert abs(sampled[q].cost - whole[q].cost) < 4 * sampled[q].se
    nothing = {name: TensorSensitivity(Powers(known.in_power, np.zeros(6000, np.float32)))}
    assert measure(model, nothing, qtypes).costs[name]["Q3_K"] == Cost(0.0, 0.0, 0)
