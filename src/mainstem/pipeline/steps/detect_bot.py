"""Detect bots: known crawlers, by their User-Agent (`events.user_agent` says which).

On reading, for sources with `bots: drop`.
"""

from typing import Final

from mainstem.events.canonical import Event
from mainstem.events.user_agent import bot_name
from mainstem.pipeline.outcome import Filtered

RULE: Final = "bot"


def drop_bots(event: Event) -> Filtered | None:
    """Filter events of known bots (a step, for sources with `bots: drop`)."""
    context = event.message.get("context")
    name = bot_name(context.get("userAgent")) if isinstance(context, dict) else ""
    return Filtered(RULE, name) if name else None
