"""A sweep that goes on while its notebook can be used, with a bar, a way to stop it, and the map that comes of it."""

import threading
import warnings
from collections.abc import Callable

import ipywidgets
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import first_line
from patchlib.errors import ContrastWarning
from patchlib.patching.sites import SITES
from patchlib.patching.sweeps import sweep
from patchlib.plots import takeaways
from patchlib.plots.sweeps import heatmap_panels
from patchlib.tasks.pairs import PromptPairs
from patchlib.widgets.drawing import button, outputs, sentence


class Cancelled(Exception):
    """The user pressed Cancel."""


class BackgroundSweep:
    """One sweep at a time, and where it is seen.

    Args:
        ended: Called after each, however it ended.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self.ended = ended
        self.stop = threading.Event()
        self.cancel = button("Cancel", self.stop.set, disabled=True, layout=ipywidgets.Layout(width="100px"))
        self.progress = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="240px"))
        self.note, self.output = ipywidgets.HTML(), ipywidgets.Output()

    def say(self, text: str) -> None:
        """Beside the bar."""
        self.note.value = sentence(text)

    def start(
        self, model: TransformerBridge, pairs: PromptPairs, site: str, named: list[str] | None, whose: str
    ) -> None:
        """Denoise a site, at all positions or at named ones, and draw the map.

        Args:
            model, pairs, site: As for ``sweep``.
            named: Roles and spans: the map's columns, or where heads are swept, what each is patched at.
            whose: What the title calls the pairs.
        """
        self.cancel.disabled = False
        self.stop.clear()
        self.progress.value = 0
        self.say("Running ...")
        threading.Thread(target=self._sweep_and_draw, args=(model, pairs, site, named, whose), daemon=True).start()

    def _tell(self, done: int, total: int) -> None:
        self.progress.value = done / max(total, 1)
        if self.stop.is_set():
            raise Cancelled

    def _sweep_and_draw(
        self, model: TransformerBridge, pairs: PromptPairs, site: str, named: list[str] | None, whose: str
    ) -> None:
        has_heads = SITES[site].has_heads
        over = ("layer", "head" if has_heads else "pos" if named is None else "role")
        positions = named if named is None or has_heads else [*named, "END"]
        where = f" at {', '.join(named)}" if named and has_heads else ""
        try:
            with warnings.catch_warnings(record=True) as caught:  # shown here, and not somewhere in the notebook
                warnings.simplefilter("always", ContrastWarning)
                result = sweep(model, pairs, site, over, positions=positions, progress=self._tell)
            figure = heatmap_panels(result, title=f"Denoising {site}{where}, {whose}")
            self.output.outputs = outputs([figure, takeaways.of_cells(result)])
            self.note.value = "".join(sentence(str(warning.message).splitlines()[0]) for warning in caught)
        except Cancelled:
            self.say("Cancelled.")
        except Exception as error:  # in a thread nobody else would show it
            self.say(f"{type(error).__name__}: {first_line(error)}")
        finally:
            self.cancel.disabled = True
            self.ended()
