"""UpdateFeatures (API 57), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int8, int16, int32, message, string


@message
class FeatureUpdateKey:
    """FeatureUpdateKey of the request."""

    feature: str = string()
    max_version_level: int = int16()
    allow_downgrade: bool = boolean(until=0)
    upgrade_type: int = int8(since=1, default=1)


@message
class UpdateFeaturesRequest:
    """What is asked."""

    timeout_ms: int = int32(default=60000)
    feature_updates: list[FeatureUpdateKey] = array(FeatureUpdateKey)
    validate_only: bool = boolean(since=1)


@message
class UpdatableFeatureResult:
    """UpdatableFeatureResult of the response."""

    feature: str = string(until=1)
    error_code: int = int16(until=1)
    error_message: str | None = string(until=1, nullable=True, default=None)


@message
class UpdateFeaturesResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True, default=None)
    results: list[UpdatableFeatureResult] = array(UpdatableFeatureResult, until=1)
