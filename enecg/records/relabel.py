"""New labels for a finished record store, without touching a signal."""

from __future__ import annotations

from enecg.errors import JobFailed, UserError, one_line
from enecg.progress import say
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.finish import (
    index_table,
    who_is_counted,
    without_subject,
    write_description,
)
from enecg.records.identifiers import identifiers
from enecg.records.store import (
    DESCRIPTION,
    FORMAT_VERSION,
    INDEX,
    RELABELLED,
    RecordStore,
    write_table,
)
from enecg.records.subjects import subjects_state
from enecg.storage import Folder, Place


def relabel(source: str, folder: Place, output: Place, labels: Place | None = None) -> RecordStore:
    """Replace subjects, groups, labels and metadata of a store by what the corpus now says.

    The new index and description are first written beside the old ones, the description last:
    from then on readers take the new ones, and the old ones are replaced. A kill before that
    moment leaves the old labels, after it the new ones.

    Parameters
    ----------
    source : str
        Name of the corpus layout; the one the store was made with.
    folder : path or URI
        The corpus; only its table of labels and its list of files are read.
    output : path or URI
        A finished store. Signals stay, and so does ``rr_interval`` where it was measured in them.
    labels : path or URI, optional
        A table of labels, as the source describes it.

    Raises
    ------
    UserError
        No finished store, another source, or records that the corpus no longer lists.
    """
    layout = sources.get(source)
    store = RecordStore.open(output)
    if store.description["source"] != source:
        raise UserError(
            f"--source {source}: {output} was made with --source {store.description['source']}"
        )
    listing = layout.list_records(Corpus.at(folder), labels)
    for note in listing.notes:
        say(note)
    table = listing.table.drop_duplicates("record_id").set_index("record_id")
    # Stores of earlier versions may have identifiers that are not in their normal form.
    record_ids = identifiers(store.index["record_id"], lambda row: f"{output}, row {row + 1}:")
    gone = ~record_ids.isin(table.index)
    if gone.any():
        first = store.index.loc[gone, "record_id"].iloc[0]
        raise UserError(
            f"{folder}: does not list record {first!r}, which is in {output} "
            f"({int(gone.sum()):,} such records)"
        )
    known = table.loc[record_ids].reset_index()
    columns = listing.labels
    if layout.measures_rr:
        known["rr_interval"] = store.index["rr_interval"]
        columns = ("rr_interval", *(name for name in columns if name != "rr_interval"))
    index, described = index_table(store.table(INDEX), known, columns, listing)
    if layout.measures_rr:  # what was impossible when it was measured is no longer there to count
        described["labels"]["rr_interval"] = store.description["labels"]["rr_interval"]
    description = {
        **store.description,
        "format_version": FORMAT_VERSION,
        "counts": {**store.description["counts"], **who_is_counted(index, listing)},
        "subjects": subjects_state(without_subject(index, listing), index.num_rows),
        **described,
        "not_measured": listing.not_measured,
    }
    beside = store.folder.below(RELABELLED)
    try:
        settle(store.folder)
        digest = write_table(beside, INDEX, index)
        files = {**store.description["files"], INDEX: digest}
        write_description(beside, {**description, "files": files})
        settle(store.folder)
    except OSError as error:
        raise JobFailed(f"{output}: {one_line(error)}; its labels are whole, old or new") from error
    return RecordStore.open(output)


def settle(folder: Folder) -> None:
    """Move a new index and description, if both are whole, to where the old ones are."""
    beside = folder.below(RELABELLED)
    if beside.exists(DESCRIPTION):
        for name in (INDEX, DESCRIPTION):
            folder.write(name, beside.read(name))
        beside.remove(DESCRIPTION)  # from here on the store's own count
    folder.remove(RELABELLED)
