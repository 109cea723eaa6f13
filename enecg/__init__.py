"""EnECG on Ray: ensembles of ECG foundation models, adapted side by side and gated per record."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("enecg")
except (
    PackageNotFoundError
):  # a bare working directory, as `ray job submit --working-dir .` ships it
    __version__ = "0+unknown"
