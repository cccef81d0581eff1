"""A page in headless Chromium that a test opens, presses and photographs, over DevTools' pipe.

The protocol is JSON between NUL bytes (https://chromedevtools.github.io/devtools-protocol/); no driver is
needed for that. Skips where no browser is installed, as `browser` does.
"""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
import pytest

_OWN = ("--headless", "--no-sandbox", "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run")
_OFFLINE = ("--disable-background-networking", "--disable-sync", "--disable-component-update")


class Page:
    """One tab, as wide as a phone."""

    def __init__(self, commands: int, answers: int, width: int, height: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb", buffering=0)
        self._last, self._rest, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        phone = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", **phone)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(self._commands, json.dumps(message | self._to()).encode() + b"\0")
        while (found := self._next()).get("id") != self._last:
            pass
        assert "error" not in found, found
        result: dict[str, Any] = found["result"]
        return result

    def open(self, url: str) -> None:
        """Go to a page."""
        assert not self.call("Page.navigate", url=url).get("errorText")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float) -> Any:
        """Wait until an expression is true; what the page says where it does not come to that."""
        deadline = time.monotonic() + seconds
        while not (found := self.evaluate(script)):
            assert time.monotonic() < deadline, self.evaluate("document.body?.innerText")
            time.sleep(0.1)
        return found

    def photograph(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _to(self) -> dict[str, str]:
        return {"sessionId": self._session} if self._session else {}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._answers.read(1 << 20)
            assert read, "the browser ended"
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def page(folder: Path, *flags: str, width: int = 360, height: int = 740) -> Iterator[Page]:
    """A tab of a browser of its own; `folder` takes the browser's files."""
    if browser.CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    reads, commands = os.pipe()
    answers, writes = os.pipe()
    options = [*_OWN, *_OFFLINE, f"--user-data-dir={folder / 'profile'}", *flags]
    # Chromium reads commands from its descriptor 3 and writes answers to 4.
    shell = f'exec "$0" "$@" 3<&{reads} 4>&{writes}'
    process = subprocess.Popen(
        ["bash", "-c", shell, browser.CHROMIUM, *options],
        pass_fds=(reads, writes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reads)
    os.close(writes)
    try:
        yield Page(commands, answers, width, height)
    finally:
        os.close(commands)
        process.terminate()
        process.wait(30)
