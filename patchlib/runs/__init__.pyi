from .execute.manifest import save_run as save_run
from .execute.runner import RunRecord as RunRecord
from .execute.runner import run as run
from .execute.saved import SavedRun as SavedRun
from .execute.saved import saved_run as saved_run
