"""The page of compare-phone beside its engine alone, in turn in headless Chromium, on a quiet machine.

python tests/support/browsers/page_speed.py BUNDLE [LENGTHS [ROUNDS]]

The same int8 file, engine and ids: a worker, a heap that is watched, and messages should cost nothing.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

import driven
from phone_page import serving


def main(bundle: str, lengths: str = "16,64,256,512", rounds: str = "5") -> None:
    """Print milliseconds of both for 1 and 2 threads and each length, and their ratio in each round."""
    script = Path(__file__).with_name("plain_engine.js").read_text(encoding="utf-8").partition("\n(")[2]
    options = ("--graphs", "onnx/int8", "--lengths", lengths, "--threads", "1,2", "--limit", "600")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(bundle), Path(folder) / "out", *options) as served,
        driven.page(Path(folder)) as page,
    ):
        page.open(served.link)
        page.until("document.querySelector('#start') && !document.querySelector('#start').disabled", 60)
        for threads in ("1", "2"):
            for length in lengths.split(","):
                filled = f"({script}"
                values = {"KEY": "'onnx/int8'", "THREADS": threads, "TOKENS": length, "ROUNDS": rounds}
                for name, value in values.items():
                    filled = filled.replace(name, value)
                found = page.evaluate(filled)
                ours, alone = (median(each) for each in zip(*found, strict=True))
                ratios = ", ".join(f"{a / b:.2f}" for a, b in found)
                print(  # noqa: T201
                    f"{threads} threads, {length} tokens: {ours:.1f} ms, alone {alone:.1f}, ratios {ratios}"
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
