"""The limits: every buffer, count and wait that a peer could make grow, with its default and its reason."""

from __future__ import annotations

from broker.config.kinds import Section, integer, option, seconds, section, share_or_size, size

KIB = 1024
MIB = 1024 * 1024


@section
class Limits(Section):
    """Bytes in `_bytes`, seconds in `_s`, everything else a count. All of them are inclusive."""

    # One connection, on the wire.
    frame_max_bytes: int = option(
        131_072,
        size(8192, 16 * MIB),
        "Offered in connection.tune; a client may only lower it. Bounds what one frame makes us hold. RabbitMQ's.",
    )
    frame_max_unauthenticated_bytes: int = option(
        8192,
        size(4096, MIB),
        "Largest frame before login. RabbitMQ 4.1's figure; 4096 is the protocol's least and too small for long JWTs.",
    )
    channel_max: int = option(
        2047, integer(0, 65_535), "Open channels of a connection, counted; 0 is no limit. RabbitMQ's default."
    )
    heartbeat_s: int = option(
        60,
        seconds(0, 65_535, whole=True),
        "Offered in connection.tune; the client's own value wins, 0 switches it off. RabbitMQ's default.",
    )
    handshake_timeout_s: float = option(
        10.0,
        seconds(0.1, 600),
        "From accept to connection.open-ok, TLS included; then the socket is closed. RabbitMQ's default.",
    )
    close_timeout_s: float = option(
        5.0,
        seconds(0.1, 600),
        "How long a peer may take to answer connection.close before the socket goes; what it pipelined is dropped.",
    )
    send_timeout_s: float = option(
        30.0,
        seconds(1, 3600),
        "A peer that takes no byte for so long while there is something to send is closed. RabbitMQ's send_timeout"
        " with a slow link's margin.",
    )
    read_chunk_bytes: int = option(
        16 * KIB,
        size(4096, MIB),
        "One read. 256 KiB beside 16 flooding clients took a bystander's round trip from 0.1 to 110 ms; 16 KiB: 7 ms.",
    )
    read_chunk_bytes_max: int = option(
        128 * KIB, size(4096, 16 * MIB), "What reads may grow to while no other connection waits."
    )
    out_buffer_bytes_max: int = option(
        256 * KIB,
        size(16 * KIB, 256 * MIB),
        "Unsent bytes of a connection at which its consumers stop taking from their queues; replies are still written.",
    )
    parked_bytes_max: int = option(
        MIB,
        size(16 * KIB, 256 * MIB),
        "Frames held behind a request that waits (a publisher under the alarm); past it the socket is not read.",
    )
    route_cache_entries_max: int = option(
        4096,
        integer(0, 1_000_000),
        "Routes a connection remembers. Unbounded, 200,000 unique keys cost 140 MB; a miss costs about 1.5 µs.",
    )

    # Connections and channels.
    connections_max: int = option(
        10_000,
        integer(1, 1_000_000),
        "Open connections of each protocol. An idle one costs up to 40 kB and a file descriptor.",
    )
    connections_per_ip_max: int = option(
        9000,
        integer(1, 1_000_000),
        "Of these from one address, both protocols together: the rest is for others. Kafka's max.connections.per.ip,"
        " which by default is no limit.",
    )
    connections_unauthenticated_max: int = option(
        2048,
        integer(1, 1_000_000),
        "Connections that have not logged in yet: half-open floods stay within 1 % of a small machine's memory.",
    )
    connections_unauthenticated_per_ip_max: int = option(
        1024,
        integer(1, 1_000_000),
        "The same for one peer address. Generous, since a proxy or a restarted service connects from one address.",
    )
    consumers_per_channel_max: int = option(
        10_000, integer(1, 1_000_000), "RabbitMQ has no default limit; a client in a loop needs one."
    )
    prefetch_max: int = option(
        65_535,
        integer(1, 65_535),
        "What prefetch 0 (unlimited) means: unacknowledged deliveries of a consumer. LavinMQ's cap too.",
    )
    tx_messages_max: int = option(
        20_000,
        integer(1, 10_000_000),
        "Publishes of a channel's open transaction. Its commit holds everybody up: 1 µs a message, 12 µs at worst.",
    )
    tx_bytes_max: int = option(64 * MIB, size(64 * KIB, 4096 * MIB), "Message bytes of a channel's open transaction.")

    # Messages and the broker.
    message_size_max_bytes: int = option(
        16 * MIB,
        size(1024, 512 * MIB),
        "A longer body is counted and discarded, then answered with 406. RabbitMQ 4's default.",
    )
    memory_watermark: float = option(
        0.4,
        share_or_size(),
        "Publishers wait while the process holds more: a share of memory (of the container, if it has less) or a size."
        " RabbitMQ's former default; its 4.x takes 0.6.",
    )
    queues_max: int = option(
        100_000, integer(1, 10_000_000), "Queues of a vhost: a client in a loop must not eat the broker."
    )
    exchanges_max: int = option(20_000, integer(8, 10_000_000), "Exchanges of a vhost, predeclared ones included.")
    bindings_max: int = option(1_000_000, integer(1, 100_000_000), "Bindings of a vhost.")
    partitions_max: int = option(
        20_000, integer(1, 10_000_000), "Partitions of all topics of a vhost: an empty one costs about 3 kB."
    )
    acls_max: int = option(
        10_000,
        integer(0, 1_000_000),
        "Entries of the access list that Kafka's administrators change: each is about 1 kB of memory.",
    )
    kafka_request_bytes_max: int = option(
        100 * MIB, size(64 * KIB, 1024 * MIB), "One request of a Kafka client. Kafka's socket.request.max.bytes."
    )
    kafka_fetch_bytes_max: int = option(
        8 * MIB,
        size(64 * KIB, 1024 * MIB),
        "Batches in one answer to a fetch, whatever is asked for: they are read in one step. Kafka's is 55 MiB.",
    )
    kafka_answers_per_connection_bytes_max: int = option(
        MIB,
        size(64 * KIB, 1024 * MIB),
        "Octets of answers in memory that one Kafka client has not taken: past it no further request of it is worked on"
        " and no parked fetch read. Its first answer is.",
    )
    kafka_answers_bytes_max: int = option(
        256 * MIB,
        size(MIB, 1024 * 1024 * MIB),
        "The same of all Kafka clients together: past it fetches wait, and who takes nothing for 2 s goes. Kafka has no"
        " such limit; its answers are sent from files alone.",
    )
    kafka_groups_max: int = option(
        100_000, integer(1, 10_000_000), "Consumer groups of a vhost: each is about 2 kB. Kafka has no such limit."
    )
    kafka_group_members_max: int = option(
        1000,
        integer(1, 100_000),
        "Members of one consumer group: a rebalance of them is one step. Kafka's group.max.size, by default no limit.",
    )
    kafka_group_metadata_bytes_max: int = option(
        256 * KIB,
        size(1024, 100 * MIB),
        "What one member says of itself in JoinGroup, all protocols together. In Kafka whatever fits into a request.",
    )
    kafka_group_assignment_bytes_max: int = option(
        MIB,
        size(1024, 100 * MIB),
        "What a leader assigns to one member. Kafka: all of a group has to fit into one record (max.message.bytes).",
    )
    kafka_groups_bytes_max: int = option(
        128 * MIB,
        size(64 * KIB, 1024 * 1024 * MIB),
        "Octets of all consumer groups of a vhost, offsets included; who is in may use a quarter more. 1,000 members of"
        " 256 KiB would be twice that, and as much again in the leader's answer.",
    )
    kafka_offset_metadata_chars_max: int = option(
        4096, integer(0, 1_000_000), "What a consumer may note beside an offset. Kafka's offset.metadata.max.bytes."
    )
    kafka_idle_timeout_s: float = option(
        600.0,
        seconds(1, 86_400),
        "A Kafka client that says nothing for so long is closed. Kafka's connections.max.idle.ms.",
    )
    drain_timeout_s: float = option(
        10.0, seconds(0, 3600), "After SIGTERM: how long connections may take to close before they are dropped."
    )

    unfinished_bytes_max: int = option(
        256 * MIB,
        size(MIB, 1024 * 1024 * MIB),
        "Octets of requests, messages and bodies over 64 KiB that have not come whole, or wait, of all connections."
        " Past it, or under the memory alarm, they are read on one after the other, and who sends nothing for 2 s goes."
        " Kafka's queued.max.request.bytes, which by default is no limit.",
    )

    # HTTP.
    http_connections_max: int = option(256, integer(1, 100_000), "Open HTTP connections.")
    http_header_bytes_max: int = option(16 * KIB, size(1024, MIB), "Request line and headers of one request.")
    http_body_bytes_max: int = option(
        MIB, size(1024, 256 * MIB), "One request body. Without such a limit one request ends a broker (CVE-2023-46118)."
    )
    http_timeout_s: float = option(
        30.0, seconds(0.1, 3600), "One request from its first byte, and as long again idle before the next."
    )
