"""Sizes, bits per weight, budgets, and the budget plugin."""

import bitclass3_fixed
import pytest
from bitclass3_fixed import Options
from gguf_files import TENSORS, matrices, write_gguf

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import bpw, budget_for_bpw, budget_for_file, data_bytes, file_bytes, fixed_bytes, parse_size
from bitclass3_core.model import padded

N_PARAMS = 48 * 256 + 256 + 16 * 256 + 8 * 512 + 24 * 256 + 16 * 256 + 256
SOURCE_BYTES = 2 * (N_PARAMS - 512) + 4 * 512


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return GgufModel(write_gguf(tmp_path_factory.mktemp("layout") / "m.gguf"))


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("15.3GiB", int(15.3 * 2**30)),
        ("4200MB", 4_200_000_000),
        ("4404019200", 4_404_019_200),
        (4_404_019_200, 4_404_019_200),
        (" 1.5 gib ", 3 * 2**29),
        ("10k", 10_240),
        ("7B", 7),
        ("2G", 2**31),
        ("1KB", 1000),
    ],
)
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-3GiB", "1e9", "3 TiB", "1.2.3GB", "3GiB more", "1,5GiB"])
def test_sizes_that_are_not_understood(text):
    with pytest.raises(ConfigError, match=r"is not understood; write it like 15.3GiB, 4200MB or 4404019200"):
        parse_size(text)


@pytest.mark.parametrize(("n", "up"), [(0, 0), (1, 32), (32, 32), (33, 64)])
def test_padding(n, up):
    assert padded(n) == up


def test_bytes_of_the_source(model):
    assert data_bytes(model, {}) == SOURCE_BYTES
    assert fixed_bytes(model, matrices(model).quantizable) == 2 * 256 * 4
    assert fixed_bytes(model, frozenset()) == SOURCE_BYTES


def test_bytes_and_bpw_of_an_allocation(model):
    qtypes = {"blk.0.attn_q.weight": "Q4_K", "blk.1.attn_q.weight": "IQ3_XXS"}
    saved = 2 * 16 * 512 - 16 * 144 - 16 * 98
    assert data_bytes(model, qtypes) == SOURCE_BYTES - saved
    assert bpw(model, qtypes) == pytest.approx(8 * (SOURCE_BYTES - saved) / N_PARAMS)


def test_padding_counts_in_bytes_but_not_in_bpw(tmp_path):
    odd = GgufModel(write_gguf(tmp_path / "m.gguf", {"a.weight": ((3, 32), "BF16")}))
    assert data_bytes(odd, {"a.weight": "Q8_0"}) == 128
    assert bpw(odd, {"a.weight": "Q8_0"}) == 8.5


def test_budget_of_a_bpw(model):
    budget = budget_for_bpw(model, 4.8)
    assert (budget.data_bytes, budget.label) == (int(4.8 * N_PARAMS / 8), "4.80bpw")


def test_budget_of_a_file_leaves_room_for_the_header(model):
    size = file_bytes(model, {})
    assert size == header_bytes(model) + SOURCE_BYTES
    assert budget_for_file(model, size, "x").data_bytes == SOURCE_BYTES


def budget(model, **options):
    return bitclass3_fixed.bitclass3_budget(model=model, architecture=matrices(model), options=Options(**options))


def test_fixed_budget(model):
    assert budget(model, target_bpw=4.8) == budget_for_bpw(model, 4.8)
    assert budget(model, target_size="40 KiB").data_bytes == 40 * 1024 - header_bytes(model)
    assert budget(model, target_size="40 KiB").label == "40KiB"
    assert budget(model, target_size=50_000).label == "50000"


def test_fixed_budget_of_a_stock_mix(model):
    found = budget(model, match_stock="q8_0")
    assert found.label == "bitclass3-Q8_0"
    assert found.data_bytes == data_bytes(model, dict.fromkeys((n for n, (shape, _) in TENSORS.items() if len(shape) > 1), "Q8_0"))


def test_fixed_budget_without_a_target(model):
    with pytest.raises(ConfigError, match=r"no target; give --target-bpw 4.8, --target-size 15.3GiB, --level Q4_K_M,"):
        budget(model)


@pytest.mark.parametrize(
    "options", [{"target_bpw": 0}, {"target_bpw": 4, "target_size": "1GiB"}, {"target": 4}, {"fit_vram": "1GiB", "target_bpw": 4}]
)
def test_fixed_options_that_are_refused(options):
    with pytest.raises(ValueError, match="validation error"):
        Options(**options)
