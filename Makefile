# Everything runs from a virtual environment of its own; system packages come from Debian. Root is needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell echo $$(($$(nproc) + 2)))
# What tests write goes to memory, where there is enough: to wait for a disk tells nothing.
MEMORY := $(shell [ "$$(df --output=avail -BG /dev/shm 2>/dev/null | tr -dc 0-9)" -ge 4 ] 2>/dev/null && \
  echo env TMPDIR=/dev/shm ARPIPAM_LAB=/dev/shm/arpipam-lab)
PYTEST := $(MEMORY) $(BIN)/pytest --dist loadgroup --no-loadscope-reorder --ignore tests/vm
# Compiled modules are kept: else each worker, and each command and agent that a test starts, compiles all of ours anew.
unexport PYTHONDONTWRITEBYTECODE
PACKAGES := python3-venv docker.io iptables nftables iproute2 iputils-arping iputils-ping openvswitch-switch busybox-static docker-compose \
  avahi-autoipd dhcpcd-base keepalived

.PHONY: install system check compiled units test test-vm lint mutate demo soak bench lock clean
install: system $(VENV)/.installed

# Daemons that Debian would start on installation (an engine, Open vSwitch) stay off: the lab starts its own.
system:
	@.ci/packages $(PACKAGES)

$(VENV)/.installed: requirements-dev.lock pyproject.toml | system
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Lint, types and the tests that need no lab, side by side, in a minute and a half: run it before each commit.
check:
	@$(MAKE) --no-print-directory -j2 lint units

compiled: install
	@$(BIN)/python -m compileall -q arpipam launcher bench tests/support

units: compiled
	$(PYTEST) --ignore tests/lab -n $(WORKERS)

# All tests but those of `make test-vm`; those that measure times run alone afterwards. Most of the time of a lab is
# waiting, for Docker and for RFC 5227's own times: with two workers more than processors, these have something to do
# meanwhile, and an engine that starts has enough of them. By day some tests have fewer turns and only a part of their
# combinations; ARPIPAM_TESTS=night runs all of them at full length (tests/support/profile.py).
test: compiled
	@.ci/engine-26 || true
	$(PYTEST) -n $(WORKERS) -m "not timing"
	$(PYTEST) -n 0 -m timing

# Two virtual machines with Debian's own kernel; skipped, with a line that says so, where qemu cannot be installed.
test-vm: install
	@.ci/packages qemu-system-x86 cpio kmod e2fsprogs || true
	$(BIN)/pytest tests/vm --timeout 900

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Breaks protocol and lease store, one break at a time, and fails where their tests notice too few: docs/mutation.md.
# `make mutate MUTATE=…` takes names of mutants, such as 'arpipam.protocol.pool.*', and --jobs.
mutate: $(VENV)/.mutate
	nice -n 15 $(BIN)/python -m tests.mutation $(MUTATE)

$(VENV)/.mutate: requirements-mutate.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --require-hashes -r requirements-mutate.lock
	touch $@

demo: install
	$(BIN)/python -m launcher.lab.demo

# Hosts whose containers come and go while cables, engines, agents, disks and neighbours fail: docs/soak.md.
soak: install
	@.ci/packages dhcpcd-base avahi-autoipd || true
	$(BIN)/python -m launcher.lab.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(SOAK)

# Ten scenarios beside their peers: bench-out/report.md, results.json and plots. `make bench BENCH=…`
# takes names of scenarios, --quick (two minutes) and --out.
bench: install
	@.ci/packages arp-scan avahi-autoipd dhcpcd-base gcc libc6-dev || true
	$(BIN)/python -m bench $(BENCH)

# New versions of the dependencies, pinned with hashes.
lock: install
	$(BIN)/python -m venv --clear .venv-lock && .venv-lock/bin/pip install --quiet pip-tools
	for lock in "requirements.lock" "requirements-dev.lock --extra dev --extra bench" \
	  "requirements-mutate.lock --extra dev --extra mutate"; do \
	  .venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o $$lock pyproject.toml || exit 1; done
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
