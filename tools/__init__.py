"""Programs for those who work on this project; run them as `python -m tools.…` from its folder."""

import sys
from pathlib import Path

_MODULES = str(Path(__file__).parent.parent / "modules")
if _MODULES not in sys.path:  # the library is found without being installed
    sys.path.insert(0, _MODULES)
