"""Where the Segment spec keeps what vendors ask for: paths in order of preference. Part of the mapping kit.

https://segment.com/docs/connections/spec/identify/#traits, .../spec/common/, .../spec/ecommerce/v2/. An event's own
traits go before those in its context, and those before properties, which servers use for lack of a context.
"""

from typing import Final

USER_ID: Final = ("userId", "traits.userId", "traits.id", "context.traits.userId", "context.traits.id")
USER_OR_ANONYMOUS_ID: Final = (*USER_ID, "anonymousId")
TIMESTAMP: Final = ("timestamp", "originalTimestamp")


def trait(*names: str, properties: bool = True) -> tuple[str, ...]:
    """Return the paths of a trait that goes by these names.

    Args:
        properties: look into an event's properties too, last.
    """
    places = ("traits", "context.traits", *(("properties",) if properties else ()))
    return tuple(f"{place}.{name}" for place in places for name in names)


EMAIL: Final = trait("email")
PHONE: Final = trait("phone")
NAME: Final = trait("name")
FIRST_NAME: Final = trait("firstName", "firstname", "first_name")
LAST_NAME: Final = trait("lastName", "lastname", "last_name")
GENDER: Final = trait("gender")
BIRTHDAY: Final = trait("birthday", "dob")
COUNTRY: Final = trait("address.country", "country")
CITY: Final = trait("address.city", "city")
STATE: Final = trait("address.state", "state")
ZIP: Final = trait("address.postalCode", "address.zip", "postalCode", "zip")
STREET: Final = trait("address.street", "street")
IP: Final = ("context.ip", "request_ip")
USER_AGENT: Final = ("context.userAgent",)
PAGE_URL: Final = ("context.page.url", "properties.url")
REFERRER: Final = ("context.page.referrer", "properties.referrer")
REVENUE: Final = ("properties.revenue", "properties.value", "properties.total")
CURRENCY: Final = ("properties.currency",)
DEVICE_ID: Final = ("context.device.id",)
ADVERTISING_ID: Final = ("context.device.advertisingId", "context.idfa")
"""`context.device.advertisingId` is what the SDKs send; some servers write `context.idfa`."""
