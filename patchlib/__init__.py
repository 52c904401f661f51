"""Causal intervention in transformer language models: patch an activation, see whether the behaviour follows.

``load_model`` -> a task (``IOIDataset``) -> ``sweep`` -> ``plots``. Every public name stands in ``__init__.pyi`` with
the module that it lives in, where editors and type checkers read it; modules are imported when first used, so that
``patchlib --help`` need not load torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
