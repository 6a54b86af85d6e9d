"""User-Agents in the names that vendors use."""

from typing import Any

import pytest

from mainstem.destinations.kit.user_agent import Client, client_of

MAC = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/86.0.4240.111 Safari/537.36"
)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (MAC, Client("Chrome", "86.0.4240.111", "Mac OS", "Macintosh")),
        ("Dalvik/2.1.0 (Linux; U; Android 9; Pixel Build/X)", Client("", "", "Android", "Android 9")),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0",
            Client("Firefox", "120.0", "Linux", "Linux x86_64"),
        ),
        ("curl/8.1", Client()),
        ("", Client()),
        (None, Client()),
        (7, Client()),
    ],
)
def test_what_a_user_agent_tells(agent: Any, expected: Client) -> None:
    assert client_of(agent) == expected
