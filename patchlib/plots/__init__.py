"""Figures of what was measured, and the sentence under each: functions return plotly figures and show nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
