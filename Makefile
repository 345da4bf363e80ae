# The front door for people. Everything longer than three lines lives in scripts/ or tests/bed/; `.ci/run` calls these targets.

CARGO  ?= cargo
PREFIX ?= /usr/local

help:             ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:            ## the program, as it is installed: target/dist/bryo
	@tests/bed/install-packages.sh build
	$(CARGO) build --profile dist --locked --package bryo

demo:             ## Bryo builds its own documentation into site/, on crun and on podman
	@scripts/demo.sh

test:             ## unit tests, then the stories against real crun and podman; STORY=name for some of them
	@scripts/test.sh $(STORY)

test-s3:          ## the S3 depot against a real server, built once; NAME=name for some of the tests
	@scripts/test-s3.sh $(NAME)

test-vm:          ## limits and networks, or SELinux, in a booted guest; SUITE=bookworm, trixie or trixie-selinux
	@scripts/test-vm.sh $(SUITE)

bench:            ## measures, and writes docs/benchmarks.md
	@scripts/bench.sh

lint:             ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

audit:            ## licences, bans, sources, and advisories where their database can be reached
	@scripts/audit.sh

fuzz:             ## parsers and the masker with invented inputs, each target for SECONDS=60; needs nightly Rust
	@scripts/fuzz.sh $(or $(SECONDS),60)

docs:             ## the documentation of the working tree: site/
	@scripts/docs.sh

# Builds only what is missing: `sudo make install` after `make build` needs no Rust for root.
install:          ## DESTDIR= PREFIX=/usr/local
	@test -x target/dist/bryo || $(MAKE) build
	install -D -m 755 target/dist/bryo $(DESTDIR)$(PREFIX)/bin/bryo
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/user config/systemd/user/bryo-agent.service config/systemd/user/bryo-agent.socket
	install -D -m 644 config/etc/bryo/bryo.toml $(DESTDIR)$(PREFIX)/share/doc/bryo/bryo.toml

clean:            ## removes what the other targets made here
	$(CARGO) clean
	rm -rf site images/*.tar images/*.tar.key images/.lock

.PHONY: help build demo test test-s3 test-vm bench lint audit fuzz docs install clean
