# Homeport. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CGO_ENABLED := 0
# What is tested and what ships is compiled alike, and so once; what go vet finds is of verify.
export GOFLAGS := -trimpath -vet=off

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TESTSUM := go run ./hack/testsum
MOVES ?= 8
# TestRights is of test-demo; the others take long, need no API server, and are of test-unit.
NOT_API := TestRights|TestOverlays|TestCommands|Test[A-Za-z]*PolicyTruth|TestCyclonus
FUZZTIME ?= 30s

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/cni-plugin, bin/bridge-agent, bin/homeportctl (static)
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/cni-plugin ./cmd/bridge-agent ./cmd/homeportctl

.PHONY: deps
deps: ## install what Debian has and the tests need: clang, QEMU, kernels
	hack/deps.sh

.PHONY: generate
generate: ## regenerate BPF objects, reasons and their docs (needs clang)
	go generate ./...

.PHONY: deploy
deploy: ## regenerate deploy/daemonset.yaml and the Helm chart's templates from deploy/base
	hack/deploy.sh

.PHONY: image-layout
image-layout: ## out/image/ARCH: the image's files as the Dockerfile has them, for amd64 and arm64, without Docker
	hack/image-layout.sh

.PHONY: verify
verify: ## generated files are current; vet, staticcheck, gofmt
	hack/verify.sh

.PHONY: test
test: deps ## everything below: unit, bpf, netns, pages in a browser, alerts, and both kernels in VMs
	rm -rf out/test
	@code=0; $(MAKE) test-unit || code=1; $(MAKE) test-bpf & bpf=$$!; \
	for t in test-netns test-browser test-monitoring test-vm; do $(MAKE) $$t || code=1; done; wait $$bpf || code=1; \
	$(TESTSUM) report || code=1; exit $$code

.PHONY: test-unit
test-unit: ## all other packages; what needs root or a kernel feature says why it skips
	HOMEPORT_CLUSTER=0 $(TESTSUM) run -name unit -- go test -json $$(go list ./... | grep -v -e pkg/datapath$$ -e test/netns$$ -e test/monitoring$$)
	$(TESTSUM) run -name bench -- go test -C test/bench -json ./...

.PHONY: test-bpf
test-bpf: ## port programs against the reference evaluator, natively (root)
	$(TESTSUM) run -name bpf -- go test -json -count=1 -timeout 20m ./pkg/datapath

.PHONY: test-netns
test-netns: ## the lab on this host's kernel, as far as it goes (root)
	$(TESTSUM) run -name netns -- go test -json -count=1 -timeout 20m ./test/netns

.PHONY: test-browser
test-browser: deps ## pages of HTML in a real browser (PHOTOS=DIR keeps pictures); nothing skips
	HOMEPORT_BROWSER=1 HOMEPORT_PHOTOS='$(PHOTOS)' $(TESTSUM) run -noskip -name browser -- go test -C test/browser -json -count=1 -timeout 10m ./...

.PHONY: test-monitoring
test-monitoring: deps ## alerts and dashboard, evaluated by promtool; nothing skips
	HOMEPORT_PROMTOOL=1 $(TESTSUM) run -noskip -name monitoring -- go test -json -count=1 ./test/monitoring

.PHONY: test-vm
test-vm: deps ## what needs a real kernel, on Debian's 6.1, 6.12 or both under QEMU, see hack/test-vm.tsv; nothing skips (HOMEPORT_VM_ALL=1: all on both)
	hack/test-vm.sh 6.1 6.12

.PHONY: cluster-bins
cluster-bins: ## etcd, kube-apiserver and whereabouts for test-api, from their Go modules, into a cache (some 10 minutes on 2 cores, once)
	hack/cluster-bins.sh etcd kube-apiserver whereabouts

.PHONY: test-api
test-api: cluster-bins ## API-level tests against a real kube-apiserver (CRDs, admission, informers)
	HOMEPORT_CLUSTER=1 $(TESTSUM) run -noskip -name api -- go test -json -count=1 -timeout 15m -skip '^($(NOT_API))$$' \
		./test/apiserver ./test/deploy ./pkg/api/... ./pkg/desired ./pkg/kube/...
	HOMEPORT_CLUSTER=1 $(TESTSUM) run -noskip -name api-ipam -- go test -json -count=1 -timeout 5m -run '^TestWhereabouts$$' ./cmd/cni-plugin
	HOMEPORT_CLUSTER=1 $(TESTSUM) run -noskip -name api-bench -- go test -C test/bench -json -count=1 -timeout 10m -run '^TestIdentity$$' .

.PHONY: test-scale
test-scale: cluster-bins ## the agent in a cluster of 1,000 nodes' worth of objects, to out/scale.json (root; 4 minutes on 2 cores)
	HOMEPORT_CLUSTER=1 $(TESTSUM) run -noskip -name scale -- go test -json -count=1 -v -timeout 20m ./test/scale

.PHONY: test-cluster
test-cluster: deps ## a whole cluster on loopback: three nodes in VMs, the DaemonSet, scenarios by traffic (SCENARIO=policy narrows)
	hack/cluster-bins.sh all
	HOMEPORT_CLUSTER_NODES='6.12 6.12 6.1' $(TESTSUM) run -noskip -name cluster -- go test -json -count=1 -timeout 40m -run '^TestCluster$$/($(SCENARIO))' ./test/cluster
	@[ ! -e out/cluster/figures.txt ] || cat out/cluster/figures.txt

.PHONY: test-demo
test-demo: deps build ## the demo, its three deliberate faults, and the demo on a kernel that runs it natively (5 minutes; .ci/run does it)
	@code=0; export HOMEPORT_VM=1; \
	$(TESTSUM) run -noskip -name demo -- go test -json -count=1 -timeout 40m ./test/demo & demo=$$!; \
	$(TESTSUM) run -noskip -name rights -- go test -json -count=1 -run '^TestRights$$' ./test/deploy || code=1; \
	$(TESTSUM) run -noskip -name vm -- go test -json -count=1 -timeout 40m ./test/vm || code=1; \
	wait $$demo || code=1; exit $$code

.PHONY: bench
bench: deps build cluster-bins ## ratios against the plain bridge and the reference plugin (BENCH='-rows packet' narrows)
	hack/bench.sh $(BENCH)

.PHONY: fuzz
fuzz: ## each fuzz test for FUZZTIME=30s: parsers, manifests against an oracle, frames against gopacket (root)
	@grep -rHo --include=*_test.go 'func Fuzz[A-Za-z0-9]*' pkg | sed 's|^\(.*\)/[^/]*:func \(.*\)|\1 \2|' | while read -r dir name; do \
		echo "$$name in ./$$dir"; go test "./$$dir" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; done

.PHONY: bench-migrate
bench-migrate: deps ## how long a VM is dark in a live migration, beside plain bridges, in one run (MOVES=8; 6.12)
	HOMEPORT_VM_TIMERS=fine HOMEPORT_VM_PKGS=test/netns HOMEPORT_VM_ARGS="-test.run=^TestMigrate/dark$$ -moves=$(MOVES)" hack/test-vm.sh 6.12

.PHONY: demo
demo: deps build ## two nodes, a trunk, a real VM with its VLAN, IP and firewall (WHERE=native|vm; BREAK=vlan|rule|mac must fail)
	hack/demo.sh

.PHONY: demo-cluster
demo-cluster: deps ## the same cluster as test-cluster's, kept up with two VMs, and commands to try; Ctrl-C ends it
	hack/demo-cluster.sh

.PHONY: clean
clean: ## remove bin/ and out/
	rm -rf bin out
