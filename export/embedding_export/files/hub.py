"""Turns what the user typed into a local folder. Only this module uses the hub, and imports it lazily."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedding_export.errors import CheckpointError

_CONFIG = "config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = [
    "*.json",
    "*.jinja",
    "*.safetensors",
    "*.model",
    "README.md",
    "LICEN[SC]E*",
    "NOTICE*",
    "COPYING*",
    "USE_POLICY*",
    "TERMS*",
]
_OTHER_FORMATS = ["onnx/*", "openvino/*", "coreml/*"]


@dataclass(frozen=True)
class Location:
    """A checkpoint's folder, its name, and the commit it is pinned to if it came from a hub."""

    folder: Path
    name: str
    revision: str | None


def locate(
    name_or_path: str | Path,
    revision: str | None = None,
    check_config: Callable[[Path], object] = lambda _: None,
) -> Location:
    """Find a checkpoint: an existing folder wins, else a hub id `organisation/name` is fetched.

    `check_config` is called with the path of `config.json` before anything else is fetched; it raises if the
    rest is not worth downloading. It is not called if there is no such file.

    Raises:
        CheckpointError: neither exists, a revision was given for a folder, or the download failed.
    """
    path = _existing(name_or_path)
    if path is not None and path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{path} is a folder, so there is no revision {revision!r} to choose: leave it out."
            )
        return _local(path)
    if path is not None:
        raise CheckpointError(
            f"{path} is a file; expected the checkpoint's folder: give {path.parent} instead."
        )
    if not isinstance(name_or_path, str) or not is_hub_id(name_or_path):
        raise CheckpointError(
            f"No such folder: {name_or_path}. Expected a sentence-transformers folder, or a hub id such as "
            "google/embeddinggemma-300m or google/embeddinggemma-2."
        )
    folder = _download(name_or_path, revision, check_config)
    return Location(folder, name_or_path, folder.name)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `organisation/name`."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name


def _existing(name_or_path: str | Path) -> Path | None:
    try:
        path = Path(name_or_path).expanduser()
        return path if name_or_path and path.exists() else None
    except (OSError, RuntimeError):  # a name too long, a home that does not exist
        return None


def _local(path: Path) -> Location:
    """A folder; one inside the hub's own cache keeps its id and commit."""
    path = path.resolve()
    hub = hub_id_of(path)
    return Location(path, *hub) if hub else Location(path, path.name, None)


def hub_id_of(folder: Path) -> tuple[str, str] | None:
    """Id and commit of a folder of the hub's own cache; None for any other."""
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/"), folder.name


def _download(hub_id: str, revision: str | None, check_config: Callable[[Path], object]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as e:
        raise CheckpointError(
            f"No such folder: {hub_id}. To fetch it as a hub id: pip install 'embedding-edge[export]'"
        ) from e
    where = hub_id if revision is None else f"{hub_id} at revision {revision}"

    def fetch(files: list[str], commit: str | None) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, revision=commit, allow_patterns=files, ignore_patterns=_OTHER_FORMATS
            )
        )

    try:
        small = fetch([_CONFIG], revision)
        if (small / _CONFIG).exists():
            check_config(small / _CONFIG)
        return fetch(_FILES, small.name)  # the same commit, whatever happens in between
    except CheckpointError:
        raise
    except errors.GatedRepoError as e:
        raise CheckpointError(
            f"{hub_id} is gated, and this account may not read it. Accept its terms on the model's page, "
            "then log in with `hf auth login` or set HF_TOKEN to a token of that account."
        ) from e
    except errors.RevisionNotFoundError as e:
        raise CheckpointError(
            f"{where} does not exist, though the repository does. Check the revision."
        ) from e
    except errors.RepositoryNotFoundError as e:
        raise CheckpointError(
            f"No such folder, and the hub has no {hub_id} that this account may see. Check the spelling; "
            "for a private repository log in with `hf auth login` or set HF_TOKEN."
        ) from e
    except errors.HfHubHTTPError as e:
        raise CheckpointError(f"The hub refused {where}: {e}. Check the token, or try again later.") from e
    except Exception as e:  # transport errors of the library's HTTP client share no public base class
        raise CheckpointError(
            f"{where} is not a folder, is not complete in the local cache, and cannot be fetched ({e}). "
            "Connect to the network, or copy the checkpoint here and give its folder."
        ) from e
