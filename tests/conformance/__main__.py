"""See `run`."""

import json
import sys

from tests.conformance import report
from tests.conformance.run import main, run

if "--write" in sys.argv:
    names = list(report.FIRST_WAVE)
    explained = json.loads(report.EXPLAINED.read_text("utf-8"))
    report.write(report.PAGE, report.page(run(names), explained))
    sys.exit(main(names))
sys.exit(main(sys.argv[1:]))
