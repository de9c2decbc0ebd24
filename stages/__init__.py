"""The stages: thin click commands over charlm, one a file.

A queued experiment runs in a temporary copy of the project, while the installed package points at
the project itself: the copy's own src goes first, so that a copy runs its own code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
