"""Run the labs' commands: python -m utils --help."""

import sys

from utils.cli import main

sys.exit(main())
