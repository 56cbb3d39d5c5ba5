"""Where does it run? One file per command, and the executors.

`python -m launch.sweep` puts the working directory first on Python's path, where a `models.py` or `search.py` of the
user's own would stand in for our packages. It goes last instead, so that a command does the same wherever it is run.
"""

import os
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # which stands there while Python looks for the module
    first = os.path.realpath(sys.path[0] or ".")
    if first == os.path.realpath(".") and first != str(Path(__file__).resolve().parents[1]):
        sys.path.append(sys.path.pop(0))
