"""What the stages of the pipeline share.

Imported before other packages, so that a stage can be interrupted while those load.
"""

import os

from catsdogs import stage

if "DVC_STAGE" in os.environ:
    stage.begin()
