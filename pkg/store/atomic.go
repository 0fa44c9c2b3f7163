package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// DirError says that a state directory could not be used, why, and what to do.
type DirError struct {
	Dir string
	// Op is what was tried, as in "write attachment record".
	Op  string
	Err error
}

func dirError(dir, op string, err error) error {
	// The path is said once, by us.
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	return &DirError{Dir: dir, Op: op, Err: err}
}

// Error implements error: directory, cause, remedy.
func (e *DirError) Error() string {
	return fmt.Sprintf("state directory %s: %s: %v; %s", e.Dir, e.Op, e.Err, e.Remedy())
}

// Unwrap gives the cause.
func (e *DirError) Unwrap() error { return e.Err }

// Remedy says what to do next.
func (e *DirError) Remedy() string {
	switch {
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EDQUOT):
		return "free space or inodes on its file system (df -h, df -i)"
	case errors.Is(e.Err, syscall.EROFS):
		return "remount its file system read-write"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root and make the directory writable for root"
	case errors.Is(e.Err, syscall.ENOTDIR):
		return "remove the file that stands where the directory should be"
	}
	return "check the directory and its file system"
}

// AttachError is e as an answer to the CNI plugin: another try may find the
// directory repaired.
func (e *DirError) AttachError() *attach.Error {
	return &attach.Error{
		Kind:    attach.TryAgain,
		Message: fmt.Sprintf("state directory %s: %s: %v", e.Dir, e.Op, e.Err),
		Remedy:  e.Remedy(),
	}
}

// WriteFileAtomic puts parts, one behind the other, in path by way of a temporary file in the same
// directory: written, synced, renamed, and the directory synced. Readers see
// the old content or the new one. The directory is made (mode 0700) if it is
// missing. Errors are *DirError.
func WriteFileAtomic(path string, perm fs.FileMode, parts ...[]byte) (err error) {
	dir, base := filepath.Split(path)
	dir = filepath.Clean(dir)
	op := "write " + base
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return dirError(dir, op, err)
		}
		f, err = os.CreateTemp(dir, tempPrefix+"*")
	}
	if err != nil {
		return dirError(dir, op, err)
	}
	defer func() {
		if err != nil {
			// The first error is the one to tell; the file may be gone.
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	for _, part := range parts {
		if _, err := f.Write(part); err != nil {
			return dirError(dir, op, err)
		}
	}
	if err := f.Chmod(perm); err != nil {
		return dirError(dir, op, err)
	}
	if err := f.Sync(); err != nil {
		return dirError(dir, op, err)
	}
	if err := f.Close(); err != nil {
		return dirError(dir, op, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return dirError(dir, op, err)
	}
	return syncDir(dir, op)
}

func syncDir(dir, op string) error {
	d, err := os.Open(dir)
	if err != nil {
		return dirError(dir, op, err)
	}
	err = d.Sync()
	// EINVAL: the file system has no notion of syncing a directory.
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return dirError(dir, op, err)
	}
	return nil
}
