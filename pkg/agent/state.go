package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/store"
)

// What the agent keeps on disk besides records, so that a restart goes on where
// it was.
const (
	snapshotFile = "in-force.json" // what is in force, kept objects and all
	policyFile   = "policy.json"   // policyState
)

// stateFile is the form of each. The sum is over the bytes of the body: one that
// was cut, or has other bits than were written, is not taken for the truth.
type stateFile struct {
	SHA256 string          `json:"sha256"`
	Body   json.RawMessage `json:"body"`
}

func checksum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func saveJSON(path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	// A stateFile, without one more copy of a body of megabytes.
	return store.WriteFileAtomic(path, 0o600, fmt.Appendf(nil, `{"sha256":%q,"body":`, checksum(body)), body, []byte("}"))
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if checksum(f.Body) != f.SHA256 {
		return errors.New("its content does not match its checksum")
	}
	return json.Unmarshal(f.Body, v)
}

// loadJSON fills v from a state file, or says that there is none that is of use;
// then v must not be used. A damaged one is set aside and told in status.
func (a *Agent) loadJSON(name string, v any) bool {
	path := a.statePath(name)
	err := readJSON(path, v)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err == nil
	}
	msg, aside := fmt.Sprintf("state file %s: %v", path, err), path+".corrupt"
	if os.Rename(path, aside) == nil {
		a.notes.add(a.log, aside, msg+"; set aside as "+aside, true)
	} else {
		a.notes.add(a.log, path, msg+"; it could not be set aside, remove it by hand", true)
	}
	return false
}

// save writes a state file. That it cannot is told, as what, until it can.
func (a *Agent) save(name string, v any, what string) {
	path := a.statePath(name)
	if err := saveJSON(path, v); err != nil {
		a.notes.add(a.log, path, what+": "+err.Error(), false)
		return
	}
	a.notes.drop(path)
}

// loadState reads what an earlier agent had in force. Files that are missing or
// damaged cost hit counts and kept objects, never the start.
func (a *Agent) loadState() {
	var last policyState
	if a.loadJSON(policyFile, &last) {
		a.world.policyState = last
	}
	var snap desired.Snapshot
	if a.loadJSON(snapshotFile, &snap) {
		snap.Revision = 0
		snap.Expand()
		a.world.snap = &snap
	}
	a.loadUplinks()
}
