"""`jackalope`, with limits so small that seconds of load bring checkpoints, segments, full heads."""

from broker.core.queues import backlog
from broker.log import checkpoint, store
from tools.cli.main import main

store.JOURNAL_BYTES_MAX = 256 << 10
checkpoint.CARRY_BYTES_MAX = 8 << 10
checkpoint.SEGMENT_BYTES_MAX = 128 << 10
backlog.HEAD_BYTES_MAX = 256 << 10

if __name__ == "__main__":
    main()
