// Package deploy holds deploy/ and the Dockerfile to what they promise: on a real
// API server where that can tell, else by reading.
package deploy

//go:generate ../../hack/deploy.sh
