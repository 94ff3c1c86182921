# make run    a terminal at http://127.0.0.1:3001, on a machine that has nothing installed yet
# make test   everything that is tested
# make help   the rest

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Where rustup puts cargo, for a login that is older than that installation.
export PATH := $(HOME)/.cargo/bin:$(PATH)
export CARGO_TARGET_DIR := $(CURDIR)/target
export DOCKER_HOST ?= unix:///var/run/docker.sock
# What `make agent` builds; the gateway and the tests look here.
export BELLJAR_AGENT ?= $(CURDIR)/target/belljar-agent

gateway := target/release/belljar
agent := target/belljar-agent
url = http://$${BELLJAR_LISTEN:-$${HOST:-127.0.0.1}:$${PORT:-3001}}

# Sets the machine up, then goes on as a login that may use the engine.
setup := deploy/setup.sh

step = @printf '\n== %s\n' '$(1)'

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: run serve
run: ## set up what is missing, build, check and serve on http://127.0.0.1:3001
	@$(setup) -- $(MAKE) sandbox-image serve
serve: build run-doctor
	@printf '\nBelljar is at %s — press Ctrl-C to stop\n\n' "$(url)"
	@exec $(gateway) serve

.PHONY: dev
dev: build ## serve plain processes instead of sandboxes: needs only Rust, isolates nothing
	@exec $(gateway) serve --launcher process

.PHONY: doctor
doctor: ## check this machine, with a sandbox that is looked at from inside
	@$(setup) -- $(MAKE) sandbox-image build run-doctor
.PHONY: run-doctor
run-doctor:
	@$(gateway) doctor

.PHONY: bench
bench: ## measure what is claimed, and write docs/benchmarks.md
	@$(setup) -- $(MAKE) sandbox-image build run-bench
.PHONY: run-bench
run-bench:
	@benches/ttyd.sh
	@# Reads of a terminal have no deadline of their own there.
	@cargo bench --bench terminal --no-run
	@timeout --verbose --kill-after=10 20m cargo bench --bench terminal -- --write
	@cargo bench --bench api -- --write

.PHONY: load
load: ## hold 5,000 idle sessions in one gateway, then 40 gVisor sandboxes at once; docs/benchmarks.md too
	@$(setup) -- $(MAKE) sandbox-image agent run-load
.PHONY: run-load
run-load:
	@cargo bench --bench load -- idle --write
	@cargo bench --bench load -- sandboxes --write

# --- building --------------------------------------------------------------------------------------

.PHONY: build agent
build: agent ## the gateway and the agent
	@cargo build --release

# Static, because it is PID 1 in images that may have no libc. The flag needs --target, or cargo
# would link build scripts and procedural macros with it too. A sandbox may be running the old file,
# so it is replaced, never written to; and only when it changed.
agent:
	@command -v cargo >/dev/null || { echo 'Rust is missing: run $(setup), or see https://rustup.rs'; exit 1; }
	@host=$$(rustc -vV | sed -n 's/^host: //p') \
	&& RUSTFLAGS="$$RUSTFLAGS -C target-feature=+crt-static" cargo build --release -p belljar-agent --target $$host \
	&& { cmp -s target/$$host/release/belljar-agent $(agent) \
		|| { cp target/$$host/release/belljar-agent $(agent).new && mv $(agent).new $(agent); }; }

.PHONY: image sandbox-image
image: ## the sandbox image, belljar-sandbox:latest
	@$(setup) -- $(MAKE) sandbox-image
sandbox-image:
	@docker/build.sh

.PHONY: web
web: web/node_modules/.package-lock.json ## the page, web/dist
	@cd web && npm run build

web/node_modules/.package-lock.json: web/package-lock.json
	@cd web && npm ci
	@touch $@

.PHONY: deb
deb: build ## a Debian package, target/belljar_VERSION_ARCHITECTURE.deb
	@deploy/deb.sh

.PHONY: clean
clean: ## remove what was built here (not the images)
	rm -rf target web/node_modules

# --- testing ---------------------------------------------------------------------------------------

.PHONY: test all-tests
test: ## everything: Rust, real gVisor sandboxes, the page, a browser
	@$(setup) --test -- $(MAKE) all-tests
all-tests: test-images test-rust autobahn conformance dialects test-web test-sdk test-scripts
	@printf '\nEverything passed: Rust, gVisor, WebSocket, API, dialects, page, browser, SDKs, scripts.\n'

.PHONY: fuzz
fuzz: ## look for bytes that break what reads them, with nightly Rust; FUZZ_SECONDS=60 for a short look
	@fuzz/run.sh

.PHONY: autobahn
autobahn: target/autobahn/installed ## the Autobahn cases against the gateway's WebSocket stack
	$(call step,the Autobahn cases)
	@cargo build --example echo
	@timeout --verbose --kill-after=10 6m target/autobahn/bin/python tests/autobahn/run.py target/debug/examples/echo

target/autobahn/installed: tests/autobahn/requirements.txt
	@python3 -m venv target/autobahn
	@target/autobahn/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: conformance dialects
conformance: agent target/api/schemathesis/installed ## the API against its own description, with random requests
	$(call step,the API as it is described)
	@cargo build
	@python3 tests/api/conformance.py \
		$(CARGO_TARGET_DIR)/debug/belljar $(agent) target/api/schemathesis/bin/schemathesis
dialects: agent target/api/opensandbox/installed target/api/kubebox/installed ## every call of the documents that Belljar stands for
	$(call step,the calls of other systems)
	@cargo build
	@timeout --verbose --kill-after=10 8m python3 tests/api/replay.py $(CARGO_TARGET_DIR)/debug/belljar $(agent) target/api

target/api/%/installed: tests/api/requirements-%.txt
	@python3 -m venv target/api/$*
	@target/api/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Types, style, tests and packages of both. The synchronous Python is made from the asynchronous, and committed.
.PHONY: sdk sdk-python sdk-typescript
sdk: sdk-python sdk-typescript ## the Python and TypeScript clients: check, test, package into target/sdk-packages
sdk-python: target/sdk-python/installed
	$(call step,the Python client: types and style)
	@cd sdk/python && $(sdkpython) tools/make_sync.py --check
	@cd sdk/python && $(sdkpython) -m ruff check && $(sdkpython) -m ruff format --check --quiet
	@cd sdk/python && $(sdkpython) -m mypy
	$(call step,the Python client: tests)
	@cd sdk/python && env -u BELLJAR_URL timeout --verbose --kill-after=10 5m $(sdkpython) -m pytest
	$(call step,the Python client: wheel and sdist)
	@mkdir -p target/sdk-packages
	@$(sdkpython) -m build --no-isolation --outdir target/sdk-packages sdk/python >target/sdk-packages/build.log 2>&1 \
		|| { cat target/sdk-packages/build.log; exit 1; }
	@$(sdkpython) -m zipfile -l target/sdk-packages/belljar-*.whl | grep -q py.typed
sdk-typescript: sdk/typescript/node_modules/.package-lock.json
	$(call step,the TypeScript client: types and style)
	@cd sdk/typescript && npm run check
	$(call step,the TypeScript client: tests)
	@cd sdk/typescript && env -u BELLJAR_URL timeout --verbose --kill-after=10 5m npm test
	$(call step,the TypeScript client: package)
	@mkdir -p target/sdk-packages
	@cd sdk/typescript && npm run package

sdkpython := $(CURDIR)/target/sdk-python/bin/python

target/sdk-python/installed: sdk/python/requirements-dev.txt
	@python3 -m venv target/sdk-python
	@target/sdk-python/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

sdk/typescript/node_modules/.package-lock.json: sdk/typescript/package-lock.json
	@cd sdk/typescript && npm ci
	@touch $@

.PHONY: test-sdk sdk-live run-sdk-live
test-sdk: sdk run-sdk-live
sdk-live: ## the clients, their examples and the READMEs against a real gateway
	@$(setup) --test -- $(MAKE) sandbox-image agent sdk run-sdk-live
run-sdk-live:
	$(call step,the clients against a live gateway)
	@cargo build
	@env -u BELLJAR_URL -u BELLJAR_API_KEY timeout --verbose --kill-after=10 10m node sdk/live.mjs

.PHONY: test-images test-rust test-web test-scripts
test-images:
	$(call step,images and runtimes)
	@docker/build.sh
	@docker/test-images.sh
	@deploy/test-runtime.sh

test-rust:
	$(call step,the agent)
	@$(MAKE) agent
	$(call step,cargo fmt)
	@cargo fmt --all --check
	$(call step,cargo clippy)
	@cargo clippy --workspace --all-targets -- -D warnings
	$(call step,cargo doc)
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	$(call step,cargo test with Docker and gVisor)
	@cargo test --workspace --no-run
	@# A test that hangs is named by cargo after a minute, and ended with the rest by this.
	@BELLJAR_TEST_DOCKER=1 BELLJAR_TEST_STORE=1 timeout --verbose --kill-after=10 25m cargo test --workspace

# 200 random faults; `make chaos rounds=50` does fewer.
.PHONY: chaos run-chaos
chaos: ## break gateways and sandboxes at random, and look for what is lost or left
	@$(setup) --test -- $(MAKE) test-images agent run-chaos
run-chaos: rounds ?= 200
run-chaos:
	@BELLJAR_TEST_DOCKER=1 BELLJAR_CHAOS_ENGINE=1 BELLJAR_CHAOS_ROUNDS=$(rounds) timeout --verbose --kill-after=10 60m \
		cargo test --test gateway -- --nocapture sealed::chaos

# The page is embedded into the gateway, so web/dist is committed, and must be what web/ builds.
test-web: web/node_modules/.package-lock.json
	$(call step,the page: types and style)
	@cd web && npm run check
	$(call step,the page: units)
	@cd web && npm test
	$(call step,the page: web/dist is what web/ builds)
	@cd web && npm run build
	@git diff --exit-code --stat -- web/dist && test -z "$$(git ls-files --others --exclude-standard -- web/dist)" \
		|| { echo 'web/dist is out of date: commit what `make web` builds'; exit 1; }
	$(call step,the page: what the element weighs)
	@cd web && npm run size
	$(call step,the page: the package for npm)
	@cd web && npm run package && npm run test-package
	$(call step,a browser types into a gVisor shell through Caddy by HTTPS)
	@cargo build
	@if command -v caddy >/dev/null; then suite=e2e:caddy; else suite=e2e && echo 'caddy is not installed: without it'; fi; \
	cd web && BELLJAR_BIN=$(CARGO_TARGET_DIR)/debug/belljar timeout --verbose --kill-after=10 25m npm run $$suite

test-scripts: test-scaling test-tofu test-manifests
	$(call step,scripts)
	@if command -v shellcheck >/dev/null; then \
		shellcheck benches/*.sh deploy/*.sh deploy/deb/p* docker/*.sh fuzz/*.sh .ci/run deploy/kubernetes/*.sh \
		&& shellcheck --external-sources --source-path=SCRIPTDIR deploy/dev-cluster/{up,down,status,images,enter,fault,*.sh} && shellcheck --shell=bash --exclude=SC1090,SC1091 docker/rootfs/etc/{profile,bash.bashrc}; \
	else echo 'shellcheck is not installed: skipped'; fi
	@if command -v caddy >/dev/null; then caddy validate --config Caddyfile --adapter caddyfile >/dev/null 2>&1 || { echo 'Caddyfile is not valid'; exit 1; }; \
	else echo 'caddy is not installed: skipped'; fi
	@if docker compose version >/dev/null 2>&1; then compose='docker compose'; else compose=docker-compose; fi; \
	if command -v $${compose%% *} >/dev/null; then BELLJAR_SITE=localhost $$compose --file deploy/compose/compose.yaml config --quiet && $$compose --file deploy/compose/k3s.yaml config --quiet; \
	else echo 'docker compose is not installed: skipped'; fi
	@if command -v systemd-analyze >/dev/null; then systemd-analyze security --offline=true --threshold=15 systemd/belljar.service | tail -n 1; \
	else echo 'systemd-analyze is not installed: skipped'; fi
	@if command -v promtool >/dev/null; then promtool test rules deploy/prometheus/belljar.rules.test.yml; \
	else echo 'promtool is not installed: skipped'; fi

# Not a part of `test`: it takes 5 to 10 minutes, most of it Debian's packages. Continuous integration runs it, too.
.PHONY: test-systemd
test-systemd: build ## boot a bare Debian, install as documented, upgrade in mid-session, purge
	$(call step,from a bare Debian to a terminal by HTTPS)
	@timeout --verbose --kill-after=60 25m deploy/test-systemd.sh

# Nor this: it needs `docker compose` or `docker-compose`, which nothing else here does.
.PHONY: test-compose
test-compose: build ## start deploy/compose on loopback: the page by HTTPS, a shell in gVisor, an upgrade in mid-session
	$(call step,deploy/compose)
	@timeout --verbose --kill-after=60 10m deploy/test-compose.sh

# --- Kubernetes ------------------------------------------------------------------------------------

dev_cluster := deploy/dev-cluster

# Not a part of `test` either: the first time it compiles Kubernetes. The cluster is gone at the end, unless `keep=1`.
.PHONY: test-kubernetes run-test-kubernetes test-kubernetes-if-cached
test-kubernetes: ## gateways on a real Kubernetes of one node with gVisor pods, made of Debian's packages; needs root
	@$(setup) -- $(MAKE) test-images kubernetes-images run-test-kubernetes
run-test-kubernetes:
	$(call step,a Kubernetes of one node)
	@cargo test --test gateway --no-run
	@cargo test --quiet --test gateway -- --list ::cluster:: | grep -q ': test$$' || { echo 'there are no tests named ::cluster::'; exit 1; }
	@[[ "$(keep)" ]] || trap '$(dev_cluster)/down' EXIT; \
	$(dev_cluster)/up && env -u KUBECONFIG deploy/kubernetes/validate.sh \
	&& printf '\n== %s\n' 'sessions on Kubernetes' \
	&& BELLJAR_TEST_KUBERNETES=1 KUBECONFIG=$$($(dev_cluster)/enter printenv KUBECONFIG) \
		timeout --verbose --kill-after=10 40m cargo test --test gateway -- kubernetes:: ::cluster:: \
	&& printf '\n== %s\n' 'the objects of deploy/kubernetes, as they stand' \
	&& deploy/kubernetes/try.sh --faults

# For continuous integration, where the minutes that it takes to compile Kubernetes are not to be spent each time.
test-kubernetes-if-cached:
	@if $(dev_cluster)/build.sh --cached; then $(MAKE) test-kubernetes; else \
		printf '%s\n' '' \
			'########################################################################' \
			'##  SKIPPED: the tests on Kubernetes have NOT been run.                ##' \
			'##  There is no build of Kubernetes in the cache of this machine.      ##' \
			'##  `make test-kubernetes` makes one, in 8 minutes or so, and keeps it. ##' \
			'########################################################################' '' >&2; fi

.PHONY: bench-kubernetes run-bench-kubernetes
bench-kubernetes: ## terminals of pods beside a raw attach, and starts from the pool: docs/kubernetes.md
	@$(setup) -- $(MAKE) sandbox-image build run-bench-kubernetes
run-bench-kubernetes:
	@cargo bench --bench kubernetes --no-run
	@[[ "$(keep)" ]] || trap '$(dev_cluster)/down' EXIT; \
	$(dev_cluster)/up && KUBECONFIG=$$($(dev_cluster)/enter printenv KUBECONFIG) \
		timeout --verbose --kill-after=10 15m cargo bench --bench kubernetes

# The gateway's and the agent's image, as a registry of yours is to have them: docs/kubernetes.md.
.PHONY: kubernetes-images
kubernetes-images: build sandbox-image ## the images of the gateway, the agent and the sandbox, for Kubernetes
	@deploy/kubernetes/images.sh

.PHONY: scaling test-scaling test-tofu test-manifests
scaling: ## what 1,000 to 1,000,000 sessions a day take, and cost: docs/scaling.md
	@python3 benches/scaling/scaling.py
test-scaling:
	$(call step,the formulas that scaling is planned with)
	@cd benches/scaling && timeout --verbose --kill-after=10 3m python3 -m unittest
test-tofu: target/tofu/installed
	$(call step,the OpenTofu module is parsed)
	@timeout --verbose --kill-after=10 2m target/tofu/bin/python deploy/tofu/test_module.py

test-manifests:
	$(call step,the objects of deploy/kubernetes against schemas; make test-kubernetes puts them before a server)
	@timeout --verbose --kill-after=10 5m deploy/kubernetes/validate.sh --schemas

target/tofu/installed: deploy/tofu/requirements.txt
	@python3 -m venv target/tofu
	@target/tofu/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@
