"""Checkpoints that say what they hold, so that a damaged or half-written one is never resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enecg.checked_files import DamagedFile, read_sealed_json, write_sealed_json
from enecg.files import sha256_of_file


def seal(folder: Path, rank: int, world: int) -> None:
    """Write a worker's manifest, the last file of its part of a checkpoint.

    It lists size and SHA-256 of every file in the folder, and how many workers there are.
    """
    files = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_sealed_json(folder / f"manifest-{rank}.json", {"workers": world, "files": files})


def problem_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint of all workers, None where nothing is."""
    try:
        workers = int(read_sealed_json(folder / "manifest-0.json")["workers"])
        for rank in range(workers):
            for name, known in read_sealed_json(folder / f"manifest-{rank}.json")["files"].items():
                path = folder / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != known["bytes"]:
                    return f"{name} has {path.stat().st_size} of {known['bytes']} bytes"
                if sha256_of_file(path) != known["sha256"]:
                    return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except DamagedFile as error:
        return f"its manifest cannot be read: {Path(error.place).name} {error.problem}"
    except OSError as error:
        return f"it cannot be read: {error}"
    return None


def newest_whole(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """Return the newest undamaged checkpoint in a training job's folder; None where there is none.

    Parameters
    ----------
    folder : Path
        Where Ray Train keeps the job's checkpoints; their names sort by time.
    tell : callable
        Is told of every one that is passed over.
    """
    # Beside them lies a file of Ray's own, checkpoint_manager_snapshot.json.
    for checkpoint in sorted(filter(Path.is_dir, folder.glob("checkpoint_*")), reverse=True):
        if (problem := problem_of(checkpoint)) is None:
            return checkpoint
        tell(f"passes over the damaged checkpoint {checkpoint.name}: {problem}")
    return None
