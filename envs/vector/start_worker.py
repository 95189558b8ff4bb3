"""The program of a worker process, which `WorkerProcess` runs as a file: `start_worker.py PATH MODULE FUNCTION FD...`.

PATH is the caller's `sys.path` as JSON, so that the worker imports the same modules. FUNCTION of MODULE is called with
the file descriptors.
"""

import importlib
import json
import sys


def main(path: str, module: str, function: str, *descriptors: str) -> None:
    """Call the worker's function."""
    sys.path[:] = json.loads(path)
    serve = getattr(importlib.import_module(module), function)
    serve(*map(int, descriptors))


if __name__ == "__main__":
    main(*sys.argv[1:])
