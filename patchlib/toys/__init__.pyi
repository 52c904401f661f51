from .build import Toy as Toy
from .gates import and_gate as and_gate
from .gates import or_gate as or_gate
from .heads import backup as backup
from .heads import induction as induction
from .truth import auroc as auroc
