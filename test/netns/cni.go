package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// Call is one call of a CNI plugin or of a list of them, as a runtime makes it.
type Call struct {
	Verb        string
	ContainerID string
	Netns       string // "" is none
	IfName      string
	// Args become CNI_ARGS, after what a Kubernetes runtime says.
	Args []string
	// MAC is asked for in all the ways that Multus has.
	MAC string
	// Config is a network config or, if it has "plugins", a list of them.
	Config []byte
	// Prev is what ADD answered, for DEL and CHECK.
	Prev []byte
}

// CNIError is what a plugin answers when it fails.
type CNIError struct {
	Plugin  string `json:"-"`
	Raw     string `json:"-"`
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
}

func (e *CNIError) Error() string {
	return fmt.Sprintf("%s: CNI error %d: %s", e.Plugin, e.Code, e.Msg)
}

// CNI runs the call on the node and gives the last plugin's answer.
func (n *Node) CNI(ctx context.Context, c Call) ([]byte, error) {
	plugins, err := c.plugins()
	if err != nil {
		return nil, err
	}
	back := c.Verb == "DEL"
	if back {
		slices.Reverse(plugins)
	}
	answer := c.Prev
	for _, p := range plugins {
		cmd, err := n.CNICommand(ctx, c, p, answer)
		if err != nil {
			return nil, err
		}
		out, err := n.runPlugin(cmd)
		if err != nil {
			return out, err
		}
		if c.Verb == "ADD" || c.Verb == "VERSION" {
			answer = out
		}
	}
	if c.Verb != "ADD" && c.Verb != "VERSION" {
		return nil, nil
	}
	return answer, nil
}

// plugins splits a list into its configs, each with the list's name and version
// as libcni gives them.
func (c Call) plugins() ([]map[string]any, error) {
	var conf map[string]any
	if err := json.Unmarshal(c.Config, &conf); err != nil {
		// A broken config still goes to our plugin, as it is.
		return []map[string]any{{rawConfig: string(c.Config), "type": "homeport"}}, nil
	}
	list, ok := conf["plugins"].([]any)
	if !ok {
		return []map[string]any{conf}, nil
	}
	var out []map[string]any
	for _, e := range list {
		p, ok := e.(map[string]any)
		if !ok {
			return nil, errors.New("config: plugins: want objects")
		}
		p = maps.Clone(p)
		for _, k := range []string{"cniVersion", "name"} {
			if v, ok := conf[k]; ok {
				p[k] = v
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// rawConfig is the key under which a config travels that is no JSON.
const rawConfig = "\x00raw"

// CNICommand prepares one plugin's process.
func (n *Node) CNICommand(ctx context.Context, c Call, plugin map[string]any, prev []byte) (*exec.Cmd, error) {
	kind, _ := plugin["type"].(string)
	stdin, raw := plugin[rawConfig].(string)
	if !raw {
		plugin = maps.Clone(plugin)
		if len(prev) > 0 && wantsPrev(c.Verb, plugin) {
			plugin["prevResult"] = json.RawMessage(prev)
		}
		if caps, ok := plugin["capabilities"].(map[string]any); ok && c.MAC != "" && caps["mac"] == true {
			plugin["runtimeConfig"] = map[string]any{"mac": c.MAC}
		}
		b, err := json.Marshal(plugin)
		if err != nil {
			return nil, err
		}
		stdin = string(b)
	}
	args := append([]string{"IgnoreUnknown=1", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=" + c.pod(),
		"K8S_POD_INFRA_CONTAINER_ID=" + c.ContainerID, "K8S_POD_UID=11111111-2222-3333-4444-555555555555"}, c.Args...)
	if c.MAC != "" {
		args = append(args, "MAC="+c.MAC)
	}
	cmd := n.Command(ctx, n.path("cni", kind))
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+c.Verb, "CNI_PATH="+n.path("cni"))
	for k, v := range map[string]string{"CNI_CONTAINERID": c.ContainerID, "CNI_NETNS": c.Netns, "CNI_IFNAME": c.IfName,
		"CNI_ARGS": strings.Join(args, ";")} {
		if v != "" && c.Verb != "VERSION" && c.Verb != "STATUS" && c.Verb != "GC" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Stdin = strings.NewReader(stdin)
	return cmd, nil
}

// wantsPrev: ADD gives the answer of the plugin before; CHECK and DEL (which
// knows it since 0.4.0) that of the whole ADD.
func wantsPrev(verb string, plugin map[string]any) bool {
	version, _ := plugin["cniVersion"].(string)
	return verb == "ADD" || verb == "CHECK" || verb == "DEL" && version >= "0.4.0"
}

func (c Call) pod() string {
	if name, _, ok := strings.Cut(c.ContainerID, "."); ok {
		return "virt-launcher-" + name
	}
	return "virt-launcher"
}

// runPlugin runs a plugin and reads its answer or its error.
func (n *Node) runPlugin(cmd *exec.Cmd) ([]byte, error) {
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := n.Run(cmd)
	if err == nil {
		return out.Bytes(), nil
	}
	e := &CNIError{Plugin: cmd.Path, Raw: out.String()}
	if jerr := json.Unmarshal(out.Bytes(), e); jerr != nil || e.Code == 0 {
		return out.Bytes(), fmt.Errorf("%s: %w, and its answer is no CNI error: %q %s", cmd.Path, err, out.String(), diag.String())
	}
	return out.Bytes(), e
}
