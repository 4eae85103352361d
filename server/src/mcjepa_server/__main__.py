"""``python -m mcjepa_server``."""

import sys

from mcjepa_server.cli import main

sys.exit(main())
