package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// cniTarget is whom a cni command is about.
type cniTarget struct {
	node *Node
	pod  *Pod // nil for STATUS, GC and VERSION
	call Call
	// given says that the script named a config.
	given bool
	valid []string
}

const cniUsage = "cni add|del|check|gc|status|version NODE POD|- [CONFIG] [ifname=|network=|mac=|args=|netns=|id=|valid=]..."

func (s *session) cniTarget(args []string) (*cniTarget, error) {
	if len(args) < 3 {
		return nil, &usageError{cniUsage}
	}
	t := &cniTarget{call: Call{Verb: strings.ToUpper(args[0]), IfName: PodIfName(defaultNetwork), Config: []byte(`{"type": "homeport"}`)}}
	var err error
	if t.node, err = s.lab.FindNode(args[1]); err != nil {
		return nil, err
	}
	if args[2] != "-" {
		if t.pod, err = s.lab.FindPod(args[2]); err != nil {
			return nil, err
		}
		t.call.ContainerID, t.call.Netns = t.pod.ContainerID, t.pod.Path
	}
	for _, a := range args[3:] {
		key, v, ok := strings.Cut(a, "=")
		switch {
		case !ok:
			t.call.Config, t.given = []byte(s.ts.ReadFile(a)), true
		case key == "ifname":
			t.call.IfName = v
		case key == "network":
			t.call.IfName = PodIfName(v)
		case key == "mac":
			t.call.MAC = v
		case key == "args":
			t.call.Args = append(t.call.Args, v)
		case key == "netns":
			t.call.Netns = strings.TrimPrefix(v, "none")
		case key == "id":
			t.call.ContainerID = v
		case key == "valid":
			t.valid = strings.Split(v, ",")
		default:
			return nil, &usageError{cniUsage}
		}
	}
	return t, nil
}

// cmdCNI prints the plugin's answer, be it a result or an error.
func cmdCNI(s *session, out io.Writer, args []string) error {
	t, err := s.cniTarget(args)
	if err != nil {
		return err
	}
	switch t.call.Verb {
	case "ADD":
		c := t.call
		answer, err := t.node.CNI(s.ctx, c)
		_, _ = out.Write(answer) // a buffer
		if err == nil {
			t.pod.added[c.IfName] = attachment{call: c, answer: answer}
		}
		return err
	case "DEL", "CHECK":
		if err := t.recall(); err != nil {
			return err
		}
	case "GC":
		if t.call.Config, err = s.withValid(t); err != nil {
			return err
		}
	case "STATUS", "VERSION":
	default:
		return &usageError{cniUsage}
	}
	answer, err := t.node.CNI(s.ctx, t.call)
	_, _ = out.Write(answer) // a buffer
	return err
}

// recall completes a DEL or CHECK by what ADD was called with. A config that
// the script gives comes in its place, as when a runtime has lost it.
func (t *cniTarget) recall() error {
	last, err := t.pod.Last(t.call.Verb, t.call.IfName)
	t.call.Prev = last.Prev
	switch {
	case err == nil && !t.given:
		t.call.Config, t.call.Args, t.call.MAC = last.Config, last.Args, last.MAC
	case !t.given:
		return errors.Join(errNoConfig, err)
	}
	return nil
}

// withValid adds what a runtime tells GC: the attachments that are still valid.
func (s *session) withValid(t *cniTarget) ([]byte, error) {
	var conf map[string]any
	if err := json.Unmarshal(t.call.Config, &conf); err != nil {
		return nil, err
	}
	list := []map[string]string{}
	for _, name := range t.valid {
		p, err := s.lab.FindPod(name)
		if err != nil {
			return nil, err
		}
		list = append(list, map[string]string{"containerID": p.ContainerID, "ifname": PodIfName(defaultNetwork)})
	}
	conf["cni.dev/valid-attachments"] = list
	return json.Marshal(conf)
}

// manifests makes the node's manifests those of the script's folder of its name.
func (s *session) manifests(n *Node) error {
	from := s.ts.MkAbs(n.Name)
	have, err := os.ReadDir(n.Manifests())
	if err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, f := range files {
		keep[f.Name()] = true
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		aside := filepath.Join(n.Dir, "manifest.new")
		if err := os.WriteFile(aside, b, 0o644); err != nil {
			return err
		}
		if err := os.Rename(aside, filepath.Join(n.Manifests(), f.Name())); err != nil {
			return err
		}
	}
	for _, f := range have {
		if !keep[f.Name()] {
			if err := os.Remove(filepath.Join(n.Manifests(), f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// status is what homeportctl status says, in the fields that waiting needs.
type status struct {
	Ready      bool   `json:"ready"`
	Desired    uint64 `json:"desiredRevision"`
	Active     uint64 `json:"activeRevision"`
	Generation uint64 `json:"generation"`
}

func (s *session) status(n *Node) (status, error) {
	cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), "status", "-o", "json")
	var out strings.Builder
	cmd.Stdout = &out
	err := n.Run(cmd)
	var st status
	if jerr := json.Unmarshal([]byte(out.String()), &st); jerr != nil {
		return st, errors.Join(err, jerr)
	}
	return st, nil // its exit code tells readiness
}

// sync puts the script's manifests in place and waits until they are in force.
func (s *session) sync(n *Node) error {
	before, err := s.status(n)
	if err != nil {
		return err
	}
	if err := s.manifests(n); err != nil {
		return err
	}
	return until(s.ctx, patience, func() error {
		now, err := s.status(n)
		if err == nil && (now.Desired == before.Desired || now.Active != now.Desired) {
			err = fmt.Errorf("node %s: revision %d is desired, %d active; it was %d", n.Name, now.Desired, now.Active, before.Desired)
		}
		return err
	})
}
