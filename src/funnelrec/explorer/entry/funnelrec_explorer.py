"""Run by Streamlit for every session and every click; its argument says what to open."""

from __future__ import annotations

import json
import sys

from funnelrec.explorer.page import show
from funnelrec.explorer.source import Wanted

if __name__ == "__main__":
    show(Wanted(**json.loads(sys.argv[1])))
