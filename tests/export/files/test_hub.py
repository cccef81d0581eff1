"""Hub ids: downloads and refusals of the real client, against a small hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from advice import run_advised
from safetensors.torch import load_file

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError
from embedding_export.files.hub import locate

COMMIT = "1234567890abcdef1234567890abcdef12345678"
REFUSALS = {
    "org/missing": (404, "RepoNotFound", "Repository not found"),
    "org/badtoken": (401, "", "Invalid credentials in Authorization header"),
    "org/broken": (500, "", "down"),
}
GATED = (403, "GatedRepo", "Access to model org/gated is restricted")
NO_REVISION = (404, "RevisionNotFound", "Invalid rev id")

PROGRAM = """
import json, os, sys
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError
from embedding_export.files.hub import locate
told = []
for name, revision in json.loads(sys.argv[1]):
    try:
        if name == "org/other-model" or "LOAD" in os.environ:
            load_checkpoint(name, revision=revision)
        where = locate(name, revision)
        told.append([str(where.folder), where.name, where.revision])
    except CheckpointError as error:
        told.append(str(error))
print(json.dumps(told))
"""


class Hub(ThreadingHTTPServer):
    """Serves `folder` as the repository org/open; org/gated lists its files but does not give them.

    org/other-model has the same files but another config.json. `given` are the paths of what was fetched.
    """

    folder: Path
    tokens: set[str | None]
    given: set[str]


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a snapshot needs: commit, list of files, files."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests need not be shown."""

    def answer(self, body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        if path[:2] != ["api", "models"]:
            return self.answer_file(path, body)
        repository, kind, revision = "/".join(path[2:4]), path[4], path[5]
        if repository in REFUSALS:
            return self.refuse(*REFUSALS[repository])
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(*NO_REVISION)
        answer = self.listing() if kind == "tree" else {"id": repository, "sha": COMMIT}
        return self.send(json.dumps(answer).encode(), body)

    def answer_file(self, path: list[str], body: bool) -> None:
        if path[:2] == ["org", "gated"]:
            return self.refuse(*GATED)
        file = self.server.folder / "/".join(path[4:])
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = file.read_bytes()
        if path[1] == "other-model" and path[4:] == ["config.json"]:
            content = json.dumps(json.loads(content) | {"model_type": "gemma3n_text"}).encode()
        if body:
            self.server.given.add("/".join(path))
        return self.send(content, body)

    def listing(self) -> list[dict[str, Any]]:
        files = sorted(p for p in self.server.folder.rglob("*") if p.is_file())
        return [
            {
                "type": "file",
                "path": p.relative_to(self.server.folder).as_posix(),
                "size": p.stat().st_size,
                "oid": f"{i:040x}",
            }
            for i, p in enumerate(files)
        ]

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture(scope="module")
def hub(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the tiny stand-in, and files in it that an export has no use for."""
    server = Hub(("127.0.0.1", 0), Handler)
    server.folder = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("hub") / "open"))
    server.tokens, server.given = set(), set()
    for name in ("README.md", "chat_template.jinja", "pytorch_model.bin", "LICENSE", "onnx/config.json"):
        (server.folder / name).parent.mkdir(exist_ok=True)
        (server.folder / name).write_text("text")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(endpoint: str, home: Path, *names: tuple[str, str | None], **environment: str) -> list[Any]:
    """What `locate` says of each (name, revision), in a process of its own with its own cache."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(names)],
        env=clean | settings | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    answer: list[Any] = json.loads(run.stdout)
    return answer


def address(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


def test_a_repository_is_fetched_pinned_and_then_found_without_network(hub: Hub, tmp_path: Path) -> None:
    found = ask(address(hub), tmp_path, ("org/open", None), ("org/open", "v1"), HF_TOKEN="hf_secret")
    folder = Path(found[0][0])
    assert found == [[str(folder), "org/open", COMMIT]] * 2
    assert "Bearer hf_secret" in hub.tokens
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    assert files >= {
        "config.json",
        "model.safetensors",
        "2_Dense/model.safetensors",
        "LICENSE",
        "chat_template.jinja",
        "tokenizer.json",
    }
    assert not files & {"pytorch_model.bin", "onnx/config.json"}

    checkpoint = load_checkpoint(folder)  # the cache's own folder keeps its id and commit
    assert (checkpoint.source.name, checkpoint.source.revision) == ("org/open", COMMIT)
    assert [p.name for p in checkpoint.license_files] == ["LICENSE"]
    assert checkpoint.source.weights_sha256 == load_checkpoint(hub.folder).source.weights_sha256

    names = (("org/open", None), ("org/open", COMMIT), ("org/other", None))
    offline = ask(address(hub), tmp_path, *names, HF_HUB_OFFLINE="1")
    assert offline[:2] == [[str(folder), "org/open", COMMIT]] * 2
    assert (
        "org/other is not a folder, is not complete in the local cache, and cannot be fetched" in offline[2]
    )


def test_weights_as_bin_are_fetched_and_converted_as_advised(
    tiny_checkpoint: Path, hub: Hub, tmp_path: Path
) -> None:
    """Which an export never fetches: the command speaks of the id and commit, not of the folder."""
    before, hub.folder = hub.folder, Path(shutil.copytree(tiny_checkpoint, tmp_path / "as-bin"))
    try:
        own = hub.folder / "3_Dense"
        torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
        (own / "model.safetensors").unlink()
        (told,) = ask(address(hub), tmp_path / "home", ("org/open", COMMIT), LOAD="1")
        assert "3_Dense has no weights" in told and f"revision='\"'\"'{COMMIT}" in told
        settings = {"HF_ENDPOINT": address(hub), "HF_HOME": str(tmp_path / "other-home")}
        converted = run_advised(told, tmp_path, **settings)
    finally:
        hub.folder = before
    checkpoint = load_checkpoint(converted)
    assert checkpoint.source.weights_sha256 == load_checkpoint(tiny_checkpoint).source.weights_sha256


def test_another_model_is_refused_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    (told,) = ask(address(hub), tmp_path, ("org/other-model", None))
    assert "config.json: model_type is 'gemma3n_text'" in told
    given = {path.rpartition("/")[2] for path in hub.given if path.startswith("org/other-model/")}
    assert given == {"config.json"}


def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    names = ("org/gated", "org/missing", "org/open", "org/badtoken")
    asked = [(name, "v9" if name == "org/open" else None) for name in names]
    gated, missing, revision, token = ask(address(hub), tmp_path, *asked)
    assert gated.startswith("org/gated is gated, and this account may not read it. Accept its terms")
    assert "hf auth login" in gated
    assert "HF_TOKEN" in gated
    assert missing.startswith("No such folder, and the hub has no org/missing that this account may see")
    assert revision.startswith("org/open at revision v9 does not exist, though the repository does")
    assert token.startswith("The hub refused org/badtoken: ")
    assert "Check the token" in token


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    (told,) = ask("http://127.0.0.1:9", tmp_path, ("org/open", None))
    assert "org/open is not a folder, is not complete in the local cache, and cannot be fetched" in told
    assert "copy the checkpoint here" in told


def test_a_hub_that_fails_says_so(hub: Hub, tmp_path: Path) -> None:
    (told,) = ask(address(hub), tmp_path, ("org/broken", None))
    assert "org/broken is not a folder" in told
    assert "cannot be fetched" in told


def test_an_existing_folder_goes_before_a_hub_id(
    editable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    editable.rename(tmp_path / "org" / "open")
    monkeypatch.chdir(tmp_path)
    where = locate("org/open")
    assert (where.folder, where.name, where.revision) == (tmp_path / "org" / "open", "open", None)


NOWHERE = [
    "",
    "nowhere",
    "./org/open",
    "a/b/c",
    "/no/such",
    "org/../open",
    "org/",
    "a b/c",
    "~nobody/x",
    "a\0b/c",
]


@pytest.mark.parametrize("name", [*NOWHERE, "x" * 5000])
def test_what_is_neither_folder_nor_id_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"No such folder: .*Expected a .* folder, or a hub id such as"):
        load_checkpoint(name)


def test_a_missing_path_is_never_looked_up_as_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="No such folder: org/open"):
        load_checkpoint(Path("org/open"))


def test_a_file_is_refused_with_its_folder(editable: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a file; expected .*checkpoint instead"):
        load_checkpoint(editable / "model.safetensors")


def test_a_revision_of_a_folder_is_refused(editable: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, so there is no revision 'main' to choose"):
        load_checkpoint(editable, revision="main")


def test_reading_a_folder_imports_no_hub(tiny_checkpoint: Path) -> None:
    program = (
        "import sys; from embedding_export.checkpoint.checkpoint import load_checkpoint\n"
        "load_checkpoint(sys.argv[1]);"
        "heavy = {'huggingface_hub', 'safetensors', 'onnx', 'onnxruntime', 'torch', 'tokenizers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tiny_checkpoint)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
