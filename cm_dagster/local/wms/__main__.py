"""Stop the local WMS: ``python -m cm_dagster.local.wms stop``."""

from __future__ import annotations

import sys

from cm_dagster.local.wms import store
from cm_dagster.local.wms.shutdown import shutdown

if __name__ == "__main__":
    if sys.argv[1:] != ["stop"]:
        sys.exit(__doc__)
    sys.stdout.write(f"{store.home_name()}: {shutdown()} runs cancelled\n")
