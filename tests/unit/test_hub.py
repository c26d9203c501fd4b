"""Downloading by name, against a small hub on this machine that answers as the real one does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import bitclass3

from bitclass3_core.sources.hub import is_hub_name

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
}


class Hub(BaseHTTPRequestHandler):
    """org/model is public, org/gated wants a login, anything else is not there."""

    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *arguments):
        pass

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if "org/gated" in path:
            return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if "org/model" not in path:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if "/tree/" in path:
            files = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in FILES.items()]
            return self.answer(200, json.dumps(files).encode())
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
            return self.answer(200, json.dumps({"id": "org/model", "sha": REVISION, "siblings": siblings}).encode())
        content = FILES[path.rsplit("/", 1)[-1]]
        return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=REVISION)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def plan(endpoint, tmp_path, name):
    """``plan`` downloads and then says what is missing: nothing is converted by it."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "5"}
    return bitclass3("plan", "--model", name, "--target-bpw", 5, env=environment, cwd=tmp_path)


@pytest.mark.slow
def test_model_is_downloaded_without_code_or_pickles(hub, tmp_path):
    done = plan(hub, tmp_path, "org/model")
    assert "has no GGUF in it yet; `bitclass3 run` converts it" in done.error, done.err
    (folder,) = (tmp_path / "hf").rglob(REVISION)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not [path for path in Hub.asked if path.endswith((".py", ".bin"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/gated", "org/gated is gated; accept its terms on the hub and log in with `hf auth login`"),
        (
            "org/nothing",
            "org/nothing is no folder here and no model on the hub (or a private one); check the name, or `hf auth login`",
        ),
    ],
)
def test_model_that_cannot_be_had(hub, tmp_path, name, says):
    done = plan(hub, tmp_path, name)
    assert (done.code, done.error) == (1, says)


@pytest.mark.slow
def test_offline(tmp_path):
    done = plan("http://127.0.0.1:9", tmp_path, "org/model")
    assert done.code == 1
    assert done.error.startswith("org/model is no folder here and could not be downloaded (")
    assert done.error.endswith("; check the network, or give a folder on this disk")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Qwen/Qwen3.5-0.8B", True),
        ("a/b/c", False),
        ("./x", False),
        ("../x", False),
        ("/abs/x", False),
        ("model", False),
        ("a b/c", False),
    ],
)
def test_names(text, answer):
    assert is_hub_name(text) is answer


def test_folder_that_is_there_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_hub_name("org/model")
