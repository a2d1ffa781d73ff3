"""`python -m deepserve.engine.native`: is the native core installed? Says what it is, or what to do; exits with 1."""

from __future__ import annotations

import sys

from deepserve.core.errors import ConfigurationError
from deepserve.engine.native.shared_library import find_library, instruction_sets, load_library

if __name__ == "__main__":
    try:
        sets = instruction_sets(load_library())
        sys.stdout.write(f"The native core is {find_library()}, for {', '.join(sets)}.\n")
    except ConfigurationError as error:
        sys.exit(error.message)
