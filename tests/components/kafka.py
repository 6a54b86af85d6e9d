"""A real Apache Kafka broker: KRaft, one node, its jars from Maven Central, Java 17 or later.

Started as the distribution's scripts do it (`kafka.tools.StorageTool format`, then `kafka.Kafka`), with
a small heap. The broker keeps its port and log directory across `kill9` and `restart`.
"""

import os
import re
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.components.install import (
    PINS,
    ComponentMissing,
    apt_install,
    installed_once,
    run_installer,
    say,
)
from tests.components.process import ServerFailed, ServerProcess, accepts_connections, free_port

COMPONENT = "kafka"
MINIMUM_JAVA = 17
_POM = PINS / "kafka" / "pom.xml"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_LOG4J = PINS / "kafka" / "log4j2.xml"
_JVM = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def install() -> Path:
    """Java, and the folder with the broker's jars.

    Raises:
        ComponentMissing: Java 17 is absent, or Maven Central could not be reached.
    """
    _java()

    def build(home: Path) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            apt_install(COMPONENT, ["maven", "default-jre-headless"])
        say("fetching Apache Kafka from Maven Central")
        shutil.copy(_POM, home / "pom.xml")
        run_installer(
            COMPONENT,
            [
                *(maven or "mvn", "--batch-mode", "--no-transfer-progress", "--strict-checksums"),
                # Maven remembers failed downloads for a day; after a network trouble, ask again.
                "--update-snapshots",
                f"{_PLUGIN}:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={home / 'jars'}",
            ],
            cwd=home,
            remedy="make Maven Central reachable and run `make test` again.",
        )

    return installed_once(COMPONENT, [_POM], build) / "jars"


class KafkaBroker:
    """A broker on a free loopback port, with its data in `directory`.

    Topics are not created by accident: use `create_topic`, or pass
    `settings={"auto.create.topics.enable": "true"}`.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._settings = dict(settings or {})
        self._port = free_port()
        self._server: ServerProcess | None = None

    @property
    def bootstrap(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        jars = install()
        java = _java()
        self._directory.mkdir(parents=True, exist_ok=True)
        configuration = self._directory / "server.properties"
        configuration.write_text(self._properties())
        common = [java, *_JVM, f"-Dlog4j2.configurationFile={_LOG4J}", "-cp", f"{jars}/*"]
        formatted = subprocess.run(
            [
                *(*common, "kafka.tools.StorageTool", "format", "--ignore-formatted"),
                *(f"--cluster-id={_cluster_id()}", "-c", str(configuration)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if formatted.returncode != 0:
            raise ServerFailed(
                f"Kafka's storage could not be formatted:\n{formatted.stdout}{formatted.stderr}"
            )
        self._server = ServerProcess(
            "Kafka broker",
            [*common, "kafka.Kafka", configuration],
            ready=self._serves,
            log=self._directory / "broker.log",
            ready_timeout_s=90.0,
        )
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stop()

    @property
    def server(self) -> ServerProcess:
        """The broker's process."""
        if self._server is None:
            raise RuntimeError("the broker was never started: use `with KafkaBroker(...)`")
        return self._server

    def kill9(self) -> None:
        """SIGKILL the broker."""
        self.server.kill9()

    def restart(self) -> None:
        """Start the broker again after `kill9` or `stop`: same port, same data."""
        self.server.start()

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and return once it exists."""
        topic = NewTopic(name, num_partitions=partitions, config=dict(settings or {}))
        # The request dies with its client, so the client needs a name that outlives the call.
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([topic])[name].result(30)

    def _properties(self) -> str:
        controller = free_port()
        while controller == self._port:
            controller = free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._directory / "data"),
            "auto.create.topics.enable": "false",
            # One node: nothing can be replicated.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Small internal topics and no waiting for more members: tests start groups all the time.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # A broker that was killed is let in again only when its old session is over (default 9 s).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # The cleaner's default buffer alone is 128 MiB.
            "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
            **self._settings,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    def _serves(self) -> bool:
        if not accepts_connections(self._port):
            return False
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return len(admin.list_topics(timeout=2.0).brokers) == 1
        except KafkaException:
            return False


def _cluster_id() -> str:
    # Kafka's Uuid in text: URL-safe base64 of 16 bytes without padding.
    return urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()


def _java() -> str:
    """The `java` command, at least Java 17; installed from Debian where that is allowed."""
    java = _java_on_this_machine()
    if java is None:
        apt_install(COMPONENT, ["default-jre-headless"])
        java = _java_on_this_machine()
    if java is None:
        raise ComponentMissing(
            COMPONENT,
            f"no Java {MINIMUM_JAVA} or later found.",
            "apt-get install default-jre-headless, or set JAVA_HOME.",
        )
    return java


def _java_on_this_machine() -> str | None:
    home = os.environ.get("JAVA_HOME")
    for java in (str(Path(home, "bin", "java")) if home else None, shutil.which("java")):
        if java is None or not Path(java).exists():
            continue
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        version = re.search(r'version "(\d+)', answer.stderr)
        if version is not None and int(version.group(1)) >= MINIMUM_JAVA:
            return java
    return None
