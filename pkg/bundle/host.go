package bundle

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// hostFacts are small files that tell what a node is. The kernel's command line is
// not among them: installers put tokens there.
var hostFacts = []string{
	"etc/os-release",
	"proc/version",
	"proc/uptime",
	"proc/loadavg",
	"proc/meminfo",
	"proc/modules",
	"proc/self/status", // capabilities of who collects
	"proc/sys/kernel/osrelease",
	"proc/sys/kernel/random/boot_id",
	"proc/sys/kernel/unprivileged_bpf_disabled",
	"proc/sys/net/core/bpf_jit_enable",
	"proc/sys/net/bridge/bridge-nf-call-iptables",
	"proc/sys/net/bridge/bridge-nf-call-ip6tables",
	"proc/sys/net/bridge/bridge-nf-call-arptables",
	"sys/kernel/security/lsm",
	"sys/kernel/security/lockdown",
	"sys/devices/system/cpu/online",
}

// factMax bounds one fact, in bytes.
const factMax = 64 << 10

// Host adds host.txt: the facts of the node whose root is fsys.
func (w *Writer) Host(fsys fs.FS) {
	var b strings.Builder
	for _, name := range hostFacts {
		fmt.Fprintf(&b, "== /%s\n", name)
		f, err := fsys.Open(name)
		if err != nil {
			fmt.Fprintf(&b, "(%v)\n", err)
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, factMax))
		f.Close()
		b.Write(text)
		if err != nil {
			fmt.Fprintf(&b, "(%v)\n", err)
		}
		b.WriteString("\n")
	}
	w.Add("host.txt", []byte(b.String()))
}

// summedMax is up to what size, in bytes, programs get a sum: the plugin does, which
// somebody else may have replaced.
const summedMax = 8 << 20

// Binaries adds binaries.txt: size, sum and build of each program that is there.
func (w *Writer) Binaries(files []string) {
	var b strings.Builder
	for _, file := range files {
		fmt.Fprintf(&b, "== %s\n", file)
		if err := describeBinary(&b, file); err != nil {
			fmt.Fprintf(&b, "(%v)\n", err)
		}
		b.WriteString("\n")
	}
	w.Add("binaries.txt", []byte(b.String()))
}

func describeBinary(b *strings.Builder, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "size\t%d\n", st.Size())
	if st.Size() <= summedMax {
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
		fmt.Fprintf(b, "sha256\t%x\n", sum.Sum(nil))
	}
	info, err := buildinfo.Read(f)
	if err != nil {
		return err
	}
	b.WriteString(info.String())
	return nil
}

// CNI adds what the directory of CNI configs says of Homeport: the names of all
// files, and the contents of those that call the plugin. Others' are not read out:
// they hold credentials.
func (w *Writer) CNI(fsys fs.FS, dir string) {
	w.Try("cni/listing.txt", func() ([]byte, error) { return names(fsys, ".") })
	entries, _ := fs.ReadDir(fsys, ".") // told above
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		name := path.Join("cni", e.Name())
		f, err := fsys.Open(e.Name())
		if err != nil {
			w.Missing(name, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, factMax))
		f.Close()
		if err != nil {
			w.Missing(name, fmt.Errorf("%s: %w", dir, err))
		} else if callsHomeport(text) {
			w.Add(name, text)
		}
	}
}

// callsHomeport says whether a CNI config, or one of the plugins of a list, is of
// our type.
func callsHomeport(config []byte) bool {
	var c struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if json.Unmarshal(config, &c) != nil {
		return false
	}
	for _, p := range c.Plugins {
		if p.Type == "homeport" {
			return true
		}
	}
	return c.Type == "homeport"
}
