"""The table of kept predictions: read again as written, and enough to recompute the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from enecg.errors import UserError
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.kept_predictions import OutOfFold, read_predictions, write_predictions
from enecg.tasks import Task

SEX = Task("sex", "classification", classes=("male", "female"))
AGE = Task("age", "regression", unit="years", valid=(0.0, 120.0))
SEVERAL = Task("dx", "multilabel", classes=("AF", "LBBB"))


def kept(n: int = 90) -> list[OutOfFold]:
    rng = np.random.default_rng(0)
    ids, groups = np.array([f"r{i}" for i in range(n)]), np.array([f"g{i // 2}" for i in range(n)])
    folds = np.array([str(i // 2 % 3) for i in range(n)])
    sex = rng.integers(2, size=n).astype(float)
    sex[4] = np.nan
    p = rng.random(n)
    one = {"ensemble": np.stack([1 - p, p], 1).astype(np.float32), "dummy": np.full((n, 2), 0.5)}
    years = rng.normal(60, 10, n)
    labels = rng.integers(2, size=(n, 2)).astype(float)
    labels[7] = np.nan
    return [
        OutOfFold(SEX, 0, ids, groups, folds, sex, one, rng.dirichlet(np.ones(3), n)),
        OutOfFold(AGE, 0, ids, groups, folds, years, {"rocket": years[:, None] + 1}),
        OutOfFold(SEVERAL, 0, ids, groups, folds, labels, {"uniform": rng.random((n, 2))}),
    ]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = kept()
    write_predictions(tmp_path / "predictions.parquet", written, ["a", "b", "c"])
    found = read_predictions(tmp_path / "predictions.parquet")
    assert list(found) == [("sex", 0), ("age", 0), ("dx", 0)]
    for one in written:
        again = found[one.task.name, 0]
        assert again.task == one.task
        assert again.record_N.tolist() == one.record_N.tolist()
        assert again.group_N.tolist() == one.group_N.tolist()
        assert again.fold_N.tolist() == one.fold_N.tolist()
        np.testing.assert_array_equal(again.target_N, one.target_N)
        assert list(again.predictions) == list(one.predictions)
        for name, prediction_NC in one.predictions.items():
            np.testing.assert_array_equal(again.predictions[name], prediction_NC.astype(np.float32))
        assert (again.weights_NE is None) == (one.weights_NE is None)


def test_scikit_learn_recomputes_the_metrics_from_the_table(tmp_path: Path) -> None:
    path, [sex, *_] = tmp_path / "predictions.parquet", kept()
    write_predictions(path, [sex], ["a", "b", "c"])
    table = pd.read_parquet(path)
    table = table[(table["predictor"] == "ensemble") & table["target"].notna()]
    folds = [
        roc_auc_score(part["target"], np.stack(part["prediction"])[:, 1])
        for _, part in table.groupby("fold", observed=True)
    ]
    ours = fold_summary(
        SEX, sex.target_N, sex.predictions["ensemble"], sex.fold_N.astype(int), sex.group_N
    )
    np.testing.assert_allclose(folds, ours["auroc"]["folds"], rtol=1e-12)


def test_twelve_folds_are_listed_in_their_order(tmp_path: Path) -> None:
    path, [sex, years, _] = tmp_path / "predictions.parquet", kept(360)
    twelve = (np.arange(360) // 2 % 12)[::-1]
    parts = [replace(one, fold_N=twelve.astype(str)) for one in (sex, years)]
    write_predictions(path, parts, ["a", "b", "c"])
    table = pd.read_parquet(path)
    every = [str(fold) for fold in range(12)]
    assert [fold for fold, _ in table.groupby("fold", observed=True)] == every
    part = table[table["task"] == "sex"]
    assert [fold for fold, _ in part.groupby("fold", observed=True)] == every
    found = read_predictions(path)["age", 0]
    assert found.fold_N.tolist() == twelve.astype(str).tolist()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 not really"])
def test_no_table_is_told_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "predictions.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.parquet"):
        read_predictions(path)


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not a table of predictions"):
        read_predictions(tmp_path / "other.parquet")
