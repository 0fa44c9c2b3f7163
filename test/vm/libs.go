package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// library is a shared object: where it is on the host and where the VM's
// loader will look for it.
type library struct{ host, guest string }

// sharedLibraries gives all libraries that an ELF program needs, its loader
// first. A static program, a script or any other file needs none.
func sharedLibraries(program string) ([]library, error) {
	f, err := elf.Open(program)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	interp := interpreter(f)
	f.Close()
	if interp == "" {
		return nil, nil
	}
	out := []library{{interp, interp}}
	seen := map[string]bool{filepath.Base(interp): true}
	return addNeeded(out, seen, program)
}

// addNeeded appends what an ELF file needs, and what that needs.
func addNeeded(out []library, seen map[string]bool, file string) ([]library, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", file, err)
	}
	needed, err := f.ImportedLibraries()
	runpath, _ := f.DynString(elf.DT_RUNPATH)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", file, err)
	}
	for _, soname := range needed {
		if seen[soname] {
			continue
		}
		seen[soname] = true
		host, err := findLibrary(soname, runpath)
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", file, err)
		}
		out = append(out, library{host, host})
		if out, err = addNeeded(out, seen, host); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err == nil {
				return strings.TrimRight(string(b), "\x00")
			}
		}
	}
	return ""
}

// libraryFolders is where Debian's loader looks without a cache file.
var libraryFolders = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

func findLibrary(soname string, runpath []string) (string, error) {
	var folders []string
	for _, r := range runpath {
		folders = append(folders, strings.Split(r, ":")...)
	}
	for _, d := range append(folders, libraryFolders...) {
		p := filepath.Join(d, soname)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is in none of %s", soname, strings.Join(libraryFolders, ", "))
}
