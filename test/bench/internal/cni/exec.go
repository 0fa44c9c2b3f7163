// Package cni measures what a CNI runtime waits for: ADD and DEL of our plugin,
// with its agent running, against the reference bridge plugin.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Plugin is a CNI plugin and the config that it is called with.
type Plugin struct {
	Name   string
	Binary string
	Conf   string
}

// Attachment is one container's NIC. Args are those of the container, as "K8S_POD_NAME=web;...".
type Attachment struct{ ID, Netns, IfName, Args string }

// callTimeout is far above what any call takes, even in emulation.
const callTimeout = 60 * time.Second

// environ is what a runtime sets (CNI spec, section 2, "Parameters").
func (p Plugin) environ(verb string, a Attachment) []string {
	return append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+a.ID, "CNI_NETNS="+a.Netns,
		"CNI_IFNAME="+a.IfName, "CNI_ARGS="+a.Args, "CNI_PATH="+filepath.Dir(p.Binary))
}

// Done is what one call took and gave.
type Done struct {
	Elapsed time.Duration // from exec to exit
	CPU     time.Duration // of the plugin and of what it ran, user and system
	Out     []byte
}

// Call executes the plugin as libcni does.
func (p Plugin) Call(ctx context.Context, verb string, a Attachment) (Done, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, p.Binary)
	cmd.Env = p.environ(verb, a)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewBufferString(p.Conf), &out, &errOut
	start := time.Now()
	err := cmd.Run()
	elapsed := time.Since(start)
	if err != nil {
		return Done{}, fmt.Errorf("%s %s: %w: %s%s", p.Name, verb, err, out.Bytes(), errOut.Bytes())
	}
	return Done{elapsed, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), out.Bytes()}, nil
}

// result is what a measurement reads of an ADD's answer.
type result struct {
	Interfaces []struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
}

// hostEnd finds the host end that an ADD's result names: an interface outside
// of the sandbox that is not the bridge.
func hostEnd(answer []byte, bridge string) (string, error) {
	var r result
	if err := json.Unmarshal(answer, &r); err != nil {
		return "", fmt.Errorf("result of ADD: %w", err)
	}
	for _, i := range r.Interfaces {
		if i.Sandbox == "" && i.Name != bridge {
			return i.Name, nil
		}
	}
	return "", fmt.Errorf("result of ADD names no host end: %s", answer)
}
