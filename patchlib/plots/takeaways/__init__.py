"""The sentence under each figure, made from the data so that it stays true for any model and task."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
