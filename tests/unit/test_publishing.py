"""What a release holds, what is wrong with it, and its upload to a small hub on this machine that takes what the real one takes."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command import Done, bitclass3
from gguf_files import write_gguf

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.release.publish import release_of

CARD = "---\nlicense: apache-2.0\nbase_model: org/Tiny\nquantized_by: bitclass3\ntags:\n- gguf\n---\n\n# Tiny\n"
TOKEN = "hf_secret"  # of this test's own hub
RELEASED = [
    "README.md",
    "Tiny-4.80bpw.gguf",
    "imatrix.gguf",
    "explorer.html",
    "plots/size_kld.png",
    "Tiny-4.80bpw.tensor_types.txt",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run: ours, the stock mix, what was measured, and what is only for the run itself."""
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "evaluation").mkdir()
    for name in ("Tiny-4.80bpw", "Tiny-stock-Q4_K_M"):
        write_gguf(out / f"{name}.gguf")
        (out / f"{name}.tensor_types.txt").write_text("a=q4_k\n")
    others = (
        "imatrix.gguf",
        "explorer.html",
        "plots/size_kld.png",
        "costs.sqlite",
        "evaluation/Tiny-4.80bpw.npz",
        "allocation.json",
    )
    for name in others:
        (out / name).write_bytes(b"content of " + name.encode())
    (out / "README.md").write_text(CARD)
    entries = {
        "Tiny-4.80bpw": {"kind": "ours", "file": "Tiny-4.80bpw.gguf"},
        "Tiny-6.00bpw": {"kind": "ours", "file": "Tiny-6.00bpw.gguf"},  # deleted since
        "Tiny-stock-Q4_K_M": {"kind": "stock", "file": "Tiny-stock-Q4_K_M.gguf"},
    }
    (out / "run.json").write_text(json.dumps({"artefacts": {}, "candidates": entries}))
    return out


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and one commit of small files from who has the token."""

    received: dict[str, bytes] = {}  # noqa: RUF012
    made: list[dict] = []  # noqa: RUF012
    refuse = False

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, code: int, values: object) -> None:
        body = json.dumps(values).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = f"http://{self.headers['Host']}"
        if self.refuse or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            self.made.append(json.loads(content))
            return self.answer(200, {"url": f"{host}/me/{self.made[-1]['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(content)["files"]]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.received[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{host}/me/Tiny/commit/{'0' * 40}"})
        return self.answer(404, {"error": f"{self.path} is not there"})


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.received.clear()
    Hub.made.clear()
    Hub.refuse = False
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def publish(tmp_path: Path, *arguments: object, endpoint: str = "http://127.0.0.1:9", token: str = "") -> Done:
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return bitclass3("publish", *arguments, env=environment)


def test_release_is_what_a_reader_wants(folder: Path) -> None:
    release = release_of(folder, "me/Tiny-GGUF")
    assert list(release.files) == RELEASED
    assert release.files["README.md"] == len(CARD)
    assert release.problems == ()
    assert release.front_matter["base_model"] == "org/Tiny"


def test_dry_run_needs_no_token_and_no_network(folder: Path, tmp_path: Path) -> None:
    done = publish(tmp_path, folder, "--dry-run")
    assert done.code == 0, done.err
    assert "would upload to Tiny-bitclass3-GGUF (in your own namespace):" in done.out
    assert all(name in done.out for name in RELEASED)
    assert "stock" not in done.out
    assert "card: license: apache-2.0, base_model: org/Tiny" in done.out
    values = json.loads(publish(tmp_path, folder, "--dry-run", "--json", "--repo", "me/X").out)
    assert (values["repo"], list(values["files"]), values["problems"]) == ("me/X", RELEASED, [])


def test_without_a_token(folder: Path, tmp_path: Path) -> None:
    done = publish(tmp_path, folder, "--repo", "me/Tiny-GGUF")
    assert (done.code, done.error) == (
        1,
        "nothing was uploaded: no token of the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN",
    )


def test_upload_with_a_token(folder: Path, tmp_path: Path, hub: str) -> None:
    done = publish(tmp_path, folder, "--private", endpoint=hub, token=TOKEN)
    assert done.code == 0, done.err
    assert list(Hub.received) == RELEASED
    assert Hub.received["Tiny-4.80bpw.gguf"] == (folder / "Tiny-4.80bpw.gguf").read_bytes()
    assert Hub.received["plots/size_kld.png"] == b"content of plots/size_kld.png"
    assert Hub.made == [{"name": "Tiny-bitclass3-GGUF", "organization": None, "visibility": "private", "type": "model"}]
    assert "published: http" in done.out
    assert TOKEN not in done.out + done.err


def test_token_that_is_refused(folder: Path, tmp_path: Path, hub: str) -> None:
    Hub.refuse = True
    done = publish(tmp_path, folder, "--repo", "me/Tiny", endpoint=hub, token=TOKEN)
    assert (done.code, done.error) == (1, "the hub refuses the token for me/Tiny (401); it needs write access: `hf auth login`")


def test_no_network(folder: Path, tmp_path: Path) -> None:
    done = publish(tmp_path, folder, "--repo", "me/Tiny", token=TOKEN)
    assert done.code == 1
    assert done.error.startswith("me/Tiny could not be uploaded (")


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (CARD.replace("license: apache-2.0\n", ""), "README.md names no license, as the source names none"),
        (CARD.replace("- gguf", "- 3"), "tags in README.md are no list of words"),
        ("# Tiny\n", "README.md has no front matter"),
        ("---\na: [\n---\n", "the front matter of README.md is no valid YAML"),
        (None, "there is no README.md; run the report stage with the plugin model-card"),
    ],
)
def test_card_that_is_not_ready(folder: Path, tmp_path: Path, card: str | None, says: str) -> None:
    (folder / "README.md").unlink() if card is None else (folder / "README.md").write_text(card)
    release = release_of(folder, None)
    assert says in release.problems[0]
    if card is not None and "license" not in card and card.startswith("---\nbase"):
        for arguments, start in ((["--dry-run"], "the release is not ready: "), ([], "nothing was uploaded: ")):
            done = publish(tmp_path, folder, *arguments, token=TOKEN)
            assert done.code == 1
            assert done.error.startswith(start + says)


def test_folders_that_hold_no_release(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is no folder of a bitclass3 run"):
        release_of(tmp_path, None)
    (folder / "Tiny-4.80bpw.gguf").unlink()
    with pytest.raises(ModelFileError, match="holds no GGUF that the run made"):
        release_of(folder, None)


@pytest.mark.parametrize("repo", ["a b/c", "a/b/c", "-x", ""])
def test_names_that_no_hub_accepts(folder: Path, repo: str) -> None:
    if repo:
        with pytest.raises(ConfigError, match="is no name for the hub"):
            release_of(folder, repo)
    else:
        assert release_of(folder, repo).repo == "Tiny-bitclass3-GGUF"


def test_split_files_go_together(folder: Path) -> None:
    for number in (1, 2):
        write_gguf(folder / f"Tiny-Q4-{number:05d}-of-00002.gguf")
    entries = {"Tiny-Q4": {"kind": "ours", "file": "Tiny-Q4-00001-of-00002.gguf"}}
    (folder / "run.json").write_text(json.dumps({"artefacts": {}, "candidates": entries}))
    release = release_of(folder, None)
    assert [name for name in release.files if "-of-" in name] == ["Tiny-Q4-00001-of-00002.gguf", "Tiny-Q4-00002-of-00002.gguf"]
    assert release.repo == "Tiny-bitclass3-GGUF"
