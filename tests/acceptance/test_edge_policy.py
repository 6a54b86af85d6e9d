"""Edge policies: what they remove never touches the disk. The proof is a search of everything that was written."""

import gzip
from pathlib import Path

from tests.acceptance.evidence import archived
from tests.acceptance.serving import WRITE_KEY, serving, until

EMAIL = "mona.lisa@louvre.example"
PHONE = "+33 1 40 20 50 50"
CARD = "4111 1111 1111 1111"
ADDRESS = "203.0.113.77"
AGENT_EMAIL = "agent-owner@louvre.example"
SECRETS = (EMAIL, PHONE, CARD, ADDRESS, AGENT_EMAIL, "mona.lisa", "louvre")

WORKSPACE = """
workspace: {{id: edge}}
sources:
  - {{id: web, write_key: {key}, edge: [pii, ip]}}
destinations:
  - {{id: files, type: archive, config: {{url: "{archive}", maxAgeS: 0.2}}}}
connections: [{{from: web, to: [files]}}]
transformations:
  - {{name: pii, ready: mask_pii, settings: {{how: tokenise, salt: "a salt of some length for this test", ids: true}}}}
  - {{name: ip, ready: truncate_ip}}
"""


def _everything(folder: Path) -> list[tuple[Path, bytes]]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found.append((path, gzip.decompress(data) if path.suffix == ".gz" else data))
    return found


async def test_what_a_policy_removes_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    workspace = WORKSPACE.format(key=WRITE_KEY, archive=tmp_path / "archive")
    browser = {"Origin": "https://shop.example", "User-Agent": f"Mozilla/5.0 ({AGENT_EMAIL})"}
    async with serving(tmp_path, workspace) as product:
        good = {
            "type": "identify",
            "messageId": "m-1",
            "userId": EMAIL,
            "traits": {
                "email": EMAIL,
                "phone": PHONE,
                "note": f"card {CARD}",
                EMAIL: 1,
                "kept": "visible-text",
            },
            "context": {"ip": ADDRESS},
        }
        batch = {
            "batch": [good, {**good, "type": "nonsense", "messageId": "m-2"}],
            "context": {"traits": {"email": EMAIL}},
            "integrations": {"All": True, "Mailer": {"to": EMAIL}},
            "sentAt": f"by {EMAIL}",
        }
        answer = await product.post("/v1/batch", batch, headers=browser)
        assert answer.status == 200, answer
        # Refused: too large, no JSON, no ids.
        huge = {"event": "x", "userId": EMAIL, "properties": {"email": EMAIL, "text": "x" * 600_000}}
        assert (await product.post("/v1/track", huge)).status == 400
        assert (await product.post("/v1/track", {"event": f"by {EMAIL}"})).status == 400
        broken = await product.post("/v1/track", f'{{"userId": "{EMAIL}", '.encode())
        assert broken.status == 400
        await product.settled("files")
        await until(
            "the archive has it", lambda: any(b"visible-text" in data for _, data in _everything(tmp_path))
        )
        books = await product.account("files")
        assert (books["received"], books["delivered"], books["rejected"]) == (5, 1, 4)
        (line,) = [line for line in archived(tmp_path / "archive") if line["messageId"] == "m-1"]
        event = line["raw"]
        assert event["messageId"] == "m-1"
        assert event["traits"]["kept"] == "visible-text"
        assert event["userId"] == event["traits"]["email"] != EMAIL, "the same data has the same token"
    for path, data in _everything(tmp_path):
        if path.name != "workspace.yaml":
            for secret in SECRETS:
                assert secret.encode() not in data, f"{secret} is in {path}"
