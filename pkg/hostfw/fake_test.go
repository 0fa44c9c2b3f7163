package hostfw

import (
	"fmt"
	"os/exec"

	"github.com/homeport-cni/homeport/pkg/hostfw/hostfwtest"
)

// tools is a node's iptables by family and variant; what is not in it is not
// installed.
type tools map[string]*hostfwtest.Tool

func (t tools) open(f Family, v Variant) (Tool, error) {
	if tool := t[f.name(v)]; tool != nil {
		return tool, nil
	}
	return nil, fmt.Errorf("find %s: %w", f.name(v), exec.ErrNotFound)
}

// noNFT is a node without nft.
func noNFT(...string) (string, error) { return "", exec.ErrNotFound }

// emptyNFT is nft without any rule.
func emptyNFT(...string) (string, error) { return `{"nftables": [{"metainfo": {}}]}`, nil }
