package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often a Ring looks at its file, at most.
	lookEvery = time.Second
	// settled is how old a change must be so that the next one cannot bear the same
	// time: file systems count in steps.
	settled = 2 * time.Second
	// maxKeyFile bounds what is read, in bytes: four keys and what people note.
	maxKeyFile = 64 << 10
)

// Ring holds the keys of a file and follows it: at use, and at most once a second,
// it looks whether the file has changed, also where a link was put elsewhere, as
// Secrets are. While the file is bad the last good keys stay. It serves any number
// of goroutines.
type Ring struct {
	path string // "" has no file
	made time.Time
	// next is when to look again, in nanoseconds after made.
	next  atomic.Int64
	state atomic.Pointer[ringState]

	mu sync.Mutex // of those that look
	// seen is the file as it was when it was read, or nil to read it in any case.
	seen fs.FileInfo
}

type ringState struct {
	keys Keys
	err  error
	// alone says that keys are the ring's own, and the file's have not been read yet.
	alone bool
}

// OpenRing reads the keys at path. Errors name the file, what is wrong in it and the
// remedy.
func OpenRing(path string) (*Ring, error) {
	r := &Ring{path: path, made: time.Now()}
	r.state.Store(new(ringState))
	r.look()
	if err := r.state.Load().err; err != nil {
		return nil, r.fileError(err)
	}
	return r, nil
}

// AwaitRing is OpenRing for a file that may come later, or be mended: until it can be
// read the ring has a key that nobody else has.
func AwaitRing(path string) (*Ring, error) {
	own, err := ParseKeys([]byte(MakeKey()))
	if err != nil {
		return nil, err
	}
	r := &Ring{path: path, made: time.Now()}
	r.state.Store(&ringState{keys: own, alone: true})
	r.look()
	return r, nil
}

// Alone says why the ring of AwaitRing has no key of the file's yet; nil if it has.
func (r *Ring) Alone() error {
	if s := r.now(); s.alone {
		return r.fileError(s.err)
	}
	return nil
}

// Fixed holds keys that do not change.
func Fixed(keys Keys) *Ring {
	r := new(Ring)
	r.state.Store(&ringState{keys: keys})
	return r
}

// Keys gives the keys that count now.
func (r *Ring) Keys() Keys { return r.now().keys }

// Err says why the file cannot be used as it is now; nil if it can. Keys are then
// those that it had before.
func (r *Ring) Err() error {
	s := r.now()
	switch {
	case s.err == nil:
		return nil
	case s.alone:
		return r.fileError(s.err)
	}
	return fmt.Errorf("%w; the keys read before stay in use", r.fileError(s.err))
}

// String shows the file and the ids of the keys.
func (r *Ring) String() string {
	keys := r.state.Load().keys.String()
	if r.path == "" {
		return keys
	}
	return r.path + ": " + keys
}

func (r *Ring) fileError(err error) error {
	// The path is said once, by us.
	if in := new(fs.PathError); errors.As(err, &in) {
		err = in.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: mount the Secret there, or put the file there that the other nodes have", err)
	}
	return fmt.Errorf("fabric keys %s: %w", r.path, err)
}

func (r *Ring) now() *ringState {
	// Who comes while another looks takes what was there.
	if r.path != "" && time.Since(r.made) >= time.Duration(r.next.Load()) && r.mu.TryLock() {
		defer r.mu.Unlock()
		if time.Since(r.made) >= time.Duration(r.next.Load()) {
			r.look()
		}
	}
	return r.state.Load()
}

func (r *Ring) look() {
	defer func() { r.next.Store(int64(time.Since(r.made) + lookEvery)) }()
	info, err := os.Stat(r.path)
	if err == nil && r.seen != nil && os.SameFile(info, r.seen) &&
		info.ModTime().Equal(r.seen.ModTime()) && info.Size() == r.seen.Size() {
		return
	}
	var keys Keys
	if err == nil {
		keys, err = readKeys(r.path, info)
	}
	old := r.state.Load()
	// Looked at before it was read: a change in between shows next time.
	r.seen = info
	if err != nil || time.Since(info.ModTime()) < settled {
		r.seen = nil
	}
	switch {
	case err != nil:
		r.state.Store(&ringState{keys: old.keys, err: err, alone: old.alone})
	case old.err != nil || !keys.same(old.keys):
		// Otherwise the value stays that others have made certificates for.
		if keys.same(old.keys) {
			keys = old.keys
		}
		r.state.Store(&ringState{keys: keys})
	}
}

func readKeys(path string, info fs.FileInfo) (Keys, error) {
	if !info.Mode().IsRegular() {
		return Keys{}, errors.New("not a file: name the file that has the keys")
	}
	if info.Size() > maxKeyFile {
		return Keys{}, fmt.Errorf("%d bytes, want at most %d: name the file that has the keys", info.Size(), maxKeyFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Keys{}, err
	}
	return ParseKeys(text)
}
