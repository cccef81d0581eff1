"""ONNX files that are links, as in hub caches: finds where their external data really lies.

An engine refuses data whose real location is outside the folder that it looks in. So links are followed here,
once, and the graph is handed over with the real locations in it.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from embedding_runtime.engines.onnx_files.tables import graph_edited, inside, locations, moved
from embedding_runtime.errors import BundleError


def links_followed(model: bytes, graph: Path) -> tuple[bytes, Path]:
    """The ONNX file `model`, whose path is `graph`, and the folder in which its data really lies.

    A graph that is a link may have its data beside the link, or beside the link's target.

    Raises:
        BundleError: not an ONNX file.
    """
    try:
        names = locations(model)
        places = {name: _real(name, graph) for name in names if inside(name)}  # the engine refuses others
        if not places:
            return model, graph.parent
        folder = Path(os.path.commonpath([place.parent for place in places.values()]))
        new = {name: place.relative_to(folder).as_posix() for name, place in places.items()}
        return (model if all(k == v for k, v in new.items()) else _renamed(model, new)), folder
    except ValueError as e:
        raise BundleError(f"{graph} is not an ONNX file ({e}). Export the bundle again.") from e


def data_names(graph: Path) -> set[str]:
    """Names of the files of external data that a graph uses, relative to its folder.

    Raises:
        BundleError: not an ONNX file.
    """
    try:
        return locations(graph.read_bytes())
    except ValueError as e:
        raise BundleError(f"{graph} is not an ONNX file ({e}). Export the bundle again.") from e


def data_beside(graph: Path) -> Path:
    """The folder in which a graph's data has the names that the graph uses: beside one of the links to the
    graph."""
    if not graph.is_symlink():
        return graph.parent
    names = [name for name in locations(graph.read_bytes()) if inside(name)]
    folders = (hop.parent for hop in _hops(graph))
    return next((f for f in folders if all((f / name).exists() for name in names)), graph.parent)


def _real(name: str, graph: Path) -> Path:
    places = [hop.parent / name for hop in _hops(graph)]
    return next((place for place in places if place.exists()), places[0]).resolve()


def _hops(graph: Path) -> Iterator[Path]:
    """The graph's path, and the target of each link in turn, which may be a link again."""
    yield graph
    while graph.is_symlink():
        graph = graph.parent / graph.readlink()
        yield graph


def _renamed(model: bytes, names: Mapping[str, str]) -> bytes:
    return graph_edited(model, lambda graph: moved(graph, names))
