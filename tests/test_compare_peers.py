"""Peers: every one has pins and a script that serves it; what cannot be installed is named and left out."""

from pathlib import Path

import pytest

from embedding_validate import compare_peers
from embedding_validate.compare_peers import KNOWN, PEERS, Peer, arguments_of


@pytest.mark.parametrize("peer", KNOWN, ids=lambda p: p.environment)
def test_a_peer_is_complete(peer: Peer) -> None:
    lines = (PEERS / f"{peer.environment}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins and all("==" in pin for pin in pins), "pinned"
    script = (PEERS / peer.script).read_text(encoding="utf-8")
    for system in peer.systems:
        assert f'"{system}"' in script


def test_what_cannot_be_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.txt").write_text("./there-is-no-such-wheel-1.0-py3-none-any.whl\n")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / ".ready").touch()
    known = (
        Peer("broken", "a.py", ("a-int8",)),
        Peer("absent", "b.py", ("b",)),
        Peer("done", "c.py", ("c",)),
    )
    monkeypatch.setattr(compare_peers, "KNOWN", known)
    monkeypatch.setattr(compare_peers, "PEERS", tmp_path)
    (argument,) = arguments_of(tmp_path)
    assert argument == f"--peer=c={tmp_path / 'done' / 'bin' / 'python'}={tmp_path / 'c.py'}"
    said = capsys.readouterr().err
    assert "a-int8: not installed here, left out (" in said and "there-is-no-such-wheel" in said
    assert "b: not installed here, left out (there is no absent.txt" in said
    assert not (tmp_path / "broken" / ".ready").exists(), "the next time it is tried again"
