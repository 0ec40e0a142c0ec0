"""What the stages and the commands share.

Imported before other packages, so that a stage can be interrupted while those load.
"""

import importlib
import sys
from pathlib import Path

# DVC runs stages in copies of the repository, and a copy's script needs the copy's own package.
# Under PYTHONSAFEPATH, Python does not look beside the script and finds the installed package.
# The new search path also reaches the processes that a stage starts.
_script = getattr(sys.modules["__main__"], "__file__", None)
_beside = Path(_script).absolute().with_name("catsdogs") / "__init__.py" if _script else None
if _beside and _beside.is_file() and not _beside.samefile(__file__):
    sys.path.insert(0, str(_beside.parent.parent))
    del sys.modules[__name__]
    importlib.import_module(__name__)
else:
    import os

    try:
        from catsdogs import stage
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {error.name} is not installed for {sys.executable}: activate the environment "
            "(`. .venv/bin/activate`), or install requirements.txt"
        )

    if "DVC_STAGE" in os.environ:
        stage.begin()
