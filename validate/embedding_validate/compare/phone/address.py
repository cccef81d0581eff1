"""How a phone reaches the page: a link that works once, the address in it, a QR code, a certificate."""

import hmac
import io
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from embedding_runtime.errors import EngineError
from embedding_runtime.machine import addresses

# For asking which of this machine's addresses others reach: no packet is sent there (RFC 5737).
_ELSEWHERE = ("192.0.2.1", 9)


@dataclass
class Door:
    """Lets in who shows a link's token; each opens for one browser, which then is known by a cookie."""

    base: str
    _tokens: list[str] = field(default_factory=list)
    _guests: list[str] = field(default_factory=list)

    def link(self) -> str:
        """A new link."""
        self._tokens.append(secrets.token_urlsafe(12))
        return f"{self.base}/?token={self._tokens[-1]}"

    def enter(self, token: str) -> str | None:
        """The cookie for a token that nobody has used; None for any other."""
        if not any(_same(token, each) for each in self._tokens):
            return None
        self._tokens = [each for each in self._tokens if not _same(token, each)]
        self._guests.append(secrets.token_urlsafe(24))
        return self._guests[-1]

    def knows(self, cookie: str) -> bool:
        """Whether it gave out this cookie."""
        return any(_same(cookie, each) for each in self._guests)


def _same(shown: str, expected: str) -> bool:
    return hmac.compare_digest(shown.encode(), expected.encode())


def shown_host(host: str) -> str:
    """What to write in a link for a server that listens at `host`: of all addresses, the one others reach."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(_ELSEWHERE)
            return str(asking.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; False where that cannot be told."""
    try:
        return addresses.is_loopback(host)
    except OSError:
        return False


def qr_code(text: str) -> str:
    """A QR code of half-block characters, for a terminal; nothing where segno is not installed."""
    try:
        import segno
    except ImportError:
        return ""
    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue()


def certificate(host: str, folder: Path) -> Path:
    """A key and a certificate for `host` in one file of `folder`, signed by nobody that a browser knows.

    Raises:
        EngineError: trustme is not installed.
    """
    try:
        import trustme
    except ImportError as e:
        raise EngineError("--https needs trustme: pip install 'embedding-edge[phone]'.") from e
    file = folder / "certificate.pem"
    trustme.CA().issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(file))
    return file
