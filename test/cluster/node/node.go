// Package node is what a node of the test cluster and the test outside it say to
// each other: what the node finds on its disk, and commands over HTTP.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Places on a node. Dir is on its disk, which is all that survives a reboot.
const (
	Dir      = "/var/node"
	ConfPath = Dir + "/node.json"
	Ready    = "/run/node/ready" // there once the kubelet was started
)

// Ports on which a node listens.
const (
	ExecPort    = 7000
	KubeletPort = 10250
	ProbePort   = 7001 // of pods that run test/cluster/probe
	AgentPort   = 9748 // of agents, for each other; deploy/base/daemonset.yaml
)

// APIProxy is where a node passes requests on to the API server.
const APIProxy = "127.0.0.1:8001"

// DialTimeout is how long a probe tries to connect.
const DialTimeout = 4 * time.Second

// Flood is what became of a stream of datagrams.
type Flood struct {
	Sent uint64 `json:"sent"`
	Lost uint64 `json:"lost"`
}

// Conf is what a node is told about itself.
type Conf struct {
	Name     string `json:"name"`
	Address  string `json:"address"` // with prefix length
	Gateway  string `json:"gateway"`
	API      string `json:"api"`     // where the API server is, address:port
	Service  string `json:"service"` // its cluster IP
	EthMAC   string `json:"ethMAC"`
	TrunkMAC string `json:"trunkMAC"`
	NoBPFFS  bool   `json:"noBPFFS"` // as on a node whose init mounts none
	// Agents are where those of other nodes are reached, by their own address:port.
	Agents map[string]string `json:"agents"`
}

// Command is to be run on a node.
type Command struct {
	Argv  []string `json:"argv"`
	Stdin string   `json:"stdin,omitempty"`
}

// Outcome is what became of it.
type Outcome struct {
	Out  string `json:"out"`  // both of its streams
	Code int    `json:"code"` // 127: it could not be started
}

// Run has the node that listens at host run a command. The error is that it could
// not be asked; what the command itself did is in the outcome.
func Run(ctx context.Context, host string, c Command) (o Outcome, err error) {
	b, err := json.Marshal(c)
	if err != nil {
		return o, err
	}
	return o, request(ctx, http.MethodPost, "http://"+host+"/run", bytes.NewReader(b), &o)
}

// Probe asks the probe in a pod of the node that listens at host.
func Probe(ctx context.Context, host, podIP, path string, answer any) error {
	return request(ctx, http.MethodGet, "http://"+host+"/pod/"+podIP+path, nil, answer)
}

func request(ctx context.Context, method, url string, body io.Reader, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
