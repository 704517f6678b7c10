"""What a notebook imports: open a run, a Dataset or a model, and have its results as data frames.

`from cxr_core import open_run` is the way in; nothing here writes to a run. Records are read as strictly as by the
commands: what is damaged is a `UserError` that names the file.
"""

from cxr_core.api.dataset import OpenedDataset as OpenedDataset
from cxr_core.api.dataset import open_dataset as open_dataset
from cxr_core.api.model import open_model as open_model
from cxr_core.api.run import OpenedRun as OpenedRun
from cxr_core.api.run import open_run as open_run
