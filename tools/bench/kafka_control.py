"""The Kafka control: fetch Apache Kafka once, start a private broker of it, and end it again.

Owns: the cache of its jars (outside of the repository), its configuration, data directory and process. One process is
broker and controller (KRaft), on 127.0.0.1 only. Everything is Kafka's default but what `SERVER_PROPERTIES` says and
why. Must not know: scenarios, loads. `running_kafka` yields the same `Broker` as the other controls.
"""

import base64
import contextlib
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.bench.control import HOST, START_TIMEOUT_S, Broker, BrokerStartError, stop, tail
from tools.bench.processes import free_port

KAFKA_VERSION = "4.3.1"
LOG4J_VERSION = "2.25.4"  # The one that this Kafka brings; only its binding to slf4j is missing among the dependencies.
FETCH_TIMEOUT_S = 600.0
FORMAT_TIMEOUT_S = 60.0
HEAP = ("-Xms1g", "-Xmx1g")  # What Kafka's own start script gives a broker.
JVM = ("-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
       "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true")  # fmt: skip

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>jackalope</groupId>
  <artifactId>kafka-control</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

# One broker cannot hold the three copies that the internal topics have by default; the first rebalance of a group would
# wait three seconds for members that are there already; and the files of a minute of deleted topics would fill a disk.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.delete.delay.ms=1000
"""


def cache_directory() -> Path:
    """Where the jars are kept: $XDG_CACHE_HOME or ~/.cache, by version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jackalope" / f"kafka-{KAFKA_VERSION}"


def kafka_missing() -> str | None:
    """Why a private Kafka cannot run here, or None when it can (after a fetch, where nothing is cached yet)."""
    if shutil.which("java") is None:
        return "java is not on the path (17 or newer)"
    if not cache_directory().is_dir() and shutil.which("mvn") is None:
        return f"{cache_directory()} is missing, and mvn to fetch it is not on the path"
    return None


def fetch_kafka() -> Path:
    """The directory with Kafka's jars, filled by mvn (with its own settings) where it is not there yet.

    Raises BrokerStartError when that fails. A fetch that was cut off leaves nothing that looks complete.
    """
    wanted = cache_directory()
    if wanted.is_dir():
        return wanted
    if (mvn := shutil.which("mvn")) is None:
        raise BrokerStartError("mvn is not on the path")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="fetch-") as name:
        base = Path(name)
        (base / "pom.xml").write_text(POM)
        try:
            done = subprocess.run(
                [mvn, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={base / 'jars'}"], cwd=base,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BrokerStartError(f"mvn did not end within {FETCH_TIMEOUT_S:.0f} s") from None
        if done.returncode:
            raise BrokerStartError(f"mvn could not fetch Kafka:\n{(done.stdout + done.stderr)[-2000:]}")
        with contextlib.suppress(FileExistsError):  # Another fetch was quicker.
            (base / "jars").rename(wanted)
    return wanted


def answers_kafka(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether an ApiVersions request (version 0) is answered there without an error."""
    request = struct.pack(">hhih5s", 18, 0, 1, 5, b"bench")
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as probe:
            probe.sendall(struct.pack(">i", len(request)) + request)
            answer = probe.recv(10, socket.MSG_WAITALL)
            return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)
    except OSError:
        return False


def _format(java: Sequence[str], base: Path) -> None:
    """What `kafka-storage format` does: a data directory with a cluster id of its own."""
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    done = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", "server.properties"], cwd=base,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BrokerStartError(f"kafka-storage format failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _wait_kafka(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise BrokerStartError(f"Kafka ended with status {process.returncode} at start:\n{tail(log)}")
        if answers_kafka(HOST, port):
            return
        time.sleep(0.05)
    raise BrokerStartError(f"no Kafka on port {port} after {START_TIMEOUT_S:.0f} s:\n{tail(log)}")


@contextlib.contextmanager
def running_kafka(settings: Sequence[str] = ()) -> Iterator[Broker]:
    """A private Apache Kafka on a freshly formatted data directory. `settings` are further server.properties.

    `start_s` is from exec to an answered ApiVersions request, without the formatting. Takes about 5 s.
    Raises BrokerStartError.
    """
    if (reason := kafka_missing()) is not None:
        raise BrokerStartError(reason)
    jars = fetch_kafka()
    base = Path(tempfile.mkdtemp(prefix="jackalope-control-"))
    port, controller_port = free_port(), free_port()
    server: subprocess.Popen[bytes] | None = None
    try:
        properties = SERVER_PROPERTIES.format(host=HOST, port=port, controller_port=controller_port, data=base / "data")
        (base / "server.properties").write_text(properties + "".join(f"{line}\n" for line in settings))
        java = ["java", "-cp", f"{jars}/*"]
        _format(java, base)
        log, started_s = base / "console.log", time.monotonic()
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*java[:1], *HEAP, *JVM, *java[1:], "kafka.Kafka", str(base / "server.properties")], cwd=base,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _wait_kafka(server, port, log)
        yield Broker(
            name="kafka", host=HOST, port=port, root_pid=server.pid, directory=base,
            start_s=time.monotonic() - started_s, addresses={"kafka": (HOST, port)},
        )  # fmt: skip
    finally:
        if server is not None:
            stop(server)
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    try:
        print(fetch_kafka())
    except BrokerStartError as error:
        sys.exit(str(error))
