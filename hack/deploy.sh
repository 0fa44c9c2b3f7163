#!/usr/bin/env bash
# deploy.sh writes what follows from deploy/base: deploy/daemonset.yaml, which is all
# of it in one file, and the templates of the Helm chart.
set -euo pipefail
cd "$(dirname "$0")/.."

kustomize() { go run -C test/deploy/tools sigs.k8s.io/kustomize/kustomize/v5 "$@"; }

# put FILE replaces it in one step by what comes in.
put() { mkdir -p "$(dirname "$1")" && cat >"$1.new" && mv "$1.new" "$1"; }

{
	echo '# Homeport with its CRDs, for most clusters: kubectl apply -f daemonset.yaml (see'
	echo '# docs/install.md). Made by `make deploy` from deploy/base, which has the reason of'
	echo '# every right and path in comments.'
	kustomize build "$PWD/deploy/base"
} | put deploy/daemonset.yaml

# The chart is the base with values in place of what differs between clusters.
template() {
	echo '{{- /* Made by `make deploy` from deploy/base. */ -}}'
	sed -e 's/\(namespace: \)homeport-system/\1{{ .Release.Namespace }}/' \
		-e 's/\(serviceaccount:\)homeport-system:/\1{{ .Release.Namespace }}:/' \
		-e 's|image: ghcr.io/homeport-cni/homeport$|image: "{{ .Values.image.repository }}:{{ .Values.image.tag \| default .Chart.AppVersion }}"|' \
		-e 's|path: /opt/cni/bin,|path: {{ .Values.cniBinDir }},|' \
		-e 's/maxUnavailable: 1$/maxUnavailable: {{ .Values.maxUnavailable }}/' \
		-e 's/\(requests: \){cpu: 50m, memory: 128Mi}/\1{{ toJson .Values.agent.requests }}/' \
		-e 's/\(requests: \){cpu: 20m, memory: 64Mi}/\1{{ toJson .Values.controller.requests }}/' \
		"$1"
}
chart=deploy/charts/homeport/templates
for name in rbac admission daemonset controller; do
	template "deploy/base/$name.yaml" | put "$chart/$name.yaml"
done
{
	echo '{{- if .Values.openshift }}'
	template deploy/overlays/openshift/scc.yaml
	echo '{{- end }}'
} | put "$chart/scc.yaml"
