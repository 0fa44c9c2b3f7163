#!/usr/bin/env bash
# verify.sh: what is generated is current, and the code is tidy. Regenerates in
# place and fails when that changes a file.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD

# Compared before and after, so that it also works in a tree with changes. A link to
# a directory has no sum.
state() { git ls-files -co --exclude-standard -z | { xargs -0 sha256sum 2>/dev/null || true; } | sort -k2; }

# The product, and what needs other dependencies. hack/tools and test/cluster/tools
# only pin versions of programs: they have no code.
modules=(. test/bench test/deploy/tools test/cyclonus test/browser)

before=$(state)
go generate ./...
for module in "${modules[@]}"; do
	(cd "$module" && go mod tidy)
done
if ! diff <(echo "$before") <(state) >/dev/null; then
	echo "verify: 'make generate' or 'go mod tidy' changes these; run them and commit:" >&2
	diff <(echo "$before") <(state) | awk '/^>/{print "  " $3}' >&2
	exit 1
fi
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
	printf 'verify: not formatted (gofmt -w):\n%s\n' "$unformatted" >&2
	exit 1
fi
mkdir -p out
go build -o out/staticcheck honnef.co/go/tools/cmd/staticcheck
for module in "${modules[@]}"; do
	(cd "$module" && go vet ./... && "$top/out/staticcheck" ./...)
done
echo "verify: generated files are current; vet, staticcheck and gofmt are clean"
