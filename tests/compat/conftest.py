"""Fixtures of the compatibility tests: the same client script against Jackalope and against RabbitMQ."""

from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
import trustme
from compat_brokers import Pool, Target, control_missing, jackalope_pool, rabbitmq_pool
from needed import need
from waiting import HANG_S

from tools.bench import control, kafka_control
from tools.bench.control import Broker, TlsFiles
from tools.bench.kafka_control import kafka_missing, running_kafka

HERE = Path(__file__).resolve().parent
# What is started or connected to is waited for like everything else: until it is there.
control.START_TIMEOUT_S = kafka_control.START_TIMEOUT_S = kafka_control.FORMAT_TIMEOUT_S = HANG_S
pika.connection.Parameters.DEFAULT_SOCKET_TIMEOUT = pika.connection.Parameters.DEFAULT_STACK_TIMEOUT = HANG_S


@pytest.hookimpl(tryfirst=True)  # Before -m is applied.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory needs the real clients."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.compat)


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate for localhost by an authority that lives as long as this run."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = TlsFiles(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(str(files.ca_file))
    certificate.private_key_pem.write_to_path(str(files.key_file))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(files.cert_file), append=True)
    return files


@pytest.fixture(scope="session")
def rabbitmq(tls_files: TlsFiles) -> Iterator[Pool]:
    """The control, started once a session; a skip with its reason where it cannot run, a failure in CI."""
    need(control_missing())
    with rabbitmq_pool(tls_files) as pool:
        yield pool


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """Apache Kafka, started once a session; a skip with its reason where it cannot run, a failure in CI."""
    need(kafka_missing())
    with running_kafka() as broker:
        yield broker


@pytest.fixture(scope="session")
def jackalope(tls_files: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The broker under test, from this checkout, started once a session."""
    with jackalope_pool(tls_files, tmp_path_factory.mktemp("jackalope")) as pool:
        yield pool


@pytest.fixture(params=["jackalope", pytest.param("rabbitmq", marks=pytest.mark.control)])
def broker(request: pytest.FixtureRequest) -> Target:
    """Each test runs against both brokers, in a vhost that nobody has used before."""
    pool: Pool = request.getfixturevalue(request.param)
    return pool.fresh()
