"""``python -m funnelrec``: the command line."""

from __future__ import annotations

from funnelrec.cli import main

if __name__ == "__main__":
    main()
