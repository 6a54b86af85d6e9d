"""Orders and carts in Braze's words: its recommended eCommerce events, and purchases as they were before.

Follows https://www.braze.com/docs/user_guide/data/activation/events/recommended_events and
https://www.braze.com/docs/api/objects_filters/purchase_object (read 2026-11). What the Segment spec has and Braze has
no field for goes into `metadata`, where Braze takes anything.
"""

from typing import Any, Final

from mainstem.destinations.kit.refuse import refuse
from mainstem.destinations.kit.values import first, mapping, number, omit, pick, present, sequence

Json = Any
Object = dict[str, Any]

_EVENTS: Final = {
    "product viewed": ("ecommerce.product_viewed", ""),
    "product added": ("ecommerce.cart_updated", "add"),
    "product removed": ("ecommerce.cart_updated", "remove"),
    "checkout started": ("ecommerce.checkout_started", ""),
    "order completed": ("ecommerce.order_placed", ""),
    "order refunded": ("ecommerce.order_refunded", ""),
    "order cancelled": ("ecommerce.order_cancelled", ""),
}
"""The Segment spec's event -> Braze's, and what it does to the cart."""
_PRODUCT: Final = {
    "product_id": ("product_id", "sku"),
    "product_name": ("product_name", "name"),
    "variant_id": ("variant_id", "variant", "sku", "product_id"),
    "image_url": ("image_url",),
    "product_url": ("product_url", "url"),
    "quantity": ("quantity",),
    "price": ("price",),
}
_ORDER: Final = {
    "checkout_id": ("checkout_id",),
    "order_id": ("order_id",),
    "cart_id": ("cart_id",),
    "total_value": ("total_value", "total", "value", "revenue"),
    "subtotal_value": ("subtotal_value", "subtotal"),
    "tax": ("tax",),
    "shipping": ("shipping",),
    "total_discounts": ("total_discounts", "discount"),
    "discounts": ("discounts",),
    "currency": ("currency",),
    "cancel_reason": ("cancel_reason", "reason"),
    "checkout_url": ("checkout_url",),
}
_PRODUCT_NAMES: Final = frozenset(name for names in _PRODUCT.values() for name in names)
_ORDER_NAMES: Final = frozenset(name for names in _ORDER.values() for name in names)
_BESIDE: Final = frozenset(("products", "source", "metadata", "type", "action"))

ROWS: Final = tuple(
    (target, tuple(f"properties.{name}" for name in names), "") for target, names in _ORDER.items()
)
PRODUCT_ROWS: Final = tuple((target, names, "") for target, names in _PRODUCT.items())


def recommended(name: str, properties: Object, source: str) -> tuple[str, Object] | None:
    """Return the name and properties of Braze's event for one of the Segment spec's; None if there is none.

    Args:
        name: without white space around it, in lower case.
        source: where the event is from (web, ios, android, server).
    """
    found = _EVENTS.get(name)
    if found is None:
        return None
    event, action = found
    known = _ORDER_NAMES | _BESIDE
    if event == "ecommerce.product_viewed":
        body = _taken(properties, _PRODUCT)
        body.pop("quantity", None)
        body.update(
            (part, properties[part]) for part in ("currency", "type") if present(properties.get(part))
        )
        known = _PRODUCT_NAMES | _BESIDE | {"currency"}
    else:
        body = _taken(properties, _ORDER)
        products = [product for product in sequence(properties.get("products")) if isinstance(product, dict)]
        if not products and action:
            # The spec has the one product of a change to the cart beside the cart's own fields.
            products = [pick(properties, _PRODUCT_NAMES)]
            known |= _PRODUCT_NAMES
        if products:
            body["products"] = [_product(product) for product in products]
        if action:
            body["action"] = action
    body["source"] = properties["source"] if present(properties.get("source")) else source
    _set_metadata(body, properties, known)
    return event, body


def _taken(properties: Object, names: dict[str, tuple[str, ...]]) -> Object:
    taken: Object = {}
    for target, sources in names.items():
        value = first(properties, *sources)
        if value is not None:
            taken[target] = value
    return taken


def _product(product: Object) -> Object:
    made = _taken(product, _PRODUCT)
    _set_metadata(made, product, _PRODUCT_NAMES | {"metadata", "currency"})
    return made


def _set_metadata(body: Object, given: Object, known: frozenset[str]) -> None:
    metadata = {name: value for name, value in given.items() if name not in known and value is not None}
    metadata.update(mapping(given.get("metadata")))
    if metadata:
        body["metadata"] = metadata


# ---------------------------------------------------------------- purchases

_PURCHASE_FIELDS: Final = frozenset(
    ("product_id", "sku", "price", "currency", "quantity", "time", "event_name")
)


def purchases(properties: Json, time: Json, who: Object, *, with_properties: bool) -> list[Object]:
    """Return a purchase for each product of an order.

    Raises:
        NotSent: a product lacks what Braze requires of a purchase.
    """
    products = [product for product in sequence(mapping(properties).get("products")) if product]
    if not products:
        refuse("`properties.products` is missing or empty; Braze needs the products of an order")
    currency = mapping(properties).get("currency")
    made: list[Object] = []
    for index, product in enumerate(products):
        fields = mapping(product)
        purchase = {
            "product_id": first(fields, "product_id", "sku"),
            "price": _number(fields.get("price")),
            "currency": currency if present(currency) else fields.get("currency"),
            "quantity": _number(fields.get("quantity")),
        }
        for name, value in purchase.items():
            if not present(value):
                refuse(
                    f"`properties.products[{index}].{name}` is missing or no number; Braze needs it of a purchase"
                )
        purchase["time"] = time
        if with_properties and (more := omit(fields, _PURCHASE_FIELDS)):
            purchase["properties"] = more
        made.append({**purchase, **who})
    return made


def _number(value: Json) -> Json:
    return number(value) if present(value) else None
