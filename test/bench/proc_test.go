package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// childOf reads one /proc/PID/stat and says whether that process is a child of
// parent.
func childOf(stat string, parent int) (pid int, ok bool) {
	b, err := os.ReadFile(stat)
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 || f[1] != strconv.Itoa(parent) {
		return 0, false
	}
	pid, err = strconv.Atoi(filepath.Base(filepath.Dir(stat)))
	return pid, err == nil
}
