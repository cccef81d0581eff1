"""The service as a process: how it starts, who may reach it, what a signal and a killed worker do."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from service import serving, workers
from text_command import COMMAND

from embedding_runtime import Embedder
from embedding_runtime.embed_text.cli import main

Captured = pytest.CaptureFixture[str]


def alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


@pytest.mark.parametrize("options", [(), ("--workers", 2)], ids=["one process", "two workers"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end(
    served_bundle: Path, options: tuple[object, ...], number: signal.Signals
) -> None:
    body = {"input": [[2, *[9] * 200, 1]] * 80}
    with serving(served_bundle, "--precision", "fp32", *options) as service, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(lambda: service.post(**body)) for _ in range(4)]
        service.until("embedding_unanswered_texts", 320)
        service.process.send_signal(number)
        assert {answer.result().status_code for answer in answers} == {200}
        assert service.process.wait(30) == 0
    assert service.lines[1:] == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_worker_is_replaced(served_bundle: Path) -> None:
    with serving(served_bundle, "--workers", 2) as service:
        before = workers(service.process.pid)
        assert len(before) == 2
        for pid in before:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while len(workers(service.process.pid) - {pid}) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert not before & workers(service.process.pid)
        assert service.post(input="a").status_code == 200
        assert service.metric("embedding_texts_total") == 1
        assert service.metric("embedding_unanswered_texts") == 0
        left = workers(service.process.pid)
    assert not [pid for pid in left if alive(pid)]
    assert "starting another" in service.lines[1]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_their_parent(served_bundle: Path) -> None:
    with serving(served_bundle, "--workers", 2) as service:
        left = workers(service.process.pid)
        service.process.kill()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in left):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert len(left) == 2


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount a full disk")
def test_a_full_disk_does_not_end_workers(served_bundle: Path, tmp_path: Path) -> None:
    """Their counts are mapped files: a worker that began one on a full disk would be killed by it."""
    mount = f'mount -t tmpfs -o size=4m tmpfs {tmp_path}; exec "$@"'
    under = ("unshare", "--mount", "sh", "-ec", mount, "sh")
    with serving(served_bundle, "--workers", 2, under=under, TMPDIR=str(tmp_path)) as service:
        seen_by_it = Path(f"/proc/{service.process.pid}/root{tmp_path}")
        with (seen_by_it / "all").open("wb", 0) as disk, pytest.raises(OSError, match="No space left"):
            while True:
                disk.write(bytes(1024))
        for pid in workers(service.process.pid):
            os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            assert service.post(input="a").status_code == 200
            assert service.post(input=7).status_code == 400
        assert service.metric('embedding_requests_total{status="400"}') == 20
        assert service.process.poll() is None
    assert service.lines[1:] and all("starting another" in line for line in service.lines[1:])


def test_workers_count_together(served_bundle: Path) -> None:
    with serving(served_bundle, "--workers", 2) as service:
        for _ in range(20):
            assert service.post(input=["a", "b"]).status_code == 200
        assert service.metric("embedding_texts_total") == 40
        assert service.metric('embedding_requests_total{status="200"}') == 20


def test_a_token_from_the_environment_or_a_file(served_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with serving(served_bundle, "--token-file", tmp_path / "token", EMBED_TEXT_TOKEN="another") as service:
        assert b"secret" not in Path("/proc", str(service.process.pid), "cmdline").read_bytes()
        for header, status in {
            "Bearer secret": 200,
            "bearer secret": 200,
            "Bearer another": 401,
            "Bearer secre": 401,
            "Basic secret": 401,
            "secret": 401,
            "": 401,
            "Bearer sécret": 401,
        }.items():
            headers = [(b"authorization", header.encode())] if header else []
            for path in ("v1/models", "metrics", "v1/other"):
                found = httpx.get(f"{service.url}/{path}", headers=headers).status_code
                assert found == (404 if status == 200 and path == "v1/other" else status), header
        refused = httpx.post(f"{service.url}/v1/embeddings", json={"input": "a"})
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{service.url}/health").status_code == 200
        assert httpx.get(f"{service.url}/ready").status_code == 200


REFUSED: dict[str, tuple[list[str], str]] = {
    "reach": (["--host", "0.0.0.0"], "can be reached from other machines"),
    "reach of IPv6": (["--host", "::"], "can be reached from other machines"),
    "a host": (["--host", "no.such.host.invalid"], "is not an address"),
    "a port": (["--port", "70000"], "expected an int from 0 to 65535"),
    "workers": (["--workers", "0"], "expected an int from 1"),
    "texts": (["--max-texts", "0"], "--max-texts is 0"),
    "time": (["--timeout", "nan"], "--timeout is nan"),
    "no token file": (["--token-file", "missing"], "cannot be read"),
    "threads": (["--threads", "0"], "threads is 0"),
    "precision": (["--precision", "int3"], "no graph for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(served_bundle: Path, name: str, capsys: Captured) -> None:
    options, message = REFUSED[name]
    assert main(["serve", str(served_bundle), "--port", "0", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", " ", "two words", "sécret"])
def test_no_token_is_not_an_empty_one(
    served_bundle: Path, token: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBED_TEXT_TOKEN", token)
    assert main(["serve", str(served_bundle), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "EMBED_TEXT_TOKEN holds no token" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_bundle_that_does_not_open_ends_the_service(tmp_path: Path, count: str) -> None:
    command = [*COMMAND, "serve", str(tmp_path), "--port", "0", "--workers", count]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("embed-text: error: ") and "no manifest.json" in done.stderr


@pytest.mark.parametrize("count", ["1", "2"])
def test_what_it_says_of_a_bundle_is_one_line_each(served_bundle: Path, tmp_path: Path, count: str) -> None:
    """A graph that nobody has compared, whose weights are missing: a warning and an error."""
    bundle = Path(shutil.copytree(served_bundle, tmp_path / "bundle"))
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"status": "passed"', '"status": "not run"'))
    for data in bundle.glob("onnx/*_data"):
        data.unlink()
    command = [*COMMAND, "serve", str(bundle), "--port", "0", "--workers", count]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    warned, refused = done.stderr.splitlines()
    assert warned.startswith("embed-text: warning: The graph onnx/int8 of ")
    assert refused.startswith("embed-text: error: ") and "is missing" in refused


def test_a_port_that_is_taken(served_bundle: Path, capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(served_bundle), "--port", port]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_bundle_may_be_called_serve(
    served_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """`embed-text serve texts.txt` embeds with that bundle; `embed-text serve FOLDER` serves the folder."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("the red planet\n")
    assert main(["serve", "texts.txt"]) == 2
    assert "texts.txt is not a folder" in capsys.readouterr().err
    Path("serve").symlink_to(served_bundle)
    assert main(["serve", "texts.txt", "-o", "out.jsonl", "--threads", "1"]) == 0
    (row,) = map(json.loads, Path("out.jsonl").read_text().splitlines())
    with Embedder("serve", threads=1) as embedder:
        expected = embedder.encode("the red planet")
    np.testing.assert_array_equal(np.array(row["embedding"], dtype=np.float32), expected)
    for bundle in ("serve", str(served_bundle)):
        assert main(["serve", bundle, "--timeout", "0"]) == 2
        assert "--timeout is 0" in capsys.readouterr().err
    with serving(Path("serve")) as service:
        assert service.post(input="a").status_code == 200


def test_what_is_missing_is_named(
    served_bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedding_runtime.serve.command.cli.find_spec", lambda name: None)
    assert main(["serve", str(served_bundle)]) == 1
    assert "pip install 'embedding-edge[serve]'" in capsys.readouterr().err
