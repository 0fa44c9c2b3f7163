package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/cniconf"
	"github.com/homeport-cni/homeport/pkg/store"
)

// Error codes of the CNI spec 1.1.0 that the library has no names for, and our
// own, which begin at 100.
const (
	codeUnavailable = 50  // STATUS: no ADD now
	codeLimited     = 51  // STATUS: no ADD now, and ports that are there suffer
	codeNotAsItWas  = 100 // CHECK: the port is not as ADD made it
)

// ioError is trouble with a file or a pipe: code 5.
type ioError struct {
	op  string
	err error
}

func (e *ioError) Error() string { return e.op + ": " + e.err.Error() }
func (e *ioError) Unwrap() error { return e.err }

// versionError is a CNI version that does not fit: code 1.
type versionError struct{ message string }

func (e *versionError) Error() string { return e.message }

// netnsError is a sandbox that is gone or cannot be one: code 8.
type netnsError struct{ message string }

func (e *netnsError) Error() string { return e.message }

// checkError is what CHECK found: code 100.
type checkError struct{ problems []string }

func (e *checkError) Error() string {
	return "the port is not as ADD made it: " + strings.Join(e.problems, "; ")
}

// tryAgain is what a later call may well get done: code 11.
type tryAgain struct{ err error }

func (e *tryAgain) Error() string { return e.err.Error() }
func (e *tryAgain) Unwrap() error { return e.err }

// errorResult is the JSON of an error (CNI spec, section 5, "Error").
type errorResult struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	types.Error
}

func cniError(err error, r *request) errorResult {
	// Joined errors come one a line; runtimes log one line.
	msg := strings.ReplaceAll(err.Error(), "\n", ". ")
	e := errorResult{CNIVersion: r.cniVersion, Error: types.Error{Code: code(err, r.Verb), Msg: msg}}
	if r.ContainerID != "" {
		e.Details = fmt.Sprintf("homeport %s, container %s, interface %s", r.Verb, r.ContainerID, r.IfName)
	}
	return e
}

// code gives the CNI error code of an error. STATUS has codes of its own.
func code(err error, verb string) uint {
	var (
		env     *cniconf.EnvError
		decode  *cniconf.DecodeError
		io      *ioError
		dir     *store.DirError
		ver     *versionError
		netns   *netnsError
		checked *checkError
		again   *tryAgain
		refusal *attach.Error
		ipam    *ipamError
	)
	switch {
	case errors.As(err, &ver):
		return types.ErrIncompatibleCNIVersion
	case errors.As(err, &env):
		return types.ErrInvalidEnvironmentVariables
	case errors.As(err, &decode):
		return types.ErrDecodingFailure
	case errors.As(err, &netns):
		return types.ErrInvalidNetNS
	case errors.As(err, &checked):
		return codeNotAsItWas
	case errors.As(err, &ipam):
		return ipam.code()
	case errors.As(err, &again):
		return types.ErrTryAgainLater
	case errors.As(err, &refusal):
		return refusalCode(refusal.Kind, verb)
	case errors.As(err, &io), errors.As(err, &dir):
		return types.ErrIOFailure
	}
	return types.ErrInternal
}

func refusalCode(kind attach.ErrorKind, verb string) uint {
	switch {
	case kind == attach.InvalidConfig, kind == attach.Conflict:
		return types.ErrInvalidNetworkConfig
	case verb == cniconf.VerbStatus && kind == attach.Limited:
		return codeLimited
	case verb == cniconf.VerbStatus:
		return codeUnavailable
	case kind == attach.Internal:
		return types.ErrInternal
	}
	return types.ErrTryAgainLater
}
