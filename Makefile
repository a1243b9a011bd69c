# `make` lists what there is. Every target installs what it needs and can be run again; the work is in scripts/, demo/ and benches/.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# A clean clone in CI finds the dependencies built by the last one; scripts/test takes a lock there.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(shell . scripts/lib.sh && echo $$POOLKEEPER_CACHE)/target
endif

.PHONY: help demo demo-down demo-local test e2e drivers bench profile bench-state bench-operator check lint fmt crd deploy image docs mutants fuzz soak isolation-mutations setup clean

help: ## this list
	@echo "Poolkeeper: a PostgreSQL pooler whose pool is resized while it serves. Targets:"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/' | while IFS=$$'\t' read -r name text; do printf '  make %-19s %s\n' "$$name" "$$text"; done

demo: ## the whole thing on a real Kubernetes: helm install, an app under load, its pools changed while it works (needs root)
	@demo/cluster/run

demo-down: ## removes what `make demo` started
	@demo/cluster/down

demo-local: ## the sidecar alone, without a cluster, in about a minute
	@demo/local/run

test: ## everything that must hold, in stages with a time each (make test STAGES="fmt lint" for some)
	@scripts/test $(STAGES)

e2e: ## Poolkeeper as it is shipped, on a real Kubernetes node, under load (part of make test; needs root)
	@scripts/test setup cluster e2e

drivers: ## other people's test suites, directly and through Poolkeeper, writes tests/drivers/README.md (an hour or two; SUITES=pgx,pq COLUMNS=direct,transaction: some)
	@tests/drivers/run $(if $(SUITES),--suites $(SUITES)) $(if $(COLUMNS),--columns $(COLUMNS))

bench: ## Poolkeeper and PgBouncer side by side, writes benches/report.md (about fifty minutes; QUICK=1: 4 minutes)
	@benches/compare/run $(if $(QUICK),--quick)

profile: ## where the time of a query goes: system calls, flame graphs, instructions by function (target/profile)
	@benches/profile/run

bench-state: ## what it costs to keep sessions apart: quiet, noisy and Strict against Trusting (about twelve minutes)
	@benches/compare/run --state

bench-operator: ## 2 000 and 10 000 streams: memory, CPU and writes at rest, time to reprogram all (FLEETS="500" for others)
	@scripts/bench-operator $(FLEETS)

check: ## does it compile?
	@scripts/cargo check --all-targets

lint: ## clippy, no warning allowed, and formatting
	@scripts/cargo fmt --check
	@scripts/cargo clippy --all-targets --test e2e --test operator --locked -- -D warnings

fmt: ## formats the sources
	@scripts/cargo fmt

crd: ## writes crds/ from the types
	@scripts/generate crd

deploy: ## writes deploy/ from the chart (charts/poolkeeper)
	@scripts/generate deploy

image: ## builds the image: static, in an empty root, below 15 MB (ARCH=arm64, NAME=registry/poolkeeper:tag, PUSH=registry/poolkeeper:tag)
	@scripts/image $(if $(ARCH),--arch $(ARCH)) $(if $(NAME),--name $(NAME)) $(if $(PUSH),--push $(PUSH))

docs: ## writes the settings' table into the docs and the README from the types
	@scripts/generate docs

mutants: ## breaks the pool and the wire in small ways and sees whether a test notices (long; MUTANTS="-f src/pool/config.rs" for some)
	@scripts/mutants $(MUTANTS)

fuzz: ## feeds bytes of all kinds to whatever reads bytes, ten minutes each (FUZZ="startup scram" for some, SECONDS_EACH=60 for less)
	@scripts/fuzz $(FUZZ)

soak: ## for long: does anybody meet another's session, does anything fail or grow? (ISOLATION_OPERATIONS=500000 SOAK_MINUTES=60)
	@scripts/soak

isolation-mutations: ## switches each safety rule off in turn and sees whether that stress notices (long; writes docs/isolation.md)
	@scripts/isolation-mutations

setup: ## installs what the other targets need
	@scripts/setup

clean: ## removes what was built here (what is kept for all clones stays: see CONTRIBUTING.md)
	@rm -rf target
