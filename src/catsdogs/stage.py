"""How a stage ends: errors that a user can mend become one line, not a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can put right. Its text says what, where and what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a stage; end the process with status 1 and one line on stderr if the user must act.

    What the operating system refuses (no space, no permission) is the user's to mend as well.
    """
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}")
