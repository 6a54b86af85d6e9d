"""One entry for every document form: ours as YAML or JSON, RudderStack's; told apart by content."""

from collections.abc import Mapping

from mainstem.workspace.beside import NOTHING_BESIDE, Beside
from mainstem.workspace.checks import Checks
from mainstem.workspace.report import Parsed, Report
from mainstem.workspace.rudder_config import is_rudder_config, parse_rudder_config
from mainstem.workspace.tree import decode_text, is_json, parse_json
from mainstem.workspace.yaml_file import parse_json_workspace, parse_yaml_workspace


def parse_workspace(
    data: bytes, *, origin: str, env: Mapping[str, str], checks: Checks, beside: Beside = NOTHING_BESIDE
) -> Parsed:
    """Return the snapshot a document describes. Slow for large YAML, and reads files: call it in a thread.

    `origin` names the document in errors. `env` answers `${NAME}` (not in RudderStack's documents, where
    such a text is only a text). `beside` has the files that the document refers to; nothing else is read.

    Raises:
        WorkspaceInvalid: with every problem found.
    """
    report = Report(origin)
    text = decode_text(data, report)
    if not is_json(text):
        return parse_yaml_workspace(text, origin=origin, env=env, checks=checks, beside=beside)
    if is_rudder_config(parse_json(text, report)):
        return parse_rudder_config(text, origin=origin, checks=checks, beside=beside)
    return parse_json_workspace(text, origin=origin, env=env, checks=checks, beside=beside)
