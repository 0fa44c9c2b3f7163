// Package store keeps what a node remembers of its attachments: one JSON file
// a record. A record is written to a temporary file, synced and renamed, so
// that a reader sees the old one or the new one and never a part. A file that
// cannot be understood is renamed aside and reported; one that cannot be read
// is reported. Neither stops anybody.
//
// The CNI plugin uses this package too (DEL and GC with a dead agent), so its
// imports stay few.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

const (
	suffix      = ".json"
	asideSuffix = ".corrupt-"
	tempPrefix  = ".tmp-"
)

// Store is a directory of records. It holds no state of its own: any number
// of processes may read it, and writers replace whole files.
type Store struct {
	dir string
}

// SetAside reports a record file that could not be read or understood. Nothing
// is deleted: people may want to look at it.
type SetAside struct {
	// File is what the record was called.
	File string
	// Renamed is what it is called now, or "" if it could not be renamed.
	Renamed string
	// Unread says that the file could not even be read, as from a failing disk.
	// It keeps its name, for it may be sound.
	Unread bool
	// Err says what is wrong with it.
	Err error
}

// Error implements error.
func (s *SetAside) Error() string {
	if s.Unread {
		return fmt.Sprintf("attachment record %s: it cannot be read and stays as it is: %v; its port is not known until it can", s.File, s.Err)
	}
	if s.Renamed == "" {
		return fmt.Sprintf("attachment record %s: %v; it could not be set aside, remove it by hand", s.File, s.Err)
	}
	return fmt.Sprintf("attachment record %s: %v; set aside as %s", s.File, s.Err, filepath.Base(s.Renamed))
}

// Unwrap gives the cause.
func (s *SetAside) Unwrap() error { return s.Err }

// At names the store in dir and touches nothing: it is for those who only read
// and delete. A missing directory holds no records.
func At(dir string) *Store { return &Store{dir: dir} }

// Open makes dir (mode 0700) if it is missing and removes what a writer that died
// left half written. The caller is the one writer. Errors are *DirError.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, dirError(dir, "make the directory", err)
	}
	if err := Sweep(dir); err != nil {
		return nil, err
	}
	return At(dir), nil
}

// Sweep removes what a writer that died left half written in dir, where nobody
// writes now. A directory that is missing has nothing. The error is a *DirError.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirError(dir, "read the directory", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			// Best effort: a temporary file is never read.
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// Path is the file of the record of k. The key is hashed, since container ids
// may be of any length and interface names may hold odd bytes.
func (s *Store) Path(k attach.Key) string {
	sum := sha256.Sum256([]byte(k.ContainerID + "\x00" + k.IfName))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+suffix)
}

// Put writes r, whose Version is set to attach.RecordVersion, in the place of
// any record of its key. It returns once the record would survive a crash.
func (s *Store) Put(r *attach.Record) error {
	if r.ContainerID == "" || r.IfName == "" {
		return fmt.Errorf("attachment record without container id or interface name: %q, %q", r.ContainerID, r.IfName)
	}
	c := *r
	c.Version = attach.RecordVersion
	b, err := json.MarshalIndent(&c, "", "  ")
	if err != nil {
		return fmt.Errorf("attachment record of %s %s: %w", r.ContainerID, r.IfName, err)
	}
	return WriteFileAtomic(s.Path(r.Key), 0o600, b, []byte{'\n'})
}

// Get reads the record of k. There being none is fs.ErrNotExist; a file that
// cannot be understood is set aside and reported as *SetAside.
func (s *Store) Get(k attach.Key) (*attach.Record, error) {
	r, err := s.read(s.Path(k))
	if err != nil {
		return nil, err
	}
	if r.Key != k {
		return nil, s.aside(s.Path(k), fmt.Errorf("it is the record of %s %s", r.ContainerID, r.IfName))
	}
	return r, nil
}

// Delete removes the record of k; there being none is no error.
func (s *Store) Delete(k attach.Key) error {
	if err := os.Remove(s.Path(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirError(s.dir, "delete an attachment record", err)
	}
	return nil
}

// List reads all records, in the order of container id and interface name, and
// sets aside those that it does not understand; those that it cannot read are
// reported with them and left. The error is of the directory alone; a missing
// one is empty.
func (s *Store) List() ([]attach.Record, []SetAside, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, dirError(s.dir, "read the directory", err)
	}
	var records []attach.Record
	var aside []SetAside
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		file := filepath.Join(s.dir, e.Name())
		r, err := s.read(file)
		if err == nil && s.Path(r.Key) != file {
			err = s.aside(file, fmt.Errorf("its name is not that of %s %s", r.ContainerID, r.IfName))
		}
		var bad *SetAside
		var unread *DirError
		switch {
		case err == nil:
			records = append(records, *r)
		case errors.As(err, &bad):
			aside = append(aside, *bad)
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case errors.As(err, &unread):
			aside = append(aside, SetAside{File: file, Unread: true, Err: unread.Err})
		default:
			return nil, nil, err
		}
	}
	slices.SortFunc(records, func(a, b attach.Record) int {
		if c := strings.Compare(a.ContainerID, b.ContainerID); c != 0 {
			return c
		}
		return strings.Compare(a.IfName, b.IfName)
	})
	return records, aside, nil
}

// read decodes one file; whatever is no record of this version is set aside.
func (s *Store) read(file string) (*attach.Record, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, dirError(s.dir, "read an attachment record", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, s.aside(file, err)
	}
	if head.Version != attach.RecordVersion {
		return nil, s.aside(file, fmt.Errorf("record version %d is not known, this is version %d", head.Version, attach.RecordVersion))
	}
	r := new(attach.Record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, s.aside(file, err)
	}
	if r.ContainerID == "" || r.IfName == "" {
		return nil, s.aside(file, errors.New("container id or interface name is missing"))
	}
	return r, nil
}

func (s *Store) aside(file string, cause error) error {
	to := file + asideSuffix + time.Now().UTC().Format("20060102T150405.000000000Z")
	if err := os.Rename(file, to); err != nil {
		to = ""
	}
	return &SetAside{File: file, Renamed: to, Err: cause}
}
