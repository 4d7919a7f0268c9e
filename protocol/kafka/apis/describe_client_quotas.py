"""DescribeClientQuotas (API 48), versions 0 to 1."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, float64, int8, int16, int32, message, string


@message
class ComponentData:
    """ComponentData of the request."""

    entity_type: str = string()
    match_type: int = int8()
    match: str | None = string(nullable=True, default=None)


@message
class DescribeClientQuotasRequest:
    """What is asked."""

    components: list[ComponentData] = array(ComponentData)
    strict: bool = boolean()


@message
class EntityData:
    """EntityData of the response."""

    entity_type: str = string()
    entity_name: str | None = string(nullable=True, default=None)


@message
class ValueData:
    """ValueData of the response."""

    key: str = string()
    value: float = float64()


@message
class EntryData:
    """EntryData of the response."""

    entity: list[EntityData] = array(EntityData)
    values: list[ValueData] = array(ValueData)


@message
class DescribeClientQuotasResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True, default=None)
    entries: list[EntryData] | None = array(EntryData, nullable=True)
