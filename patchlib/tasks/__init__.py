"""What the model is asked: pairs of prompts that differ in one thing, and answers that tell them apart.

``list()`` names the tasks of the field that are here, each a class.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
