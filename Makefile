# `make` lists what there is. Go and make are all that it needs; the tools are
# built from hack/tools/go.mod and stay in Go's build cache.

# The image that `make deploy` runs, for example IMG=registry.example/chatrun-operator:v1.
IMG ?=
# What the image says that it is.
VERSION ?= dev
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
# The page that `make licences` writes.
LICENCES ?= docs/licences.md
# Flags for `go test`, for example TESTFLAGS='-run TestDecide -count=1'.
TESTFLAGS ?=
# How long `make fuzz` gives each fuzz test, which functions `make bench-code` measures,
# which scenarios `make bench` does (all), how often, and how long `make bench-soak` takes.
FUZZTIME ?= 10s
BENCH ?= .
ROWS ?=
REPETITIONS ?= 3
SOAK ?= 20m
# Further flags of the manager that `make run` starts.
RUNFLAGS ?=
# The kubectl that install, deploy and their kin use, with your own kubeconfig.
# Without one on the PATH it is the control plane's.
KUBECTL ?= $(shell command -v kubectl 2>/dev/null)

TOOL := go tool -modfile=hack/tools/go.mod
# The directory of etcd, kube-apiserver and kubectl. The first time on a machine
# this fetches or builds them.
WITH_ASSETS = KUBEBUILDER_ASSETS="$$(go run ./hack/assets)" && export KUBEBUILDER_ASSETS &&
WITH_CONTROLLER_MANAGER = TEST_ASSET_KUBE_CONTROLLER_MANAGER="$$(go run ./hack/assets controller-manager)" && export TEST_ASSET_KUBE_CONTROLLER_MANAGER &&
WITH_KUBECTL = kubectl="$(KUBECTL)"; if [ -z "$$kubectl" ]; then $(WITH_ASSETS) kubectl="$$KUBEBUILDER_ASSETS/kubectl"; fi &&

.DEFAULT_GOAL := help
.PHONY: help
help: ## Say what there is.
	@echo 'ChatRun operator. Usage: make TARGET'
	@awk '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { split($$0, part, /:.*## /); printf "  %-14s %s\n", part[1], part[2] }' Makefile

##@ See it work

.PHONY: demo dev
demo: ## Run a chat end to end on this machine, failures and retries included.
	@$(WITH_ASSETS) go build -trimpath -o bin/demo ./hack/demo && exec bin/demo

dev: ## The same, and stay up for your own kubectl until Ctrl-C.
	@$(WITH_ASSETS) go build -trimpath -o bin/demo ./hack/demo && exec bin/demo -stay

##@ Develop

.PHONY: build plugin plugin-archives run test test-oracle test-readers test-page test-load test-netns test-image bench-replicas fuzz bench bench-growth bench-plot bench-soak bench-profile bench-docs bench-code
build: ## Build the manager into bin/.
	go build -trimpath -o bin/manager ./cmd/manager

plugin: ## Build kubectl chatrun into bin/.
	cd cmd/kubectl-chatrun && CGO_ENABLED=0 go build -trimpath -ldflags='-X main.version=$(VERSION)' -o ../../bin/kubectl-chatrun .

# Where the archives of a release will be.
PLUGIN_URL ?= https://releases.example/chatrun/$(VERSION)
plugin-archives: ## Build it for all platforms, with krew's manifest, into bin/plugin. VERSION=v0.1.0 says which one it is.
	go run ./hack/plugin -version '$(VERSION)' -url '$(PLUGIN_URL)'

run: ## Run the manager against your kubeconfig (after: make install), as one more replica if there are any.
	@$(WITH_KUBECTL) "$$kubectl" get namespace chatrun-system >/dev/null 2>&1 || "$$kubectl" create namespace chatrun-system
	go run ./cmd/manager --stream-local $(RUNFLAGS)

test: ## Run all tests and say how many ran. TESTFLAGS=… goes to go test.
	@$(WITH_ASSETS) $(WITH_CONTROLLER_MANAGER) hack/test.sh $(TESTFLAGS)

test-oracle: ## Run only the comparison with the vendors' own libraries.
	@MODULES=test/oracle hack/test.sh $(TESTFLAGS)

test-readers: ## Read runs with curl, Node, Chromium and others; needs them, and nginx.
	@$(WITH_ASSETS) hack/readers.sh $(TESTFLAGS)

test-page: ## Use the web page in Chromium; needs it, and npm. TESTFLAGS=-update writes the pictures of docs/images.
	@$(WITH_ASSETS) hack/page.sh $(TESTFLAGS)

test-load: ## Hold thousands of readers, half of which never read, and print what they cost.
	go test -count=1 -v ./test/load
	@$(WITH_ASSETS) go test -count=1 -v ./test/e2e -ginkgo.no-color -ginkgo.focus 'do not storm|go to the namespace'
	go test -run='^$$' -bench=Idle -benchtime=1x ./test/load
	go test -run='^$$' -bench=Delivery -benchtime=3s ./internal/streamer

test-netns: ## Cut links of replicas to the API server or the provider; needs Linux, root, ip and unshare.
	@$(WITH_ASSETS) hack/netns.sh $(TESTFLAGS)

test-image: ## Run the image as the Deployment says; needs Linux on x86-64, root, ip and unshare.
	@$(WITH_ASSETS) hack/image.sh $(TESTFLAGS)

bench-replicas: ## Print what one, two and three replicas carry, and what a share of 20,000 runs costs.
	@$(WITH_ASSETS) CHATRUN_RUNS=1000 go test -count=1 -v -timeout=20m ./test/chaos -ginkgo.no-color -ginkgo.focus Throughput
	@$(WITH_ASSETS) SHARDS_RUNS=20000 go test -run='^$$' -bench=Shards -benchtime=1x -timeout=30m ./test/shards

fuzz: ## Run each fuzz test for FUZZTIME (10s).
	@hack/fuzz.sh $(FUZZTIME)

# The benchmarks are a program of a module of its own, whose name WITH_BENCH is.
WITH_BENCH = $(WITH_ASSETS) (cd test/bench && go build -o ../../bin/bench/bench .) && exec bin/bench/bench

bench: ## Measure what the manager costs, each figure beside its floor (some 15 minutes). ROWS=relay|idle for some.
	@$(WITH_BENCH) run -rows='$(ROWS)' -repetitions=$(REPETITIONS)

bench-growth: ## Measure how cost grows with the number of runs.
	@$(WITH_BENCH) grow

bench-plot: ## Draw that into docs/images.
	@$(WITH_BENCH) plot

bench-soak: ## Half the load with faults for SOAK (20m), after 12 minutes of it that do not count: what grows?
	@$(WITH_BENCH) soak -for=$(SOAK)

bench-profile: ## Keep profiles of the manager under the main load in bin/bench/profiles.
	@$(WITH_BENCH) run -rows='^relay$$' -repetitions=1 -profiles=bin/bench/profiles

bench-docs: ## Put the figures of bench, bench-growth and bench-soak into docs/performance.md.
	@$(WITH_BENCH) docs

bench-code: ## Run the benchmark functions that BENCH matches (all).
	@$(WITH_ASSETS) go test -run='^$$' -bench='$(BENCH)' -benchmem ./...

##@ Release

.PHONY: image image-push
image: ## Build bin/chatrun-operator.tar, an OCI image for amd64 and arm64, without Docker.
	@go run -C hack/image . build -root ../.. -out ../../bin/chatrun-operator.tar -version '$(VERSION)' -revision '$(REVISION)'

image-push: ## Push it to IMG=…, by the credentials of `docker login`.
	@test -n '$(IMG)' || { echo 'make image-push needs a name: make image-push IMG=registry.example/chatrun-operator:v1' >&2; exit 1; }
	@go run -C hack/image . push -from ../../bin/chatrun-operator.tar '$(IMG)'

##@ Before you commit

.PHONY: vulncheck licences
vulncheck: ## Look for known vulnerabilities in what is built. It reads Go's database, or that of GOVULNDB=file://…
	@go tool -modfile=hack/supplytools/go.mod govulncheck ./cmd/... && (cd hack/image && go tool -modfile=../supplytools/go.mod govulncheck .) && \
		cd cmd/kubectl-chatrun && go tool -modfile=../../hack/supplytools/go.mod govulncheck . || \
		{ echo 'vulncheck: something was found, or the database could not be read: see above' >&2; exit 1; }

licences: ## Write docs/licences.md: the modules in what is built, and their licences.
	@go run -C hack/licences . ../.. ./cmd/... -- ../../cmd/kubectl-chatrun . >$(LICENCES).new && mv $(LICENCES).new $(LICENCES)

.PHONY: generate manifests dist fmt lint verify
generate: ## Write the deep copies of api/, docs/failures.md, docs/reference.md, the TypeScript of api/stream, and the page.
	$(TOOL) controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...
	go run ./hack/failures >docs/failures.md
	@go tool -modfile=hack/doctools/go.mod crd-ref-docs --source-path=api/v1alpha1 --config=hack/doctools/config.yaml \
		--renderer=markdown --log-level=ERROR --output-path=docs/reference.md
	go run ./hack/events >web/src/events.ts
	$(TOOL) esbuild web/page/app.ts web/page/style.css web/page/index.html web/page/icon.svg --outdir=internal/page/assets \
		--bundle --format=esm --target=es2022 --charset=utf8 --loader:.html=copy --loader:.svg=copy --log-level=warning \
		--banner:js='// Code generated by esbuild from web/page. DO NOT EDIT.' --banner:css='/* Generated by esbuild from web/page. */'

manifests: ## Write the CRDs and the manager's role from api/ and the markers in the code.
	$(TOOL) controller-gen crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	$(TOOL) controller-gen rbac:roleName=manager-role paths='./internal/...;./cmd/...' output:rbac:artifacts:config=config/rbac

dist: ## Write dist/install.yaml and the chart's copies from config/.
	@$(WITH_ASSETS) hack/dist.sh

fmt: ## Format all Go code.
	@hack/lint.sh fmt

lint: ## Lint every module that has code.
	@hack/lint.sh run

verify: ## Check that generated code, format, lint and go.mod files are in order. Edits nothing.
	@hack/verify.sh

##@ Use a cluster (your kubeconfig's)

.PHONY: install uninstall deploy undeploy
install: ## Install the CRDs.
	@$(WITH_KUBECTL) "$$kubectl" apply --server-side -k config/crd

uninstall: ## Remove the CRDs, and with them every ChatRun and ChatProvider.
	@$(WITH_KUBECTL) "$$kubectl" delete --ignore-not-found -k config/crd

deploy: ## Install CRDs, roles and the manager; needs IMG=… that your cluster can pull.
	@test -n '$(IMG)' || { echo 'make deploy needs an image: make deploy IMG=registry.example/chatrun-operator:v1' >&2; exit 1; }
	@$(WITH_KUBECTL) "$$kubectl" kustomize config/default | sed 's|image: chatrun-operator:latest|image: $(IMG)|' | \
		"$$kubectl" apply --server-side -f -

undeploy: ## Remove what deploy installed but the CRDs: runs and providers stay (see uninstall).
	@$(WITH_KUBECTL) "$$kubectl" delete --ignore-not-found -f config/front-door/apiservice.yaml \
		-f config/front-door/authentication_reader.yaml -f config/namespaced/auth_delegator.yaml && \
		"$$kubectl" delete --ignore-not-found -k config/operator && \
		"$$kubectl" delete --ignore-not-found -k config/rbac/users

##@ Housekeeping

.PHONY: controlplane clean
controlplane: ## Print where etcd, kube-apiserver and kubectl are; get them if need be.
	@go run ./hack/assets

clean: ## Remove what was built in this clone. The control plane stays.
	rm -rf bin .demo web/build web/dist web/node_modules test/readers/node_modules test/page/node_modules
