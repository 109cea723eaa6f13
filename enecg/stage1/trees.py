"""The head of boosted trees: grown by scikit-learn, kept and answered as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enecg.stage1.heads import answer, balanced
from enecg.tasks import Task

GROWTH: dict[str, Any] = {
    "max_iter": 200, "learning_rate": 0.06, "max_leaf_nodes": 8, "min_samples_leaf": 20,
    "l2_regularization": 1.0, "max_features": 0.2, "early_stopping": False, "random_state": 0,
}  # fmt: skip
"""Many small trees, each split among a fifth of the features: for some thousand records."""


class Trees(nn.Module):
    """Sums of regression trees over features that are not standardised.

    Parameters
    ----------
    task : Task
        Gives the output width C and what the output means.
    n_trees, n_nodes : int
        M and P: trees in all, and nodes of the largest.

    Attributes
    ----------
    feature_MP, threshold_MP, left_MP, right_MP, value_MP
        A node passes a record on to its left or right child, by whether the feature is at most
        the threshold; a leaf has itself as both.
    output_M
        The output that a tree counts for.
    start_C
        Where the sums begin.
    depth
        Steps from a root to the farthest leaf.
    """

    feature_MP: Tensor
    threshold_MP: Tensor
    left_MP: Tensor
    right_MP: Tensor
    value_MP: Tensor
    output_M: Tensor
    start_C: Tensor
    depth: Tensor
    target_mean: Tensor
    target_std: Tensor
    hidden = ()

    def __init__(self, task: Task, n_trees: int, n_nodes: int) -> None:
        super().__init__()
        self.kind, self.width = task.kind, task.width
        for name in ("feature_MP", "left_MP", "right_MP"):
            self.register_buffer(name, torch.zeros(n_trees, n_nodes, dtype=torch.int64))
        # float64, so that no threshold between two neighbouring float32 features is rounded.
        for name in ("threshold_MP", "value_MP"):
            self.register_buffer(name, torch.zeros(n_trees, n_nodes, dtype=torch.float64))
        self.register_buffer("output_M", torch.zeros(n_trees, dtype=torch.int64))
        self.register_buffer("start_C", torch.zeros(task.width, dtype=torch.float64))
        self.register_buffer("depth", torch.zeros((), dtype=torch.int64))
        self.register_buffer("target_mean", torch.zeros(1))
        self.register_buffer("target_std", torch.ones(1))

    @classmethod
    def of_state(cls, state: dict[str, Tensor], task: Task) -> Trees:
        """Build trees from saved tensors."""
        trees = cls(task, *state["feature_MP"].shape)
        trees.load_state_dict(state)
        return trees

    def forward(self, f_BD: Tensor) -> Tensor:
        """Return standardised values or class logits, shape (B, C)."""
        f_BD = f_BD.double()
        node_BM = torch.zeros(len(f_BD), len(self.output_M), dtype=torch.int64, device=f_BD.device)
        tree_M = torch.arange(len(self.output_M), device=f_BD.device)
        for _ in range(int(self.depth)):
            seen_BM = f_BD.gather(1, self.feature_MP[tree_M, node_BM])
            goes_left_BM = seen_BM <= self.threshold_MP[tree_M, node_BM]
            node_BM = torch.where(
                goes_left_BM, self.left_MP[tree_M, node_BM], self.right_MP[tree_M, node_BM]
            )
        out_BC = self.start_C.expand(len(f_BD), -1).clone()
        return out_BC.index_add(1, self.output_M, self.value_MP[tree_M, node_BM])

    def answer(self, out_BC: Tensor) -> Tensor:
        """Turn what `forward` gives into values in the task's unit, or class probabilities."""
        return answer(self.kind, out_BC, self.target_mean, self.target_std)


def fit_trees(f_RD: Tensor, target_R: Tensor, task: Task, balance: bool = False) -> Trees:
    """Grow trees on some records, with scikit-learn's histogram gradient boosting.

    Least squares for a value, log-loss for classes; of several labels, each has its own trees.

    Parameters
    ----------
    f_RD : Tensor, shape (R, D)
        Features of the training records.
    target_R : Tensor, shape (R,), or (R, C) for several labels
        Their targets, none missing.
    task : Task
        What is predicted.
    balance : bool
        Let every class count alike.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    x_RD, y_R = f_RD.double().numpy(), target_R.numpy()
    weight = balanced(target_R, task.width, task.kind) if balance else None
    start_C = np.zeros(task.width)
    grown: list[tuple[int, np.ndarray]] = []
    mean, std = 0.0, 1.0
    if task.kind == "regression":
        mean, std = float(y_R.mean()), float(y_R.std()) or 1.0
        boosted = HistGradientBoostingRegressor(**GROWTH).fit(x_RD, (y_R - mean) / std)
        start_C[0], grown = _grown(boosted, [0])
    elif task.kind == "classification":
        classes_R = y_R.astype(int)
        present = np.unique(classes_R).tolist()
        weight_R = None if weight is None else weight.numpy()[classes_R]
        boosted = HistGradientBoostingClassifier(**GROWTH).fit(x_RD, classes_R, weight_R)
        # Of two classes, scikit-learn gives the second one's logit against the first.
        outputs = present[1:] if len(present) == 2 else present
        start_C[:] = np.log(0.5 / len(y_R))  # of a class without records
        start_C[present] = 0.0
        start_C[outputs], grown = _grown(boosted, outputs)
    else:
        for label in range(task.width):
            holds_R = y_R[:, label] > 0.5
            if holds_R.all() or not holds_R.any():
                start_C[label] = np.log(2 * len(y_R) + 1) * (1 if holds_R.all() else -1)
                continue
            weight_R = None if weight is None else weight.numpy()[holds_R.astype(int), label]
            boosted = HistGradientBoostingClassifier(**GROWTH).fit(x_RD, holds_R, weight_R)
            start_C[label], more = _grown(boosted, [label])
            grown += more
    trees = _as_arrays(task, grown)
    trees.start_C.copy_(torch.from_numpy(start_C))
    trees.target_mean.fill_(mean)
    trees.target_std.fill_(std)
    return trees


def _grown(boosted: Any, outputs: list[int]) -> tuple[Any, list[tuple[int, np.ndarray]]]:
    """Where scikit-learn's sums begin, and its trees' nodes with the output each counts for."""
    start = np.ravel(boosted._baseline_prediction)
    nodes = [
        (output, predictor.nodes)
        for of_iteration in boosted._predictors
        for output, predictor in zip(outputs, of_iteration, strict=True)
    ]
    return start if len(outputs) > 1 else float(start[0]), nodes


def _as_arrays(task: Task, grown: list[tuple[int, np.ndarray]]) -> Trees:
    trees = Trees(task, len(grown), max((len(nodes) for _, nodes in grown), default=1))
    for tree, (output, nodes) in enumerate(grown):
        leaf_P = nodes["is_leaf"].astype(bool)
        itself_P = np.arange(len(nodes))
        columns = {
            "feature_MP": np.where(leaf_P, 0, nodes["feature_idx"]),
            "threshold_MP": np.where(leaf_P, np.inf, nodes["num_threshold"]),
            "left_MP": np.where(leaf_P, itself_P, nodes["left"].astype(np.int64)),
            "right_MP": np.where(leaf_P, itself_P, nodes["right"].astype(np.int64)),
            "value_MP": np.where(leaf_P, nodes["value"], 0.0),
        }
        for name, values_P in columns.items():
            getattr(trees, name)[tree, : len(nodes)] = torch.from_numpy(values_P)
        trees.output_M[tree] = output
        trees.depth.clamp_(min=int(nodes["depth"].max()))
    return trees
