"""The guidelines' items that a run answers: from its own figures, each in words."""

from __future__ import annotations

from typing import Any

from enecg.evaluation.reporting import reporting_items

STORE: dict[str, Any] = {
    "source": "ptb-xl",
    "counts": {
        "listed": 12, "accepted": 10, "rejected": 2, "subjects": 9,
        "rejected_by_reason": {"unreadable": 2}, "changed": {"resampled": 3},
    },
}  # fmt: skip
RESULTS: dict[str, Any] = {
    "commit": None,
    "config": {
        "seed": 7, "inner_folds": 3, "fold_column": None, "experts": {"rocket": {}},
        "stage1": {"class_weights": "none"}, "ensemble": {"threshold": "youden"},
    },
    "experts": {"rocket": {"seen_in_pretraining": []}, "x": {"seen_in_pretraining": ["ptb-xl"]}},
    "tasks": {"age": {"n": 8}},
}  # fmt: skip


def test_items_answer_with_the_runs_own_figures() -> None:
    items = {one["topic"]: one for one in reporting_items(RESULTS, STORE, 9, 3)}
    assert items["Flow of records"] == {
        "tripod_ai": "20a", "claim": "33", "topic": "Flow of records",
        "answer": "12 listed, 10 accepted, 2 rejected (2 unreadable)",
    }  # fmt: skip
    assert "age: 8 of 10 records labelled" in items["Outcomes"]["answer"]
    assert "9 groups" in items["Size"]["answer"]
    assert "3 outer folds by hash of seed 7" in items["Partitions"]["answer"]
    assert items["Pretraining"]["answer"].endswith("x (ptb-xl)")
    assert items["Code"]["answer"] == "commit unknown"
    assert "thresholds for youden" in items["Class imbalance"]["answer"]


def test_every_item_has_a_number_a_topic_and_an_answer() -> None:
    items = reporting_items(RESULTS, STORE, 9, 3)
    assert len({one["topic"] for one in items}) == len(items)
    assert all(one["answer"] and (one["tripod_ai"] or one["claim"]) for one in items)
