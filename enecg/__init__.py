"""EnECG on Ray: ensembles of ECG foundation models, adapted side by side and gated per record."""

import os
from importlib.metadata import PackageNotFoundError, version

# MKL chooses its way of adding up by how an array's rows lie in memory, so that equal records in
# different rows of a batch come out with other last bits (seen on AMD EPYC). Its reproducible mode
# does not, at no cost that could be measured; it is read at MKL's first use in a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

try:
    __version__ = version("enecg")
except (
    PackageNotFoundError
):  # a bare working directory, as `ray job submit --working-dir .` ships it
    __version__ = "0+unknown"
