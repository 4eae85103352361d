"""Which of the formats on offer a request gets: ``?format=`` first, then ``Accept`` (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcjepa_server.errors import NotAcceptable

#: A weight: 0 to 1, with three digits at most (RFC 9110, 12.4.2).
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True)
class Offer:
    """One format: its name for ``?format=``, its Content-Type, and what else in ``Accept`` stands for it."""

    name: str
    media_type: str
    aliases: tuple[str, ...] = ()
    by_accept: bool = True


def choose_format(requested: str | None, accept: str | None, offers: Sequence[Offer]) -> Offer:
    """The offer a request wants; the first one when it does not care. Raises NotAcceptable with the list."""
    if requested is not None:
        for offer in offers:
            if offer.name == requested:
                return offer
        raise NotAcceptable(f"format {requested!r} is not on offer; {_list(offers)}", param="format")
    if not accept:
        return offers[0]
    ranges = _parse_accept(accept)
    best = max(offers, key=lambda offer: _quality(offer, ranges))  # the first of equals
    if _quality(best, ranges) == 0:
        raise NotAcceptable(f"nothing matches Accept: {accept[:200]}; {_list(offers)}", param="Accept")
    return best


def _list(offers: Sequence[Offer]) -> str:
    names = ", ".join(f"{offer.name} ({offer.media_type})" for offer in offers)
    return f"choose one of {names}"


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    """Return the media ranges with their q, but for those whose q is no weight. Ignores other parameters."""
    ranges = []
    for item in accept.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        weights = [
            value.strip()
            for name, _, value in (parameter.partition("=") for parameter in parameters)
            if name.strip().lower() == "q"
        ]
        if media and all(map(_WEIGHT.fullmatch, weights)):
            ranges.append((media.lower(), float(weights[0]) if weights else 1.0))
    return ranges


def _quality(offer: Offer, ranges: Sequence[tuple[str, float]]) -> float:
    """q of the most specific range that matches the offer, 0 if none does."""
    if not offer.by_accept:
        return 0.0
    found: tuple[int, float] = (0, 0.0)
    for media, quality in ranges:
        found = max(found, (_specificity(media, offer), quality), key=lambda pair: pair[0])
    return found[1] if found[0] else 0.0


def _specificity(media: str, offer: Offer) -> int:
    if media == offer.media_type or media in offer.aliases:
        return 3
    if media == offer.media_type.split("/")[0] + "/*":
        return 2
    return 1 if media == "*/*" else 0
