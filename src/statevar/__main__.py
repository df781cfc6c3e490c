"""The command line: ``python -m statevar`` is ``statevar``."""

from ._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
