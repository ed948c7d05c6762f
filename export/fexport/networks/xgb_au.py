"""Action units by gradient-boosted trees on HOG features: twenty xgboost classifiers.

Mirrors `feat/au_detectors/StatLearning/SL_test.py: XGBClassifier`. The reference that the artefact is verified with is
xgboost itself, on the file's own boosters. Maths: Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", 2016.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fexport.checkpoints import Checkpoint
from fexport.networks.hog_features import (
    POINTS,
    REGIONS,
    HogFeatures,
    as_float32,
    random_state,
    stand_in_features,
)
from fexport.recipe import Recipe, StandIn
from fexruntime.backends.classifiers import descend, tree_features
from fexruntime.contracts import Crop, Network
from fexruntime.contracts.labels import AUS
from fexruntime.errors import CheckpointError, EnvironmentMissingError

REGION_OF = dict.fromkeys((1, 2, 7), "upper") | dict.fromkeys((11, 14, 17, 23, 24, 26), "lower")
"""Which part of the face a classifier looks at, by the action unit's number; the others look at all of it."""
UNITS = tuple(int(name.removeprefix("AU")) for name in AUS)


class XgbAU(HogFeatures):
    """hog [N,5408], points [N,68,2] -> au [N,20], probabilities (AU07's classifier answers 0 or 1)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, REGIONS)
        self.classifiers = nn.Module()
        for unit in UNITS:
            handle = checkpoint.tensors.get(f"classifiers.AU{unit}._Booster.handle", torch.zeros(0, dtype=torch.uint8))
            booster, classifier = nn.Module(), nn.Module()
            booster.register_buffer("handle", torch.zeros_like(handle))
            classifier.add_module("_Booster", booster)
            self.classifiers.add_module(f"AU{unit}", classifier)
        self.boosters: list[Any] = []
        self.flat: dict[str, NDArray[Any]] = {}
        self.watching: list[Tensor] | None = None

    def prepare(self) -> None:
        """Open the boosters and lay their trees out; CheckpointError for one that is not as expected."""
        xgboost = _xgboost()
        for unit in UNITS:
            booster = xgboost.Booster()
            data = self.get_buffer(f"classifiers.AU{unit}._Booster.handle").numpy().tobytes()
            try:
                booster.__setstate__({"handle": bytearray(data)})
            except xgboost.core.XGBoostError as error:
                first = str(error).strip().splitlines()[0][:200]
                raise CheckpointError(
                    f"AU{unit}'s trees cannot be read by xgboost {xgboost.__version__}: {first}"
                ) from None
            self.boosters.append(booster)
        self.flat = _flat(self)

    def forward(self, hog: Tensor, points: Tensor) -> Tensor:
        xgboost = _xgboost()
        if self.watching is not None:
            self.watching.append(torch.from_numpy(split_margin(self.flat, hog.numpy(), points.numpy())))
        features = {r: xgboost.DMatrix(self.features(r, hog, points)) for r in REGIONS}
        answers = [
            booster.predict(features[REGION_OF.get(unit, "full")], iteration_range=(0, _rounds(booster)))
            for unit, booster in zip(UNITS, self.boosters, strict=True)
        ]
        return torch.from_numpy(np.stack(answers, axis=1))


def split_margin(
    arrays: Mapping[str, NDArray[Any]], hog: NDArray[np.float32], points: NDArray[np.float32]
) -> NDArray[Any]:
    """[N]: how far the closest principal component that a tree looks at is from where its split would go the other way.

    Points are whole numbers and do not waver.
    """
    x = tree_features(arrays, hog, points)
    components = x.shape[1] - POINTS
    row, node = np.arange(len(x))[:, None], np.repeat(arrays["roots"][None], len(x), axis=0)
    least = np.full(len(x), np.inf)
    for _ in range(int(arrays["depth"])):
        feature, threshold = arrays["feature"][node], arrays["threshold"][node]
        away = np.abs(x[row, feature] - threshold.astype(np.float64))
        least = np.minimum(least, np.where((feature < components) & np.isfinite(threshold), away, np.inf).min(axis=1))
        node = arrays["left"][node] + (x[row, feature] >= threshold)
    assert np.array_equal(node, descend(arrays, x))
    return least


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError:
        raise EnvironmentMissingError(
            "building the XGB action units needs xgboost (the runtime does not): pip install 'fexport[export]', or --au none"
        ) from None
    return xgboost


def _rounds(booster: Any) -> int:
    """Rounds of boosting that are used: up to the best one, where training stopped early."""
    best = booster.attr("best_iteration")
    return int(booster.num_boosted_rounds()) if best is None else int(best) + 1


def _flat(module: XgbAU) -> dict[str, NDArray[Any]]:
    """All trees of all classifiers as flat arrays, a node's children beside each other, and what they are added to."""
    offsets, start = {}, 0
    arrays: dict[str, NDArray[Any]] = {}
    for region in REGIONS:
        arrays |= module.folded(region)
        offsets[region] = start
        start += arrays[f"{region}.weights"].shape[1]
    nodes: dict[str, list[NDArray[Any]]] = {k: [] for k in ("feature", "threshold", "left", "value")}
    roots: list[int] = []
    first_tree: list[int] = []
    base: list[float] = []
    hinge: list[bool] = []
    depth, count = 0, 0
    for unit, booster in zip(UNITS, module.boosters, strict=True):
        region = REGION_OF.get(unit, "full")
        width = arrays[f"{region}.weights"].shape[1]
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        objective, trees = _checked(unit, learner, width + POINTS, _rounds(booster))
        first_tree.append(len(roots))
        for tree in trees:
            table, deep = _laid_out(tree, count)
            own = table["feature"] < width
            table["feature"] = np.where(own, table["feature"] + offsets[region], table["feature"] - width + start)
            for key, value in table.items():
                nodes[key].append(value)
            roots.append(count)
            count, depth = count + len(table["left"]), max(depth, deep)
        score = float(str(learner["learner_model_param"]["base_score"]).strip("[]").split(",")[0])
        hinge.append(objective == "binary:hinge")
        base.append(score if hinge[-1] else math.log(score / (1 - score)))
    arrays |= {k: np.concatenate(v) for k, v in nodes.items()}
    return arrays | {
        "roots": np.array(roots, np.int64),
        "first_tree": np.array(first_tree, np.int64),
        "base": as_float32(np.array(base)),
        "hinge": np.array(hinge),
        "depth": np.array(depth),
    }


def _checked(unit: int, learner: Mapping[str, Any], features: int, rounds: int) -> tuple[str, list[dict[str, Any]]]:
    """(objective, the trees that are used); CheckpointError for what this runtime's trees cannot be."""
    objective, gradient = learner["objective"]["name"], learner["gradient_booster"]
    problems = []
    if objective not in ("binary:logistic", "binary:hinge"):
        problems.append(f"objective {objective}")
    if gradient["name"] != "gbtree":
        raise CheckpointError(f"AU{unit}'s trees are of kind {gradient['name']}, not gbtree")
    trees = gradient["model"]["trees"][: gradient["model"]["iteration_indptr"][rounds]]
    if int(learner["learner_model_param"]["num_feature"]) != features:
        problems.append(f"{learner['learner_model_param']['num_feature']} features, not {features}")
    if any(int(t["tree_param"]["size_leaf_vector"]) > 1 for t in trees) or any(gradient["model"]["tree_info"]):
        problems.append("several targets")
    if any(any(t["split_type"]) for t in trees):
        problems.append("splits by category")
    if not trees:
        problems.append("no trees")
    if problems:
        raise CheckpointError(f"AU{unit}'s trees cannot be used: they have {', '.join(problems)}")
    return objective, trees


def _laid_out(tree: Mapping[str, Any], offset: int) -> tuple[dict[str, NDArray[Any]], int]:
    """(a tree's nodes by breadth, from `offset` on; its depth)."""
    left, right = tree["left_children"], tree["right_children"]
    order, place, depth, level = [0], {0: 0}, 0, [0]
    while level:
        below = [c for k in level if left[k] >= 0 for c in (left[k], right[k])]
        for child in below:
            place[child] = len(order)
            order.append(child)
        depth, level = depth + bool(below), below
    leaf = np.array([left[k] < 0 for k in order])
    conditions = np.array([tree["split_conditions"][k] for k in order], np.float32)
    children = np.array([place[k] if left[k] < 0 else place[left[k]] for k in order], np.int64)
    return {
        "feature": np.where(leaf, 0, np.array([tree["split_indices"][k] for k in order], np.int64)),
        "threshold": np.where(leaf, np.float32(np.inf), conditions).astype(np.float32),
        "left": children + offset,
        "value": np.where(leaf, conditions, np.float32(0)).astype(np.float32),
    }, depth


def _stand_in(seed: int) -> Checkpoint:
    """Full trees of three levels, drawn from the seed, over components of plausible spread and points of a face."""
    xgboost = _xgboost()
    widths = {"upper": 20, "lower": 24, "full": 32}
    tensors = stand_in_features(seed, widths)
    for unit in UNITS:
        region = REGION_OF.get(unit, "full")
        booster = xgboost.Booster()
        booster.load_model(bytearray(json.dumps(_random_model(seed, unit, widths[region])).encode()))
        data = np.frombuffer(bytes(booster.__getstate__()["handle"]), np.uint8)
        tensors[f"classifiers.AU{unit}._Booster.handle"] = torch.from_numpy(data.copy())
    return Checkpoint(tensors, {f"pca_model_{r}.whiten": False for r in REGIONS})


def _random_model(seed: int, unit: int, width: int, trees: int = 24, depth: int = 3) -> dict[str, Any]:
    """An xgboost model of random full trees, in its JSON format."""
    rng = random_state(seed, "trees", unit)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    made = []
    for number in range(trees):
        feature = rng.randint(0, width + POINTS, inner)
        points = rng.randint(20, 90, inner) + 0.5
        split = np.where(feature < width, rng.standard_normal(inner), points)
        conditions = np.concatenate([split, 0.3 * rng.standard_normal(nodes - inner)]).astype(np.float32)
        left = [2 * k + 1 if k < inner else -1 for k in range(nodes)]
        made.append({
            "id": number, "tree_param": {
                "num_nodes": str(nodes), "num_deleted": "0", "num_feature": str(width + POINTS), "size_leaf_vector": "1"},
            "left_children": left, "right_children": [k + 1 if k >= 0 else -1 for k in left],
            "parents": [2147483647, *((k - 1) // 2 for k in range(1, nodes))],
            "split_indices": [*feature.tolist(), *[0] * (nodes - inner)], "split_conditions": conditions.tolist(),
            "split_type": [0] * nodes, "default_left": [0] * nodes, "base_weights": [0.0] * nodes,
            "loss_changes": [0.0] * nodes, "sum_hessian": [1.0] * nodes,
            "categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": [],
        })  # fmt: skip
    hinge = unit == 7
    objective = (
        {"name": "binary:hinge"} if hinge else {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}}
    )
    model = {
        "gbtree_model_param": {"num_trees": str(trees), "num_parallel_tree": "1"},
        "trees": made,
        "tree_info": [0] * trees,
        "iteration_indptr": list(range(trees + 1)),
    }
    return {
        "version": [2, 1, 0],
        "learner": {
            "attributes": {}, "feature_names": [], "feature_types": [], "objective": objective,
            "gradient_booster": {"name": "gbtree", "model": model},
            "learner_model_param": {
                "base_score": "5E-1", "num_class": "0", "num_feature": str(width + POINTS), "num_target": "1",
                "boost_from_average": "1"},
        },
    }  # fmt: skip


def _make(network: Network, checkpoint: Checkpoint, crop: Crop | None) -> tuple[nn.Module, Mapping[str, Any]]:
    return XgbAU(checkpoint), {"components": {r: HogFeatures.width_of(checkpoint, r) for r in REGIONS}}


def _prepare(module: nn.Module, network: Network) -> None:
    assert isinstance(module, XgbAU)
    module.prepare()


@contextlib.contextmanager
def _watch_splits(module: nn.Module, margins: list[Tensor]) -> Iterator[None]:
    assert isinstance(module, XgbAU)
    module.watching = margins
    try:
        yield
    finally:
        module.watching = None


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    assert isinstance(module, XgbAU)
    return module.flat


RECIPE = Recipe(
    _make,
    StandIn(checkpoint=_stand_in),
    after_load=_prepare,
    watch_ties=_watch_splits,
    tied_outputs=lambda module: ("au",),
    arrays=_arrays,
    graph=False,
)
