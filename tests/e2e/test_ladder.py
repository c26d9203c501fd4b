"""A ladder as a user makes it: one command, five files, a card, plots; again at once; broken off and gone on with."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import MODEL, ROOT, SMALL, TEXT, Done, bitclass3

pytestmark = pytest.mark.slow
LEVELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_S")


def ladder(out: Path, *arguments: object) -> Done:
    return bitclass3("ladder", *MODEL, *TEXT, *SMALL, "--out", out, *arguments, timeout=1800)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole ladder."""
    out = tmp_path_factory.mktemp("ladder") / "out"
    done = ladder(out)
    assert done.code == 0, done.err
    return out


def entries(out: Path) -> list[dict]:
    return list(json.loads((out / "ladder.json").read_text())["levels"])


def test_five_files_card_and_plots(released: Path) -> None:
    files = {path.name for path in released.glob("*.gguf")}
    assert files == {f"tiny-qwen35-{level}.gguf" for level in LEVELS} | {"imatrix.gguf"}
    assert {path.name for path in (released / "plots").glob("*.png")} == {
        "size_kld.png",
        "levels.png",
        "types.png",
        "sensitivity.png",
    }
    card = (released / "README.md").read_text()
    for level in LEVELS:
        assert f"tiny-qwen35-{level}.gguf" in card
    assert "Recommended: `" in card


def test_kld_falls_as_size_grows_and_none_is_worse_than_stock(released: Path) -> None:
    made = entries(released)
    assert [entry["level"] for entry in made] == list(LEVELS)
    sizes = [entry["file_bytes"] for entry in made]
    klds = [entry["evaluation"]["mean_kld"] for entry in made]
    assert sizes == sorted(sizes, reverse=True)
    assert klds == sorted(klds)
    for entry in made:
        assert (
            0 < entry["file_bytes"] - entry["asked_bytes_of_tensors"] < 600_000
            or entry["file_bytes"] <= entry["asked_bytes_of_tensors"]
        )
        chosen = entry["selection"]["contenders"]
        assert chosen[0]["mean_kld"] == min(contender["mean_kld"] for contender in chosen)
        assert any(contender["how"].startswith("stock") for contender in chosen) or entry["level"] == "Q3_K_S"
        difference = entry["difference_to_baseline"]
        assert difference["mean"] <= 2 * difference["se"], f"{entry['level']} is worse than {entry['baseline']}"


def test_again_measures_nothing(released: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(released, tmp_path / "copy"))
    done = ladder(out)
    assert done.code == 0, done.err
    assert "measure:" not in done.err
    assert "evaluate: torch" not in done.err
    assert "(not there)" not in done.err
    assert [entry["evaluation"] for entry in entries(out)] == [entry["evaluation"] for entry in entries(released)]


def test_broken_off_and_gone_on_with(released: Path, tmp_path: Path) -> None:
    """Killed in the middle of a level: what was done stays, and the same command finishes."""
    out = Path(shutil.copytree(released, tmp_path / "copy"))
    for path in [*out.glob("*Q4_K_M*"), *out.glob("*/*Q4_K_M*")]:
        path.unlink()
    command = [sys.executable, "-m", "bitclass3_core", "ladder", *MODEL, *TEXT, *SMALL, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("*Q4_K_M.gguf")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = ladder(out)
    assert done.code == 0, done.err
    assert [entry["status"] for entry in entries(out)] == ["ok"] * 5
    assert "estimate: kl-hessian" not in done.err


def test_failed_level_and_exit_code(released: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(released, tmp_path / "copy"))
    done = ladder(out, "--levels", "Q4_K_M,1.0", "--json")
    assert done.code == 4
    summary = json.loads(done.out)
    assert [entry["status"] for entry in summary["levels"]] == ["ok", "failed"]
    assert "smallest possible is" in summary["levels"][1]["error"]
    alone = ladder(out, "--levels", "1.0")
    assert alone.code == 3


def test_target_kld(released: Path, tmp_path: Path) -> None:
    """The answer's measured KLD, upper bound, is within the target; without a size that reaches it the command says so."""
    out = Path(shutil.copytree(released, tmp_path / "copy"))
    done = bitclass3("run", *MODEL, *TEXT, *SMALL, "--out", out, "--target-kld", 0.03, "--json", timeout=1800)
    assert done.code == 0, done.err
    ours = json.loads(done.out)["candidates"][0]["evaluation"]
    assert ours["mean_kld"] + 1.645 * ours["se_kld"] <= 0.03
    assert ours["mean_kld"] > 0.02, "a smaller file would do"
    pinned = ["--set", 'qtypes.pins={"ffn_down"="Q3_K"}', "--target-kld", 0.0001]
    none = bitclass3("run", *MODEL, *TEXT, *SMALL, "--out", out, *pinned, timeout=1800)
    assert none.code == 3, none.err
    assert "no size reaches a mean KLD of 0.0001: at " in none.error
    both = bitclass3("run", *MODEL, *TEXT, *SMALL, "--out", out, "--target-kld", 0.03, "--select")
    assert both.code == 2
    assert "--target-kld and --select contradict each other" in both.error


def test_the_example_has_text_enough(tmp_path: Path) -> None:
    """All stages but those that take minutes, with the tokens that the example's file asks for."""
    quick = ("--levels", "4.8", "--plugin", "uniform", "--menu", "k", "--baseline", "none", "--set", "select.variations={}")
    done = bitclass3("ladder", ROOT / "examples" / "quickstart-ladder.toml", *quick, "--out", tmp_path / "out", timeout=1800)
    assert done.code == 0, done.err
    assert "tokens asked for" not in done.err
    (made,) = entries(tmp_path / "out")
    assert made["evaluation"]["n_tokens"] == 48 * 255  # what is scored of 48 chunks of 512
