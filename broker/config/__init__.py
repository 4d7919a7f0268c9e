"""The configuration of `jackalope serve`: typed, frozen, with defaults for everything.

`load(paths, sets, environ)` gives a `Config`; `check` the same as a report; `Config.declared()` what to declare.
"""

from broker.config.kinds import Address
from broker.config.limits import Limits
from broker.config.loader import Report, check, load
from broker.config.schema import (
    Binding,
    Config,
    Declared,
    Exchange,
    Permission,
    Queue,
    Security,
    Tls,
    TopicPermission,
    Topology,
    User,
    VHost,
)
from broker.config.secret import Secret

__all__ = [
    "Address", "Binding", "Config", "Declared", "Exchange", "Limits", "Permission", "Queue", "Report", "Secret",
    "Security", "Tls", "TopicPermission", "Topology", "User", "VHost", "check", "load",
]  # fmt: skip
