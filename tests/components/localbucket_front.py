"""Run by LocalBucket's own interpreter (`s3.py`): its server, without the pause that would come before every body.

It sends head and body of an answer apart, and with Nagle's algorithm the second waits 40 ms for the first's
acknowledgement.
"""

import importlib
import sys
from http.server import BaseHTTPRequestHandler

BaseHTTPRequestHandler.disable_nagle_algorithm = True
sys.exit(importlib.import_module("localbucket").main())
