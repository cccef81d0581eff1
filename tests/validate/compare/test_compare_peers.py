"""Peers: every one has pins and a script that serves it; what cannot be installed is named and left out."""

import json
from pathlib import Path

import browser
import pytest

from embedding_validate.compare import cli as compare
from embedding_validate.compare import peers as compare_peers
from embedding_validate.compare.peers import KNOWN, PEERS, Peer, prepare_environments


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
    (argument,), left_out = prepare_environments(tmp_path)
    assert argument == f"--peer=c={tmp_path / 'done' / 'bin' / 'python'}={tmp_path / 'c.py'}"
    said = capsys.readouterr().err
    assert "a-int8: not installed here, left out (" in said and "there-is-no-such-wheel" in said
    assert "b: not installed here, left out (there is no absent.txt" in said
    assert left_out.keys() == {"a-int8", "b"} and "there is no absent.txt" in left_out["b"]
    assert not (tmp_path / "broken" / ".ready").exists(), "the next time it is tried again"


def test_what_is_left_out_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []

    def main(argv: list[str], left_out: dict[str, str]) -> int:
        handed.extend((argv, left_out))
        return 0

    monkeypatch.setattr(compare_peers, "KNOWN", (Peer("absent", "b.py", ("b-int8", "b-q4")),))
    monkeypatch.setattr(compare, "main", main)
    arguments = ["bundle", "checkpoint", "out", "--environments", str(tmp_path)]
    assert compare_peers.main(arguments) == 0
    given, left_out = handed
    assert given == ["bundle", "--reference", "checkpoint", "--output", "out", "--bf16"]
    assert left_out == dict.fromkeys(
        ("b-int8", "b-q4"), "not installed here (there is no absent.txt; peers are measured in a clone)"
    )


def test_what_is_left_out_is_in_the_results(tiny_bundle: Path, tmp_path: Path) -> None:
    """In the JSON, the text and the page; a run that goes on still says it."""
    quick = ["--threads", "1", "--seconds", "0.05", "--rounds", "3", "--lengths", "4"]
    arguments = [str(tiny_bundle), "--output", str(tmp_path), *quick]
    why = "not installed here (no wheel)"
    for more, left_out in (([], {"b-int8": why, "b-q4": why}), (["--resume"], {})):
        assert compare.main([*arguments, *more], left_out) == 0
        (run,) = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["runs"]
        assert run["left_out"] == [{"system": name, "reason": why} for name in ("b-int8", "b-q4")]
        text = (tmp_path / "compare.md").read_text(encoding="utf-8")
        page = browser.text((tmp_path / "compare.html").read_text(encoding="utf-8"))
        assert f"- left out: b-int8, {why}\n- left out: b-q4, {why}" in text
        assert f"b-int8 : left out, {why}" in page and f"b-q4 : left out, {why}" in page
