"""Reading .skops files as data: a zip of one JSON tree and plain arrays. Nothing in it is imported, made or called.

The format: skops' docs (persistence). A node of the tree names the class it stands for; the classes that may occur are
listed here, with what is read of each, and any other makes the file be refused. So neither scikit-learn nor skops is
needed, and a file written under other versions of them reads alike.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fexruntime.errors import CheckpointError

READ: dict[tuple[str, str], tuple[str, ...]] = {
    ("sklearn.preprocessing._data", "StandardScaler"): ("mean_", "scale_"),
    ("sklearn.decomposition._pca", "PCA"): ("components_", "mean_", "explained_variance_", "whiten"),
    ("sklearn.svm._classes", "LinearSVC"): ("coef_", "intercept_", "classes_"),
    ("xgboost.sklearn", "XGBClassifier"): ("_Booster",),
    ("xgboost.core", "Booster"): ("handle",),
}
"""By (module, class): the attributes that are read; all others are left alone."""
WRAPPERS = ("XGBClassifier", "SVMClassifier", "EmoSVMClassifier")
"""py-feat's own classes round them, in `feat` or, in files that were never migrated, in `__main__`."""
_WRAPPED = tuple(f"{kind}_{part}" for kind in ("scaler", "pca_model") for part in ("upper", "lower", "full"))
_PLAIN = frozenset({
    ("builtins", "dict"), ("builtins", "list"), ("builtins", "tuple"), ("builtins", "set"), ("builtins", "str"),
    ("builtins", "bytes"), ("builtins", "bytearray"), ("builtins", "int"), ("builtins", "float"), ("builtins", "bool"),
    ("builtins", "NoneType"), ("collections", "OrderedDict"), ("collections", "defaultdict"), ("numpy", "ndarray"),
})  # fmt: skip
_UNREAD = frozenset({
    ("sklearn.preprocessing._label", "LabelEncoder"), ("xgboost.compat", "XGBoostLabelEncoder"),
    ("numpy.random", "RandomState"), ("numpy.random.mtrand", "RandomState"),
})  # fmt: skip
"""Classes that may stand in a file and of which nothing is read."""
LARGEST = 1 << 31
"""Bytes that one member may unpack to."""


def read_skops(name: str, data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(arrays by their path in the file, as tensors; what is read that is no array, by path). Bytes are uint8 arrays.

    Raises CheckpointError for what is no such file, and for a class that is not listed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(name, archive)
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError, AttributeError, OSError) as error:
        raise CheckpointError(f"{name} is not a whole .skops file: {type(error).__name__}: {error}") from None


def _read(name: str, archive: zipfile.ZipFile) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tree = json.loads(archive.read("schema.json"))
    nodes = list(_nodes(tree))
    refused = sorted({f"{n['__module__']}.{n['__class__']}" for n in nodes if not _is_listed(n)})
    if refused:
        raise CheckpointError(
            f"{name} holds {', '.join(refused[:3])}{', …' if len(refused) > 3 else ''}, which is not on the list of what such a "
            "file may hold: it is not read"
        )
    if tree["__class__"] not in WRAPPERS:
        raise CheckpointError(f"{name} holds a {tree['__class__']}, not one of {', '.join(WRAPPERS)}")
    by_id = {n["__id__"]: n for n in nodes if "__id__" in n and n.get("__loader__") != "CachedNode"}
    tensors: dict[str, torch.Tensor] = {}
    config: dict[str, Any] = {}
    for path, node in _leaves(tree, by_id, (*_WRAPPED, "classifiers")):
        value = _value(archive, node)
        if isinstance(value, np.ndarray):
            tensors[path] = torch.from_numpy(np.array(value))
        elif value is not None:
            config[path] = value
    return tensors, config


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every node of the tree."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if "__class__" in item:
                yield item
            todo += item.values()
        elif isinstance(item, list):
            todo += item


def _is_listed(node: Mapping[str, Any]) -> bool:
    kind = (node["__module__"], node["__class__"])
    if node["__class__"] in WRAPPERS and (kind[0] == "__main__" or kind[0].split(".")[0] == "feat"):
        return True
    # numbers and their types ("numpy", "float64")
    number = (
        kind[0] == "numpy"
        and isinstance(getattr(np, kind[1], None), type)
        and issubclass(getattr(np, kind[1]), np.generic)
    )
    return kind in READ or kind in _PLAIN or kind in _UNREAD or number


def _leaves(
    node: Mapping[str, Any], by_id: Mapping[Any, Any], wanted: tuple[str, ...] | None, path: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, node) of what is read: the wanted attributes of listed classes, all items of dictionaries."""
    if node.get("__loader__") == "CachedNode":
        node = by_id[node["__id__"]]
    wanted = READ.get((node["__module__"], node["__class__"])) if wanted is None else wanted
    if node["__loader__"] == "ObjectNode":
        content = (node["content"] or {}).get("content") or {}
        items = {k: v for k, v in content.items() if wanted and k in wanted}
    elif node["__loader__"] in ("DictNode", "OrderedDictNode", "DefaultDictNode"):
        items = node["content"]
    else:
        yield path, node
        return
    for key, item in items.items():
        yield from _leaves(item, by_id, None, f"{path}.{key}" if path else key)


def _value(archive: zipfile.ZipFile, node: Mapping[str, Any]) -> NDArray[Any] | bool | int | float | str | None:
    loader = node["__loader__"]
    if loader == "JsonNode":
        plain: bool | int | float | str | None = json.loads(node["content"])
        return plain
    if loader in ("NdArrayNode", "BytearrayNode", "BytesNode"):
        if archive.getinfo(node["file"]).file_size > LARGEST:
            raise ValueError(f"{node['file']} is larger than {LARGEST >> 30} GiB")
        data = archive.read(node["file"])
        if loader == "NdArrayNode":
            array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
            return array
        return np.frombuffer(data, np.uint8)
    raise ValueError(f"{node['__module__']}.{node['__class__']} stands where a number or an array is read")
