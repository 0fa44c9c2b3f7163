package netns

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// figures is a table of what a script has measured: rows as it names them, a column for
// each kind of figure. It is printed, and kept as JSON for whoever compares.
type figures struct {
	script  string
	rows    []figureRow
	columns []string
	notes   []string // below the table
}

type figureRow struct {
	name   string
	values map[string]int64
}

func cmdRow(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, -1, "row TEXT"); err != nil {
		return err
	}
	s.figures.rows = append(s.figures.rows, figureRow{strings.Join(args, " "), map[string]int64{}})
	return nil
}

// add adds to the current row; what is measured before the first is nobody's.
func (f *figures) add(column string, value int64) {
	if len(f.rows) == 0 {
		return
	}
	if !slices.Contains(f.columns, column) {
		f.columns = append(f.columns, column)
	}
	f.rows[len(f.rows)-1].values[column] = value
}

func (f *figures) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s", f.script)
	for _, c := range f.columns {
		fmt.Fprintf(&b, " %*s", max(8, len(c)), c)
	}
	for _, r := range f.rows {
		fmt.Fprintf(&b, "\n%-28s", r.name)
		for _, c := range f.columns {
			cell := "-"
			if v, ok := r.values[c]; ok {
				cell = strconv.FormatInt(v, 10)
			}
			fmt.Fprintf(&b, " %*s", max(8, len(c)), cell)
		}
	}
	for _, n := range f.notes {
		b.WriteString("\n" + n)
	}
	return b.String()
}

// write prints the table and, in a VM, adds it to /out/figures.txt and .json.
func (f *figures) write(t testscript.T) error {
	if len(f.rows) == 0 {
		return nil
	}
	t.Log("figures of this machine, which is emulated:\n" + f.String())
	if os.Getenv("HOMEPORT_IN_VM") == "" {
		return nil
	}
	lines := ""
	for _, r := range f.rows {
		b, err := json.Marshal(map[string]any{"script": f.script, "row": r.name, "kernel": os.Getenv("HOMEPORT_IN_VM"), "figures": r.values})
		if err != nil {
			return err
		}
		lines += string(b) + "\n"
	}
	for name, text := range map[string]string{"figures.txt": f.String() + "\n\n", "figures.json": lines} {
		file, err := os.OpenFile(filepath.Join(wire.OutDir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(file, text); err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}
