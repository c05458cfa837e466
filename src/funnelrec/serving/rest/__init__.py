"""An artifact behind HTTP. FastAPI is imported by ``app`` alone; the extra is ``serve``."""
