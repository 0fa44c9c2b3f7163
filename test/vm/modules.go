package vm

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// moduleDeps is a parsed modules.dep: for each module file (relative to
// lib/modules/RELEASE) the files it needs, as depmod wrote them.
type moduleDeps struct {
	deps    map[string][]string
	byName  map[string]string // module name, with _ for -, to file
	builtin map[string]bool   // module names compiled into the kernel
}

// moduleName turns a file name into the name the kernel knows.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// parseModuleDeps reads the text of modules.dep and of modules.builtin.
func parseModuleDeps(dep, builtin string) (*moduleDeps, error) {
	m := &moduleDeps{deps: map[string][]string{}, byName: map[string]string{}, builtin: map[string]bool{}}
	for i, line := range strings.Split(dep, "\n") {
		if line == "" {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep line %d: no colon in %q; run depmod again", i+1, line)
		}
		m.deps[file] = strings.Fields(needs)
		m.byName[moduleName(file)] = file
	}
	for _, file := range strings.Fields(builtin) {
		m.builtin[moduleName(file)] = true
	}
	return m, nil
}

// order gives the files to load for the named modules, every file after all
// that it needs and none twice. Built-in modules are left out. A name that the
// kernel has neither as file nor built in is an error.
func (m *moduleDeps) order(names []string) ([]string, error) {
	var out []string
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(file string) error
	visit = func(file string) error {
		switch state[file] {
		case 1:
			return fmt.Errorf("module %s needs itself by way of others; run depmod again", moduleName(file))
		case 2:
			return nil
		}
		state[file] = 1
		needs, ok := m.deps[file]
		if !ok {
			return fmt.Errorf("module file %s is needed but not listed in modules.dep; run depmod again", file)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		state[file] = 2
		out = append(out, file)
		return nil
	}
	for _, name := range names {
		name = strings.ReplaceAll(name, "-", "_")
		if m.builtin[name] {
			continue
		}
		file, ok := m.byName[name]
		if !ok {
			return nil, fmt.Errorf("module %s: this kernel has no such module, neither as file nor built in", name)
		}
		if err := visit(file); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// under gives the names of all modules in the given folders, or with the given
// path without .ko; sorted. Names that match nothing are passed over: the two
// kernels differ.
func (m *moduleDeps) under(prefixes []string) []string {
	var names []string
	for file := range m.deps {
		for _, p := range prefixes {
			if strings.HasPrefix(file, p+"/") || file == p+".ko" {
				names = append(names, moduleName(file))
				break
			}
		}
	}
	sort.Strings(names)
	return names
}

// subset writes modules.dep and modules.alias for the given files only, so
// that modprobe inside the VM reads kilobytes and not the whole tree's tables.
func (m *moduleDeps) subset(files []string, alias string) (dep, aliases string) {
	var d, a strings.Builder
	have := map[string]bool{}
	for _, f := range files {
		have[moduleName(f)] = true
		fmt.Fprintf(&d, "%s: %s\n", f, strings.Join(m.deps[f], " "))
	}
	for _, line := range strings.Split(alias, "\n") {
		if f := strings.Fields(line); len(f) == 3 && have[f[2]] {
			a.WriteString(line + "\n")
		}
	}
	return d.String(), a.String()
}

// loadModuleDeps reads the tables of a kernel folder.
func loadModuleDeps(dir string) (*moduleDeps, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w; run hack/deps.sh", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w; run hack/deps.sh", err)
	}
	return parseModuleDeps(string(dep), string(builtin))
}

const sigMagic = "~Module signature appended~\n"

// stripSignature cuts the appended signature off a module (kernel
// scripts/sign-file.c, include/linux/module_signature.h): checking it costs
// much under emulation and Debian's kernels load unsigned modules as well.
func stripSignature(ko []byte) []byte {
	body, ok := bytes.CutSuffix(ko, []byte(sigMagic))
	const infoSize = 12 // struct module_signature; its last 4 bytes are the length
	if !ok || len(body) < infoSize {
		return ko
	}
	l := body[len(body)-4:]
	n := int(l[0])<<24 | int(l[1])<<16 | int(l[2])<<8 | int(l[3])
	if n > len(body)-infoSize {
		return ko
	}
	return body[:len(body)-infoSize-n]
}
