"""The process that a `Tracker` starts."""

import sys

from charlm.tracking.tracker import serve

if __name__ == "__main__":
    serve(sys.stdin)
