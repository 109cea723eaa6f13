"""Which records belong together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enecg.records.groups import group_ids

records = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("0123456789")))


def test_records_join_over_subjects_and_signals() -> None:
    #        b shares a signal with c, c has a second record that d shares
    groups = group_ids(["b", "c", "c", "d", "e"], ["s1", "s1", "s2", "s2", "s3"])
    assert groups == ["b", "b", "b", "b", "e"]


@given(records)
def test_nothing_is_shared_between_groups_and_names_do_not_depend_on_order(rows) -> None:
    groups = group_ids([s for s, _ in rows], [h for _, h in rows])
    for values in ([s for s, _ in rows], [h for _, h in rows]):
        for value in set(values):
            here = {g for g, v in zip(groups, values, strict=True) if v == value}
            assert len(here) == 1
    backwards = group_ids([s for s, _ in rows[::-1]], [h for _, h in rows[::-1]])
    assert backwards[::-1] == groups
    for name in set(groups):
        assert name == min(s for (s, _), g in zip(rows, groups, strict=True) if g == name)


@given(records)
def test_groups_are_no_larger_than_they_must_be(rows) -> None:
    """Walking from record to record over a shared subject or signal reaches the whole group."""
    groups = group_ids([s for s, _ in rows], [h for _, h in rows])
    for start in range(len(rows)):
        reached = {start}
        while True:
            more = {
                j
                for j in range(len(rows))
                for i in reached
                if rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1]
            }
            if more <= reached:
                break
            reached |= more
        assert reached == {j for j in range(len(rows)) if groups[j] == groups[start]}
