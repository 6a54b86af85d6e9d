"""See `run`."""

import json
import sys

from tests.conformance import report
from tests.conformance.run import main, run, run_deliveries

if "--write" in sys.argv:
    names = list(report.FIRST_WAVE)
    explained = json.loads(report.EXPLAINED.read_text("utf-8"))
    report.write(report.PAGE, report.page(run(names), run_deliveries(names), explained))
    sys.exit(main(names))
sys.exit(main(sys.argv[1:]))
