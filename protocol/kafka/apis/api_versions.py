"""ApiVersions (API 18), versions 0 to 4."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, int64, message, string


@message
class ApiVersionsRequest:
    """What is asked."""

    client_software_name: str = string(since=3)
    client_software_version: str = string(since=3)


@message
class ApiVersion:
    """ApiVersion of the response."""

    api_key: int = int16()
    min_version: int = int16()
    max_version: int = int16()


@message
class SupportedFeatureKey:
    """SupportedFeatureKey of the response."""

    name: str = string(since=3)
    min_version: int = int16(since=3)
    max_version: int = int16(since=3)


@message
class FinalizedFeatureKey:
    """FinalizedFeatureKey of the response."""

    name: str = string(since=3)
    max_version_level: int = int16(since=3)
    min_version_level: int = int16(since=3)


@message
class ApiVersionsResponse:
    """What is answered."""

    error_code: int = int16()
    api_keys: list[ApiVersion] = array(ApiVersion)
    throttle_time_ms: int = int32(since=1)
    supported_features: list[SupportedFeatureKey] = array(SupportedFeatureKey, since=3, tag=0)
    finalized_features_epoch: int = int64(since=3, tag=1, default=-1)
    finalized_features: list[FinalizedFeatureKey] = array(FinalizedFeatureKey, since=3, tag=2)
    zk_migration_ready: bool = boolean(since=3, tag=3)
