package agent

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// notesMax bounds what status repeats; the log has more.
const notesMax = 100

// notes are what status tells of files of the agent's own, by the file that each
// is about. The zero value has none.
type notes struct {
	mu  sync.Mutex
	all map[string]note
}

type note struct {
	text string
	// goes says that it is over once the file is not there any more, as one that
	// was set aside. Others are over when dropped.
	goes bool
}

// add takes a note in the place of any other about the file, and logs what is new.
func (n *notes) add(log *slog.Logger, file, text string, goes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, known := n.all[file]
	if old.text == text || !known && len(n.all) >= notesMax {
		return
	}
	log.Error(text)
	if n.all == nil {
		n.all = map[string]note{}
	}
	n.all[file] = note{text, goes}
}

// drop ends the note about a file, if there is one.
func (n *notes) drop(file string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.all, file)
}

// sweep ends the notes that go with files that are gone.
func (n *notes) sweep() {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.all, func(file string, about note) bool { return about.goes && !exists(file) })
}

// texts lists the notes, in the order of files.
func (n *notes) texts() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, file := range slices.Sorted(maps.Keys(n.all)) {
		out = append(out, n.all[file].text)
	}
	return out
}
