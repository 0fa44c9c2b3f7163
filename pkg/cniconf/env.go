package cniconf

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// The verbs of CNI_COMMAND (CNI spec 1.1.0, section 2).
const (
	VerbAdd     = "ADD"
	VerbDel     = "DEL"
	VerbCheck   = "CHECK"
	VerbGC      = "GC"
	VerbStatus  = "STATUS"
	VerbVersion = "VERSION"
)

// Env is what the runtime says by environment variables.
type Env struct {
	Verb string
	attach.Key
	// Netns is the sandbox's path; "" if it is not given.
	Netns string
	// Args is CNI_ARGS as it came.
	Args string
	// AnyNetns allows the sandbox to be the plugin's own namespace
	// (CNI_NETNS_OVERRIDE).
	AnyNetns bool
}

// EnvError says what is wrong with the environment: CNI error code 4.
type EnvError struct {
	Message string
}

// Error implements error.
func (e *EnvError) Error() string { return e.Message }

// ParseEnv reads the environment and checks what the verb needs. ADD and CHECK
// need container id, interface name and namespace; DEL needs no namespace. Like
// the reference plugins it wants CNI_PATH of nobody, for it starts no other
// plugin. The error is an *EnvError.
func ParseEnv(getenv func(string) string) (Env, error) {
	e := Env{
		Verb:  getenv("CNI_COMMAND"),
		Key:   attach.Key{ContainerID: getenv("CNI_CONTAINERID"), IfName: getenv("CNI_IFNAME")},
		Netns: getenv("CNI_NETNS"),
		Args:  getenv("CNI_ARGS"),
	}
	override := strings.ToLower(getenv("CNI_NETNS_OVERRIDE"))
	e.AnyNetns = override == "true" || override == "1"
	switch e.Verb {
	case VerbVersion, VerbGC, VerbStatus:
		return e, nil
	case VerbAdd, VerbDel, VerbCheck:
	case "":
		return e, &EnvError{"CNI_COMMAND is not set; a container runtime sets it to ADD, DEL, CHECK, GC, STATUS or VERSION"}
	default:
		return e, &EnvError{fmt.Sprintf("CNI_COMMAND: %q is not known; use ADD, DEL, CHECK, GC, STATUS or VERSION", e.Verb)}
	}
	var missing []string
	for _, v := range []struct {
		name, value string
		need        bool
	}{
		{"CNI_CONTAINERID", e.ContainerID, true},
		{"CNI_IFNAME", e.IfName, true},
		{"CNI_NETNS", e.Netns, e.Verb != VerbDel},
	} {
		if v.need && v.value == "" {
			missing = append(missing, v.name)
		}
	}
	if len(missing) > 0 {
		return e, &EnvError{fmt.Sprintf("%s: not set; %s needs it of the container runtime", strings.Join(missing, ", "), e.Verb)}
	}
	if !validID(e.ContainerID) {
		return e, &EnvError{fmt.Sprintf("CNI_CONTAINERID: %q has invalid characters; use letters, digits, and then also . _ -", e.ContainerID)}
	}
	if !validIfName(e.IfName) {
		return e, &EnvError{fmt.Sprintf("CNI_IFNAME: %q is no interface name; use 1 to 15 characters without / : and space", e.IfName)}
	}
	return e, nil
}

// validID says whether s can be a container id or the name of a CNI network
// (CNI spec 1.1.0: a letter or digit, then those and . _ -). The library's own
// check would bring the regexp package into the binary.
func validID(s string) bool {
	for i, c := range []byte(s) {
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return s != ""
}

// validIfName says whether Linux takes s as an interface name (net/core/dev.c,
// dev_valid_name).
func validIfName(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) })
}

// podArgs reads CNI_ARGS ("K=V;K2=V2"). Keys that it does not know are the
// business of others.
func podArgs(args string) (pod attach.Pod, mac string, err error) {
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return pod, mac, &EnvError{fmt.Sprintf("CNI_ARGS: %q has no value; write KEY=VALUE pairs with ; between them", pair)}
		}
		switch k {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = v
		case "K8S_POD_NAME":
			pod.Name = v
		case "K8S_POD_UID":
			pod.UID = v
		case "MAC":
			mac = v
		}
	}
	return pod, mac, nil
}
