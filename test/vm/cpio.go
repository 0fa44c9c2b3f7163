package vm

import (
	"fmt"
	"io"
	"strings"
)

// cpio file types, the upper bits of a newc mode (cpio(5), inode(7)).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
	cpioChar = 0o020000
)

// cpioHeader is one entry of a newc archive.
type cpioHeader struct {
	Name         string // without leading slash
	Mode         uint32 // type and permission bits
	Size         int64  // bytes that follow; for a symlink the length of its target
	Major, Minor uint32 // of a device node
}

// cpioWriter writes the "newc" format that the kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst). Sizes and
// offsets are aligned to 4 bytes; every entry gets an inode number of its own.
type cpioWriter struct {
	w    io.Writer
	ino  uint32
	left int64 // bytes of the current entry not yet written
	pad  int   // bytes of padding owed after it
	err  error
}

func newCPIOWriter(w io.Writer) *cpioWriter { return &cpioWriter{w: w} }

// WriteHeader starts an entry. It is an error to do so before the last entry
// has got all of its bytes.
func (c *cpioWriter) WriteHeader(h cpioHeader) error {
	if err := c.finish(); err != nil {
		return err
	}
	if h.Size < 0 || h.Size > 0xffffffff {
		return fmt.Errorf("cpio %s: size %d does not fit the newc format (at most 4 GiB)", h.Name, h.Size)
	}
	c.ino++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, h.Mode, 0, 0, 1, 0, h.Size, 0, 0, h.Major, h.Minor, len(h.Name)+1, 0)
	head += h.Name + "\x00"
	head += strings.Repeat("\x00", align4(int64(len(head))))
	c.left, c.pad = h.Size, align4(h.Size)
	return c.write([]byte(head))
}

// Write adds bytes to the current entry.
func (c *cpioWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, fmt.Errorf("cpio: %d bytes more than the entry's header says", int64(len(p))-c.left)
	}
	if err := c.write(p); err != nil {
		return 0, err
	}
	c.left -= int64(len(p))
	return len(p), nil
}

// Close ends the archive; it does not close the underlying writer.
func (c *cpioWriter) Close() error {
	if err := c.WriteHeader(cpioHeader{Name: "TRAILER!!!"}); err != nil {
		return err
	}
	return c.finish()
}

func (c *cpioWriter) finish() error {
	if c.left > 0 {
		return fmt.Errorf("cpio: entry is short by %d bytes", c.left)
	}
	pad := c.pad
	c.pad = 0
	return c.write(make([]byte, pad))
}

func (c *cpioWriter) write(p []byte) error {
	if c.err == nil && len(p) > 0 {
		_, c.err = c.w.Write(p)
	}
	return c.err
}

// align4 gives the padding after n bytes.
func align4(n int64) int { return int((4 - n%4) % 4) }
