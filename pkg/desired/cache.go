package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Formats of the file that Save writes. An agent that does not know what a snapshot says,
// and so would take it for something else, must not read it: it is of the later format
// then.
const (
	cacheVersion      = 1
	cacheVersionTiers = 2 // with ClusterNetworkPolicies, or rules that do not just decide
	cacheVersionPorts = 3 // with policies that are applied to NICs of VMs, or by addresses
)

func (s *Snapshot) cacheVersion() int {
	if slices.ContainsFunc(s.Policies, func(p Policy) bool { return len(p.NICs)+len(p.AddressSets) > 0 }) {
		return cacheVersionPorts
	}
	for _, n := range s.Networks {
		if n.Cluster {
			return cacheVersionTiers
		}
	}
	for i := range s.Policies {
		if s.Policies[i].Subject != nil || slices.ContainsFunc(s.Policies[i].Rules, func(r policy.Rule) bool { return r.Monitored || r.Stateless || r.Loose }) {
			return cacheVersionTiers
		}
	}
	return cacheVersion
}

// cacheFile is a stored snapshot. The sum is over the body's bytes, so that a
// file that was cut or altered is not taken for the truth.
type cacheFile struct {
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"`
	Body    json.RawMessage `json:"body"`
}

type cacheBody struct {
	Snapshot
	// Files says which file each object came from.
	Files []cacheOrigin `json:"files"`
}

type cacheOrigin struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	File string `json:"file"`
}

// Save stores what is in force, without its problems: the file at path is the
// old or the new snapshot, whole, whenever the power fails.
func (s *Snapshot) Save(path string) error { return save(path, s, nil) }

// LoadSnapshot reads what Save stored. A file that does not exist is
// fs.ErrNotExist; any other error means that the file is of no use.
func LoadSnapshot(path string) (*Snapshot, error) {
	s, _, err := load(path)
	return s, err
}

func save(path string, s *Snapshot, files map[key]string) error {
	body := cacheBody{Snapshot: *s, Files: make([]cacheOrigin, 0, len(files))}
	body.Problems = nil
	for _, k := range slices.SortedFunc(maps.Keys(files), key.compare) {
		body.Files = append(body.Files, cacheOrigin{k.Kind, k.Name, files[k]})
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	// A cacheFile, without one more copy of a body of megabytes.
	return writeFile(path, fmt.Appendf(nil, `{"version":%d,"sha256":%q,"body":`, s.cacheVersion(), sum(raw)), raw, []byte("}"))
}

func load(path string) (*Snapshot, map[key]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var file cacheFile
	var body cacheBody
	if err = json.Unmarshal(data, &file); err == nil {
		switch {
		case file.Version < cacheVersion || file.Version > cacheVersionPorts:
			err = fmt.Errorf("has format %d, want %d to %d", file.Version, cacheVersion, cacheVersionPorts)
		case sum(file.Body) != file.SHA256:
			err = errors.New("content does not match its checksum")
		default:
			err = json.Unmarshal(file.Body, &body)
		}
	}
	if err == nil && (body.Trunks == nil || body.Networks == nil || body.Policies == nil) {
		err = errors.New("trunks, networks or policies are missing")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: not a stored snapshot: %w", path, err)
	}
	files := map[key]string{}
	for _, f := range body.Files {
		files[key{f.Kind, f.Name}] = f.File
	}
	body.Expand()
	return &body.Snapshot, files, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// writeFile replaces a file by one that is on the disk before it has the name.
func writeFile(path string, parts ...[]byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	for _, part := range parts {
		if _, err = tmp.Write(part); err != nil {
			return err
		}
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
