"""Settings of the process."""

from __future__ import annotations

import threading


class Settings(threading.local):
    """Settings of a thread; see :mod:`tapejit.testing` for those meant for tests."""

    plain_python = False
    tile_from = 512  # elementwise operations on more elements than this run in tiles


settings = Settings()
