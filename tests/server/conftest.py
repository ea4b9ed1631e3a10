from __future__ import annotations

from tests.fanout.conftest import channels, settings, start

__all__ = ["channels", "settings", "start"]
