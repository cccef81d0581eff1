"""`compare-phone` without a browser: who is let in, what is served, what a report may say, what is kept."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from embedding_runtime.bundle import load_manifest
from embedding_runtime.errors import InputError
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import store
from embedding_validate.compare.document.browser import BrowserRun
from embedding_validate.compare.phone import address, cli, engines
from embedding_validate.compare.phone.app import Pages
from embedding_validate.compare.phone.plan import Plan, choose
from embedding_validate.compare.phone.results import Results, status

# One case of a comparison.
QUICK = ["--graphs=onnx/int8", "--threads=1", "--lengths=8", "--seconds=0.01", "--rounds=1"]
AGENT = "Mozilla/5.0 (Linux; Android 16)"


@pytest.fixture
def plan(litert_bundle: Path) -> Plan:
    manifest = load_manifest(litert_bundle)
    graphs = choose(litert_bundle, manifest, ["onnx/int8"])
    return Plan("tiny", manifest, graphs, (16, 64), (1, 2), 0.1, 60)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder as npm leaves it."""
    dist = tmp_path / "npm" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    (dist / "ort.wasm.min.mjs").write_text("export {}")
    (dist / "notes.txt").write_text("not for pages")
    (tmp_path / "npm" / "secret.js").write_text("no")
    return tmp_path / "npm"


@pytest.fixture
def results(plan: Plan, tmp_path: Path) -> Results:
    return Results(plan, tmp_path / "out", lambda _: None)


@pytest.fixture
def door() -> address.Door:
    return address.Door("http://127.0.0.1:8081")


@pytest.fixture
def client(plan: Plan, packages: Path, results: Results, door: address.Door) -> TestClient:
    """A browser that has opened a link."""
    found = TestClient(Pages(plan, packages, results, door, lambda: None).app())
    assert found.get(door.link().removeprefix(door.base)).status_code == 200
    return found


def case(**changed: Any) -> dict[str, Any]:
    times = [{"tokens": 16, "status": "measured", "reason": None, "samples_ms": [1.0, 3.0, 2.0]}]
    made = {"system": "onnx/int8", "engine": "wasm", "threads": 1, "status": "measured", "reason": None}
    figures = {"tolerance": 0.01, "cosine": 0.9999, "max_abs_error": 0.002, "load_s": 0.5, "first_ms": 9.0}
    return made | figures | {"heap_bytes": 50_000_000, "times": times} | changed


def report(*cases: dict[str, Any], **changed: Any) -> dict[str, Any]:
    machine = {"agent": AGENT, "cores": 8, "memory_gb": 8, "isolated": True, "webgpu": None}
    made = {"run": "1-2-3-4", "label": "Pixel", "complete": True, "machine": machine, "cases": list(cases)}
    return made | changed


def read(folder: Path) -> BrowserRun:
    (run,) = [r for r in store.load(folder / "compare.json").runs if isinstance(r, BrowserRun)]
    return run


def test_a_link_lets_one_browser_in(client: TestClient, door: address.Door) -> None:
    link = door.link().removeprefix(door.base)
    assert TestClient(client.app).get(link).status_code == 200
    second = TestClient(client.app).get(link)
    assert second.status_code == 403 and "has been used" in second.text
    assert client.get(link).status_code == 200, "who is in stays in"


@pytest.mark.parametrize(
    "path", ["/", "/plan", "/page/page.js", "/engines/onnxruntime-web/dist/ort.wasm.min.mjs", "/bundle/x"]
)
def test_nobody_else_gets_anything(client: TestClient, path: str) -> None:
    stranger = TestClient(client.app)
    assert stranger.get(path).status_code == 403
    assert stranger.get("/?token=guessed").status_code == 403
    assert stranger.post("/report", json=report(case())).status_code == 403


def test_threads_need_these_headers(client: TestClient) -> None:
    for path in ("/", "/page/worker.js", "/engines/onnxruntime-web/dist/ort.wasm.min.mjs", "/nothing"):
        found = client.get(path).headers
        assert found["cross-origin-opener-policy"] == "same-origin"
        assert found["cross-origin-embedder-policy"] == "require-corp"
        assert found["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/engines/onnxruntime-web/dist/notes.txt",
        "/engines/onnxruntime-web/../secret.js",
        "/engines/onnxruntime-web/..%2Fsecret.js",
        "/engines/protobufjs/index.js",
        "/bundle/manifest.json",
        "/bundle/onnx/model.onnx",
        "/bundle/..%2Fx",
        "/page/../cli.py",
        "/page/..%2Fcli.py",
        "/page/npm",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_what_is_served_is_what_lies_there(client: TestClient, plan: Plan, litert_bundle: Path) -> None:
    asked = client.get("/plan").json()
    (graph,) = asked["graphs"]
    for file in graph["files"]:
        found = client.get(file["url"]).content
        assert found == (litert_bundle / "onnx" / file["name"]).read_bytes() and len(found) == file["size"]
    golden = plan.graphs[0].graph.golden
    assert [g["ids"] for g in graph["golden"]] == [list(g.ids) for g in golden]
    assert graph["golden"][0]["vector"] == golden[0].vector.tolist()
    assert {n: len(ids) for n, ids in asked["texts"].items()} == {"16": 16, "64": 64}
    assert (
        client.get("/engines/onnxruntime-web/dist/ort.wasm.min.mjs")
        .headers["content-type"]
        .startswith("text/javascript")
    )


def test_a_report_becomes_a_run(client: TestClient, tmp_path: Path) -> None:
    assert client.post("/report", json=report(case())).status_code == 204
    run = read(tmp_path / "out")
    assert (run.label, run.complete, run.machine.agent, run.bundle) == ("Pixel", True, AGENT, "tiny")
    (times,) = run.cases[0].times
    assert (times.median_ms, times.p5_ms, times.p95_ms) == (2.0, 1.1, 2.9)
    for name in ("compare.md", "compare.html"):
        shown = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Pixel" in shown and "onnx/int8, wasm, 1 thread" in shown and "0.99990" in shown
    assert status([run]) == 0


def test_a_wrong_engine_is_named_and_not_timed(client: TestClient, tmp_path: Path) -> None:
    wrong = case(engine="webgpu", threads=0, status="wrong", reason="cosine 0.2", cosine=0.2, times=[])
    wrong["max_abs_error"] = None
    assert client.post("/report", json=report(case(), wrong)).status_code == 204
    run = read(tmp_path / "out")
    assert [c.name for c in run.failures] == ["onnx/int8, webgpu"] and status([run]) == 1
    shown = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "wrong: cosine 0.2" in shown


@pytest.mark.parametrize(
    "posted",
    [
        [],
        {},
        report(case(), label=" \n"),
        report(case(system="onnx/fp32")),
        report(case(tolerance=1.0)),
        report(case(max_abs_error=0.02)),
        report(case(max_abs_error=None)),
        report(case(cosine=None)),
        report(case(status="fine")),
        report(case(times=[{"tokens": 16}])),
        report(case(more=1)),
        report(*[case()] * 101),
    ],
)
def test_what_is_no_report_is_refused(client: TestClient, tmp_path: Path, posted: Any) -> None:
    found = client.post("/report", json=posted)
    assert found.status_code == 400 and "no report" in found.text
    assert not (tmp_path / "out" / "compare.json").exists()


def test_a_report_has_bounds(client: TestClient) -> None:
    assert client.post("/report", content=b" " * (5 << 20)).status_code == 413
    assert client.post("/report", content=b"{").status_code == 400


def test_words_of_a_browser_are_only_words(client: TestClient, tmp_path: Path) -> None:
    bad = case(status="failed", reason="<b>x</b>\n| row |" + "y" * 900, times=[])
    assert client.post("/report", json=report(bad, label="<script>alert(1)</script>\x00")).status_code == 204
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>x" not in page
    run = read(tmp_path / "out")
    assert run.label.isprintable() and len(run.cases[0].reason or "") == 500


def test_a_case_that_closed_the_page_is_told_and_not_tried_again(client: TestClient, tmp_path: Path) -> None:
    begun = case(threads=2, status="begun", cosine=None, max_abs_error=None, times=[])
    assert client.post("/report", json=report(case(), begun, complete=False)).status_code == 204
    assert read(tmp_path / "out").cases[1].status == "begun"
    assert client.get("/plan").json()["ended"] == ["onnx/int8, wasm, 2 threads"]
    run = read(tmp_path / "out")
    assert run.cases[1].status == "ended" and status([run]) == 1
    assert "memory may have run out" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_another_browser_is_another_one(
    client: TestClient, results: Results, door: address.Door, tmp_path: Path
) -> None:
    begun = case(threads=2, status="begun", cosine=None, max_abs_error=None, times=[])
    client.post("/report", json=report(begun, complete=False))
    other = TestClient(client.app)
    other.get(door.link().removeprefix(door.base))
    assert other.get("/plan").json()["ended"] == []
    other.post("/report", json=report(case(), label="other"))
    assert [run.label for run in results.runs] == ["Pixel", "other"]
    assert results.runs[0].cases[0].status == "begun"


def test_beside_the_desktop(client: TestClient, litert_bundle: Path, plan: Plan, tmp_path: Path) -> None:
    """Added to what compare-embedding wrote; and a comparison that is made again leaves it there."""
    command = [str(litert_bundle), "--output", str(tmp_path / "both"), *QUICK]
    assert compare.main(command) == 0
    both = Results(plan, tmp_path / "both", lambda _: None)
    both.take(report(case()), "guest")
    document = store.load(tmp_path / "both" / "compare.json")
    assert [run.origin for run in document.runs] == ["measured", "browser"]
    assert compare.main(command) == 0
    again = store.load(tmp_path / "both" / "compare.json")
    assert again.runs[1] == document.runs[1] and again.runs[0] != document.runs[0]
    page = (tmp_path / "both" / "compare.html").read_text(encoding="utf-8")
    assert "Pixel" in page and "How this was measured" in page
    merged = ["--merge", str(tmp_path / "both" / "compare.json"), "--output", str(tmp_path / "merged")]
    assert compare.main(merged) == 0
    assert store.load(tmp_path / "merged" / "compare.json") == again


def test_an_interrupted_comparison_is_not_touched(plan: Plan, tmp_path: Path, litert_bundle: Path) -> None:
    folder = tmp_path / "out"
    assert compare.main([str(litert_bundle), "--output", str(folder), *QUICK]) == 0
    written = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    written["runs"][0]["complete"] = False
    (folder / "compare.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(InputError, match="--resume"):
        Results(plan, folder, lambda _: None)


def test_the_best_of_each_format(litert_bundle: Path) -> None:
    manifest = load_manifest(litert_bundle)
    assert [g.key for g in choose(litert_bundle, manifest, None)] == ["onnx/int8", "litert/int8"]
    with pytest.raises(InputError, match="No graph onnx/int4"):
        choose(litert_bundle, manifest, ["onnx/int4"])


@pytest.mark.usefixtures("cache")
def test_what_is_missing_is_named(litert_bundle: Path, tmp_path: Path, capsys: Any) -> None:
    command = [str(litert_bundle), "--output", str(tmp_path / "out"), "--port", "0"]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert engines.FETCH in said and "onnxruntime-web" in said
    assert cli.main([str(litert_bundle)]) == 2
    assert cli.main([]) == 2


@pytest.mark.usefixtures("cache")
def test_without_npm_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["--fetch"]) == 1
    assert "npm is not installed" in capsys.readouterr().err
    assert not engines.folder().exists()


def test_versions_are_pinned_by_the_lock_file() -> None:
    path = Path(engines.__file__).parent / "npm" / "package-lock.json"
    lock = json.loads(path.read_text(encoding="utf-8"))
    for name, version in engines.versions().items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    others = (p for name, p in lock["packages"].items() if name)
    assert all(p["integrity"].startswith("sha512-") for p in others)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_is_known(host: str) -> None:
    assert address.is_loopback(host)
    assert not address.is_loopback("0.0.0.0")


def test_a_certificate_for_one_run(tmp_path: Path) -> None:
    """That a server can use."""
    found = address.certificate("192.0.2.7", tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found, found)


def test_the_qr_code_fits_a_terminal(door: address.Door) -> None:
    drawn = address.qr_code(door.link())
    assert 10 < len(drawn.splitlines()) < 24
    assert "▄" in drawn
