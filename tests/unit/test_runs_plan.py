"""What a run would do and take: told without writing anything."""

import pytest
from run_fixtures import HOOKS, MATRICES, SmallRun

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.runs.plan import plan_values

SLOW = f"""{HOOKS}
from bitclass3_core.options import Demands, PluginOptions
from bitclass3_core.sensitivity import Sensitivity

class Options(PluginOptions):
    def demands(self, work):
        return Demands(operations=30e9 * 60, core_seconds=60.0, n_bytes=12345)

@hookimpl
def bitclass3_estimate(model, options: Options):
    raise AssertionError("a plan estimates nothing")
"""


def planned(small: SmallRun, *settings: str) -> dict:
    return plan_values(small.config(*settings))


def test_plan_of_a_run_that_was_never_started(small):
    values = planned(small)
    assert values["source"] == str(small.gguf)
    assert (values["architecture"], values["tensors"], values["quantizable_tensors"]) == ("llama", 5, 4)
    assert values["quantizable"] == MATRICES
    assert values["costs_to_measure"] == 2 * len(MATRICES)
    assert values["threads"] == 1
    assert "allocation" not in values
    assert not small.out.exists(), "nothing is written"


def test_smallest_and_largest_file_are_sizes_that_a_run_makes(small):
    values = planned(small)
    for pin, key in (("Q4_K", "smallest_file_bytes"), ("BF16", "largest_file_bytes")):
        run = small.pipeline(f"budget.target_size={values['largest_file_bytes']}", f'qtypes.pins={{"." = "{pin}"}}')
        assert run.files[0].n_bytes == values[key]


def test_plan_of_a_run_that_is_measured_knows_types_and_size(small):
    small.pipeline().run("measure")
    values = planned(small)
    assert values["costs_to_measure"] == 0
    run = small.pipeline()
    assert values["allocation"] == run.allocation.qtypes
    assert values["file_bytes"] == run.files[0].n_bytes == values["disk_bytes"]
    assert planned(small, "qtypes.menu=['Q4_K','Q6_K']")["costs_to_measure"] == 2 * len(MATRICES), "of another menu"


def test_room_on_disk_is_that_of_all_files_that_lie_there_at_once(small):
    assert planned(small, "baseline.plugin=stock")["disk_bytes"] == 2 * planned(small)["disk_bytes"]


def test_time_and_memory_are_what_the_plugins_say(small):
    slow = f"estimate.plugin={small.plugin('slow', SLOW)!r}"
    assert planned(small, slow)["minutes"] - planned(small)["minutes"] == pytest.approx(2.0, abs=0.11)
    assert planned(small, slow, "threads=2")["minutes"] == pytest.approx(1.0, abs=0.11)
    assert planned(small, slow)["memory_bytes"] == max(12345, planned(small)["memory_bytes"])


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (("budget.target_bpw=2.0",), InfeasibleError, "smallest possible"),
        (("estimate.options.n_tokens=5",), ConfigError, "takes no options"),
        (('qtypes.pins={"nothing" = "Q8_0"}',), ConfigError, "nothing"),
    ],
)
def test_what_the_run_would_refuse_is_refused(small, settings, error, says):
    with pytest.raises(error, match=says):
        planned(small, *settings)


def test_constraints_are_told(small):
    assert planned(small, "cost_multipliers.attn_q=2.0")["constraints"] == ["costs of attn_q times 2"]


def test_target_kld_has_no_size_yet(small):
    small.pipeline().run("measure")
    values = planned(small, "budget.target_kld=0.1")
    assert "allocation" not in values
    assert values["disk_bytes"] == values["largest_file_bytes"]
