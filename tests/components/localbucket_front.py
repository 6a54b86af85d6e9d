"""Run by LocalBucket's own interpreter (`s3.py`): its server, with what it lacks.

No pause before every body: it sends head and body of an answer apart, and with Nagle's algorithm the second waits 40 ms
for the first's acknowledgement. And `DeleteObjects`
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html), by which many files are removed at once.
"""

import importlib
import sys
import xml.etree.ElementTree as ET
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

_MOST_KEYS: Final = 1000
_localbucket: Any = importlib.import_module("localbucket")


class Handler(_localbucket.S3Handler):  # type: ignore[misc]
    """One connection."""

    def _post_request(self, bucket: str, key: str) -> None:
        if bucket and not key and "delete" in self.query:
            self._check_query("DeleteObjects", {"delete"})
            self._delete_objects(bucket, self._read_body())
        else:
            super()._post_request(bucket, key)

    def _delete_objects(self, bucket: str, body: bytes) -> None:
        if not any(name.lower().startswith(("content-md5", "x-amz-checksum-")) for name in self.headers):
            raise _localbucket.S3Error(
                HTTPStatus.BAD_REQUEST,
                "InvalidRequest",
                "Missing required header for this request: Content-MD5.",
            )
        try:
            wanted = ET.fromstring(body)
        except ET.ParseError as error:
            raise self._malformed_xml_error() from error
        keys = [found.text or "" for found in wanted.iterfind("{*}Object/{*}Key")]
        if not 0 < len(keys) <= _MOST_KEYS:
            raise self._malformed_xml_error()
        done = ET.Element("DeleteResult", xmlns=_localbucket.S3_NAMESPACE)
        for one in keys:
            # What is not there is deleted too. A failure is of one key, not of the request.
            try:
                self._object_path(bucket, one).unlink(missing_ok=True)
            except _localbucket.S3Error as error:
                _element(done, "Error", Key=one, Code=error.code, Message=error.message)
            else:
                _element(done, "Deleted", Key=one)
        self._send_xml(done)


def _element(parent: ET.Element, tag: str, **texts: str) -> None:
    made = ET.SubElement(parent, tag)
    for name, text in texts.items():
        ET.SubElement(made, name).text = text


BaseHTTPRequestHandler.disable_nagle_algorithm = True
_localbucket.S3Handler = Handler
sys.exit(_localbucket.main())
