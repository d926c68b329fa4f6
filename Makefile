# vipspeaker: every target that CI calls can be called by hand.
GOLANGCI_VERSION := v2.15.0
export CGO_ENABLED := 0
GO       ?= go
# The topologies wait most of their time, so they start first, beside the others.
PKG      ?= ./test/topologies ./...
# Kernel and topology tests share the machine's cores with real routers.
TESTFLAGS ?= -count=1
# What measures times has the machine to itself.
ALONE    := ./test/topologies ./pkg/bfd
LONG      = $(GO) test -tags long -run '^TestLong' -timeout=40m $(TESTFLAGS)

.PHONY: help build demo deps test test-long interop race bench bench-scale fuzz lint fmt image cover clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/vipspeaker, a static binary
	$(GO) build -trimpath -o bin/vipspeaker ./cmd/vipspeaker

demo: build ## show the main job in namespaces of its own, no router needed
	./bin/vipspeaker demo

deps: ## install the Debian packages that the tests talk to, if missing
	./test/install-deps

test: deps ## all tests that end within ten minutes (needs root for network namespaces)
	$(GO) test -shuffle=on -timeout=15m $(TESTFLAGS) $(PKG)

test-long: deps ## the longer tests: topologies, crash and fault runs, the image
	@$(LONG) -p 1 $(ALONE); alone=$$?; \
	$(LONG) $$($(GO) list ./... $(patsubst %,| grep -vx vipspeaker%,$(ALONE:.%=%))) && exit $$alone

interop: deps ## test with every routing software, and write docs/interoperability.md from the results
	$(GO) test -tags long -run '^TestLongInterop$$' -timeout=10m $(TESTFLAGS) ./test/topologies -update-interop

race: ## unit tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout=15m $(TESTFLAGS) ./pkg/...

bench: ## benchmarks but the one of scale; figures are ratios, not promises
	$(GO) test -run '^$$' -bench . -benchtime=1s -timeout=20m ./pkg/... ./test/bench

bench-scale: deps ## 10,000 VIPs over two sessions, beside BIRD that announces the same (needs root)
	$(GO) test -run '^$$' -bench '^BenchmarkScale$$' -benchtime=1x -timeout=20m ./test/topologies

fuzz: ## every fuzz target for FUZZTIME (default 20s)
	@for p in $$($(GO) list ./pkg/...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),20s) $$p || exit 1; \
	  done; done

lint: bin/golangci-lint-$(GOLANGCI_VERSION) ## static checks, among them the import walls
	bin/golangci-lint-$(GOLANGCI_VERSION) run ./...
	bin/golangci-lint-$(GOLANGCI_VERSION) run --build-tags long ./...

bin/golangci-lint-$(GOLANGCI_VERSION):
	mkdir -p bin
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv bin/golangci-lint $@

fmt: bin/golangci-lint-$(GOLANGCI_VERSION) ## format the code
	bin/golangci-lint-$(GOLANGCI_VERSION) fmt ./...

image: ## build the container image vipspeaker:latest
	docker build -t vipspeaker:latest .

cover: ## test coverage of the packages
	$(GO) test -coverprofile=coverage.out ./pkg/... && $(GO) tool cover -func=coverage.out | tail -1

clean: ## remove what was built
	rm -rf bin coverage.out
