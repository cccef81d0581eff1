"""`embedding-doctor`: describes this machine and a bundle on it: what is wrong, and what could be better."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from embedding_runtime.console import run_command, show
from embedding_runtime.doctor.advice import MB, advice, problems
from embedding_runtime.doctor.bundle import BundleState, examine_bundle
from embedding_runtime.doctor.machine import Machine, examine_machine

SCHEMA_VERSION = 1


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 all is well, 1 something is wrong, 2 usage, 130 interrupted."""
    options = _parser().parse_args(argv)
    return run_command("embedding-doctor", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    machine = examine_machine()
    bundle = None
    if options.bundle is not None and any(e.version for e in machine.engines.values()):
        memory = min((m for m in (machine.memory_available, machine.memory_limit) if m), default=None)
        bundle = examine_bundle(options.bundle, machine.threads, memory)
    wrong, better = problems(machine, bundle), advice(machine, bundle)
    if options.json:
        report = {
            "schema_version": SCHEMA_VERSION,
            "machine": asdict(machine),
            "bundle": bundle and asdict(bundle),
            "problems": wrong,
            "advice": better,
        }
        _write([json.dumps(report, indent=2, ensure_ascii=False)])
    else:
        _write(_machine_lines(machine))
        _write(_bundle_lines(bundle) if bundle else [])
        _write([f"wrong      {line}" for line in wrong] + [f"better     {line}" for line in better])
        _write([] if wrong else ["fine       nothing is wrong"])
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="embedding-doctor",
        description="Examine this machine, and a bundle on it: is anything wrong, what would be faster or "
        "smaller here?",
        epilog="Exit status: 0 all is well, 1 something is wrong, 2 usage, 130 interrupted.",
    )
    p.add_argument("bundle", metavar="BUNDLE", nargs="?", type=Path, help="a bundle, to open, check and time")
    p.add_argument("--json", action="store_true", help="print the findings as one JSON document")
    return p


def _write(lines: list[str]) -> None:
    show("".join(f"{line}\n" for line in lines))


def _machine_lines(m: Machine) -> list[str]:
    cores = ", ".join(
        f"{g.count} x {g.name}{f' {g.megahertz} MHz' if g.megahertz else ''}{'' if g.fast else ' (slow)'}"
        for g in m.cores
    )
    features = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in m.features.items())
    quota = "" if m.quota is None else f"; the control group grants {m.quota:g} CPUs"
    limit = "" if m.memory_limit is None else f", the control group grants {_mb(m.memory_limit)}"
    access = "" if m.cache.writable else ", cannot be written"
    system = ", ".join(filter(None, (f"{m.platform.system} {m.platform.machine}", m.platform.libc_text)))
    return [
        f"machine    {m.board}: {system}, Python {m.python}",
        f"CPU        {cores} ({m.cpu_kind}: {features or 'features unknown'})",
        f"memory     {_mb(m.memory)}, {_mb(m.memory_available)} of it free{limit}",
        f"threads    {m.threads}: the fast CPUs this process may use{quota}",
        *(f"engine     {e.name} {e.version or e.error}" for e in m.engines.values()),
        f"cache      {m.cache.folder}: {m.cache.entries} packed graphs, {_mb(m.cache.size)}; "
        f"{_mb(m.cache.free)} free{access}",
    ]


def _bundle_lines(b: BundleState) -> list[str]:
    lines = [f"bundle     {b.path}, of {b.source or 'an unknown checkpoint'}"]
    for graph in b.graphs:
        speed = graph.speed
        time = f"; {speed.milliseconds:.1f} ms for a query of {speed.tokens} tokens" if speed else ""
        mark = "chosen" if graph.chosen else "not chosen"
        lines.append(f"graph      {graph.key}, {_mb(graph.size)}: {mark}, {graph.why}{time}")
    if b.golden_difference is not None:
        allowed = "" if b.golden_tolerance is None else f", {b.golden_tolerance:.3g} allowed"
        lines.append(
            f"check      files as exported; golden vectors off by {b.golden_difference:.2g}{allowed}; "
            f"comparison with the reference {b.parity}"
        )
        packed = "packed weights from the cache" if b.prepared else "no packed weights in the cache"
        lines.append(
            f"opened     in {b.load_seconds:.2f} s, {packed}; the process holds {_mb(b.anonymous)} of its "
            f"own, {_mb(b.proportional)} with its share of mapped files"
        )
    return [*lines, *(f"note       {note}" for note in b.notes)]


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / MB:,.0f} MB"
