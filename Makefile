# Everything runs in .venv, which each target makes by itself from requirements.lock (Python, make and PyPI suffice).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
COMPILED := $(VENV)/.compiled
SOURCES := $(shell find broker protocol tools -name "*.py")
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV_COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header pyproject.toml --extra build
ROUNDS ?= 5
SECONDS_EACH ?= 3

.PHONY: run test style types debian-tools compat faults faults-short truncation bench bench-kafka kafka-control lock clean

$(READY): requirements.lock pyproject.toml
	@echo "installing into $(VENV), once: this takes a minute or so"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

# pip compiles what it installs, but not what is installed in place; where PYTHONDONTWRITEBYTECODE is set nobody else
# would, and each start would compile all of it again, for half of its time.
$(COMPILED): $(READY) $(SOURCES)
	$(BIN)/python -m compileall -q broker protocol tools
	touch $@

$(READY_DEV): requirements-dev.lock $(READY) | $(COMPILED)
	$(PIP) install --require-hashes -r requirements-dev.lock
	touch $@

run: $(COMPILED) ## Start a broker in the foreground with its defaults; ARGS="-c FILE" for others.
	$(BIN)/jackalope serve $(ARGS)

test: $(READY_DEV) style types ## Everything that needs nothing but PyPI.
	$(BIN)/python -m pytest -m "not compat and not control and not faults" $(PYTEST_ARGS)

style: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY_DEV)
	$(BIN)/mypy

debian-tools: ## Installs the peers and tools from Debian where that is possible (as root).
	@sh tools/dev/debian-tools

compat: $(READY_DEV) debian-tools ## The real clients, on Jackalope and on Debian's rabbitmq-server.
	$(BIN)/python -m pytest -m "compat or control" tests $(PYTEST_ARGS)

faults: $(READY_DEV) debian-tools ## Floods, kills, power cuts, failing disks, malformed octets, fuzzing.
	$(BIN)/python -m pytest -m faults tests/faults -o faulthandler_timeout=600 $(PYTEST_ARGS)

faults-short: $(READY_DEV) debian-tools
	JACKALOPE_FAULTS=short $(BIN)/python -m pytest -m faults tests/faults -o faulthandler_timeout=600 $(PYTEST_ARGS)

truncation: $(READY_DEV) ## 5,000 lives of replicated logs, with power cuts anywhere; some ten minutes.
	JACKALOPE_TRUNCATION_LIVES=5000 $(BIN)/python -m pytest tests/log/test_truncation.py -k lives $(PYTEST_ARGS)

bench: $(READY_DEV) debian-tools ## Side by side with Debian's rabbitmq-server; takes a while. See bench-kafka too.
	$(BIN)/jackalope bench amqp --rounds $(ROUNDS) --seconds $(SECONDS_EACH)

bench-kafka: kafka-control ## Side by side with Apache Kafka; takes a while. ARGS="--broker kafka --peer none" for it alone.
	$(BIN)/jackalope bench kafka --rounds $(ROUNDS) --seconds $(SECONDS_EACH) $(ARGS)

kafka-control: $(READY_DEV) debian-tools ## Fetches Apache Kafka with mvn into ~/.cache/jackalope.
	$(BIN)/python -m tools.bench.kafka_control

lock: ## Pin the newest versions that pyproject.toml allows; needs uv.
	$(UV_COMPILE) --upgrade -o requirements.lock
	$(UV_COMPILE) --upgrade -c requirements.lock --extra test --extra compat --extra faults -o requirements-dev.lock

clean:
	rm -rf $(VENV) build dist *.egg-info
