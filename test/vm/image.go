package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// image collects what goes into an initramfs. Paths are absolute, in the VM;
// /bin, /sbin, /lib and /lib64 are links into /usr as in Debian, so both
// spellings name one file.
type image struct {
	entries map[string]imageEntry
}

type imageEntry struct {
	header cpioHeader
	data   []byte // a symlink's target, or a file's content unless from is set
	from   string // host path of a file's content
}

var mergedFolders = []string{"/bin", "/sbin", "/lib", "/lib64"}

func newImage() *image {
	im := &image{entries: map[string]imageEntry{}}
	for _, d := range mergedFolders {
		im.dir("/usr" + d)
		im.entries[d] = imageEntry{
			header: cpioHeader{Name: d[1:], Mode: cpioLink | 0o777, Size: int64(len("usr" + d))},
			data:   []byte("usr" + d),
		}
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/etc", "/root", "/out", "/var", "/mnt"} {
		im.dir(d)
	}
	im.entries["/dev/console"] = imageEntry{header: cpioHeader{Name: "dev/console", Mode: cpioChar | 0o600, Major: 5, Minor: 1}}
	return im
}

// merge puts a path below /usr where Debian has it there.
func merge(p string) string {
	p = path.Clean("/" + p)
	for _, d := range mergedFolders {
		if strings.HasPrefix(p, d+"/") {
			return "/usr" + p
		}
	}
	return p
}

func (im *image) add(p string, mode uint32, size int64, data []byte, from string) {
	p = merge(p)
	im.dir(path.Dir(p))
	im.entries[p] = imageEntry{header: cpioHeader{Name: p[1:], Mode: mode, Size: size}, data: data, from: from}
}

func (im *image) dir(p string) {
	p = merge(p)
	if _, ok := im.entries[p]; ok || p == "/" {
		return
	}
	im.dir(path.Dir(p))
	im.entries[p] = imageEntry{header: cpioHeader{Name: p[1:], Mode: cpioDir | 0o755}}
}

func (im *image) has(p string) bool { _, ok := im.entries[merge(p)]; return ok }

func (im *image) bytes(p string, mode uint32, data []byte) {
	im.add(p, cpioFile|mode, int64(len(data)), data, "")
}

func (im *image) symlink(p, target string) {
	im.add(p, cpioLink|0o777, int64(len(target)), []byte(target), "")
}

// file copies a host file, following links; permission bits are kept.
func (im *image) file(p, host string) error {
	st, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("file %s for the VM: %w", host, err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("file %s for the VM: not a regular file; give a folder with -dir", host)
	}
	im.add(p, cpioFile|uint32(st.Mode().Perm()), st.Size(), nil, host)
	return nil
}

// program copies a host file and, when it is a dynamic ELF file, the libraries
// and the loader that it needs, at their usual places.
func (im *image) program(p, host string) error {
	if err := im.file(p, host); err != nil {
		return err
	}
	libs, err := sharedLibraries(host)
	if err != nil {
		return err
	}
	for _, l := range libs {
		if im.has(l.guest) {
			continue
		}
		if err := im.file(l.guest, l.host); err != nil {
			return err
		}
	}
	return nil
}

// tree copies a host folder; programs in it bring no libraries.
func (im *image) tree(p, host string) error {
	return filepath.WalkDir(host, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("folder %s for the VM: %w", host, err)
		}
		rel, err := filepath.Rel(host, name)
		if err != nil {
			return fmt.Errorf("folder %s for the VM: %w", host, err)
		}
		to := path.Join(p, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			im.dir(to)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return fmt.Errorf("folder %s for the VM: %w", host, err)
			}
			im.symlink(to, target)
		case d.Type().IsRegular():
			return im.file(to, name)
		}
		return nil
	})
}

// writeFile writes the archive. It is not compressed: the kernel reads it from
// memory, and unpacking gzip under emulation costs more than copying.
func (im *image) writeFile(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("initramfs: %w", cerr)
		}
	}()
	buf := bufio.NewWriterSize(f, 1<<20)
	c := newCPIOWriter(buf)
	paths := make([]string, 0, len(im.entries))
	for p := range im.entries {
		paths = append(paths, p)
	}
	sort.Strings(paths) // parents come before what they hold
	for _, p := range paths {
		if err := im.entries[p].write(c); err != nil {
			return fmt.Errorf("initramfs %s: %w", p, err)
		}
	}
	if err := c.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return buf.Flush()
}

func (e imageEntry) write(c *cpioWriter) error {
	if err := c.WriteHeader(e.header); err != nil {
		return err
	}
	if e.from == "" {
		_, err := c.Write(e.data)
		return err
	}
	src, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer src.Close()
	_, err = io.CopyN(c, src, e.header.Size)
	return err
}
