package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pins are the paths below a BPF filesystem.
type pins struct{ bpffs string }

func (p pins) root() string { return filepath.Join(p.bpffs, "homeport", "v"+strconv.Itoa(ABIVersion)) }
func (p pins) maps() string { return filepath.Join(p.root(), "maps") }
func (p pins) of(name string) string {
	return filepath.Join(p.maps(), name)
}
func (p pins) books() string { return filepath.Join(p.root(), "books") }
func (p pins) book(n int) string {
	return filepath.Join(p.books(), strconv.Itoa(n))
}
func (p pins) prog(name string) string {
	return filepath.Join(p.root(), "progs", name)
}
func (p pins) links() string   { return filepath.Join(p.root(), "links") } // of ports
func (p pins) uplinks() string { return filepath.Join(p.root(), "uplinks") }
func (p pins) link(ifindex int, h Hook) string {
	dir := p.links()
	if h == inbound {
		dir = p.uplinks()
	}
	return filepath.Join(dir, strconv.Itoa(ifindex)+"-"+h.suffix())
}
func (p pins) slots() string { return filepath.Join(p.root(), "slots") }
func (p pins) slot(slot uint32, outer string) string {
	return filepath.Join(p.slots(), strconv.Itoa(int(slot))+"-"+outer)
}

// prepare makes the directories; it fails if bpffs is no BPF filesystem.
func (p pins) prepare() error {
	var st unix.Statfs_t
	if err := unix.Statfs(p.bpffs, &st); err != nil {
		return fmt.Errorf("BPF filesystem %s: %w; mount it: mount -t bpf bpf %s", p.bpffs, err, p.bpffs)
	}
	if uint32(st.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is no BPF filesystem; mount one: mount -t bpf bpf %s", p.bpffs, p.bpffs)
	}
	for _, dir := range []string{p.maps(), filepath.Join(p.root(), "progs"), p.links(), p.uplinks(), p.slots(), p.books()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	return nil
}

// pinned lists the numbers that pins in a directory begin with, each once: slots, or
// interfaces with a link.
func pinned(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	seen := map[int]bool{}
	var out []int
	for _, e := range entries {
		before, _, _ := strings.Cut(e.Name(), "-")
		number, err := strconv.Atoi(before)
		if err != nil || seen[number] {
			continue
		}
		seen[number] = true
		out = append(out, number)
	}
	return out, nil
}

// pinFresh ends the name of what is about to take a pin's place; the filesystem
// takes no dots.
const pinFresh = "-new"

// pinOver pins what at path in place of what was there, in one step.
func pinOver(what interface{ Pin(string) error }, path string) error {
	fresh := path + pinFresh
	if err := remove(fresh); err != nil {
		return err
	}
	if err := what.Pin(fresh); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// remove unpins; what is not there is no error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
