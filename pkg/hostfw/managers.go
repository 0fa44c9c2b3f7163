package hostfw

import (
	"bytes"
	"cmp"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// sampleVeth stands for the host end of a port, whose names begin so.
const sampleVeth = "veth0a1b2c3d"

// running says whether a process of that name is seen; comm has 15 characters
// (proc_pid_comm(5)). Where the node's processes are hidden, as in a pod of its
// own PID namespace, trace is a file that the program leaves behind.
func (h Host) running(comm, trace string) bool {
	files, _ := fs.Glob(h.Root, "proc/[0-9]*/comm") // the pattern is right
	for _, f := range files {
		if name, err := h.read(f); err == nil && name == comm[:min(15, len(comm))] {
			return true
		}
	}
	if second, err := h.read("proc/2/comm"); err == nil && second == "kthreadd" {
		return false // these are the node's processes, all of them
	}
	return h.exists(trace)
}

// networkManager asks whether NetworkManager leaves veth interfaces alone. Its
// udev rule 85-nm-unmanaged.rules says so by default.
func (h Host) networkManager() report.Check {
	c := report.Check{Name: "NetworkManager leaves veth interfaces alone", Answer: report.Yes}
	if !h.running("NetworkManager", "run/NetworkManager/devices") {
		c.Detail = "it is not running"
		return c
	}
	if name := h.managedVeth(); name != "" {
		c.Answer, c.Detail = report.No, "it manages "+name+", and so may detach it from its bridge"
	} else if file := h.unmanagedRule(); file != "" {
		c.Detail = "by /" + file
	} else {
		c.Answer, c.Detail = report.Unknown, "it runs, and neither its udev rule for veth nor unmanaged-devices was found"
	}
	if c.Answer != report.Yes {
		c.Needs = "unmanaged-devices=interface-name:veth*"
		c.Remedy = `printf '[keyfile]\nunmanaged-devices+=interface-name:veth*\n' > /etc/NetworkManager/conf.d/90-homeport.conf; nmcli general reload`
	}
	return c
}

// managedVeth is a veth* that NetworkManager's run-time state claims.
func (h Host) managedVeth() string {
	dirs, _ := fs.Glob(h.Root, "sys/class/net/veth*") // the pattern is right
	for _, d := range dirs {
		index, err := h.read(d + "/ifindex")
		if err != nil {
			continue
		}
		b, err := fs.ReadFile(h.Root, "run/NetworkManager/devices/"+index)
		if err == nil && slices.Contains(parseINI(b)["device"]["managed"], "true") {
			return path.Base(d)
		}
	}
	return ""
}

// unmanagedRule is the file by which NetworkManager leaves veth* alone.
func (h Host) unmanagedRule() string {
	for _, pattern := range []string{
		"etc/NetworkManager/conf.d/*.conf", "etc/NetworkManager/NetworkManager.conf",
		"run/NetworkManager/conf.d/*.conf", "usr/lib/NetworkManager/conf.d/*.conf",
	} {
		files, _ := fs.Glob(h.Root, pattern) // the patterns are right
		for _, f := range files {
			b, err := fs.ReadFile(h.Root, f)
			if err != nil {
				continue
			}
			keyfile := parseINI(b)["keyfile"]
			lists := slices.Concat(keyfile["unmanaged-devices"], keyfile["unmanaged-devices+"])
			if slices.ContainsFunc(lists, func(l string) bool { return strings.Contains(l, "interface-name:veth*") }) {
				return f
			}
		}
	}
	const rule = "udev/rules.d/85-nm-unmanaged.rules"
	for _, dir := range []string{"etc/", "run/", "usr/lib/", "lib/"} {
		b, err := fs.ReadFile(h.Root, dir+rule)
		if err != nil {
			continue
		}
		if bytes.Contains(b, []byte("veth")) {
			return dir + rule
		}
		return "" // it hides those that follow
	}
	return ""
}

// networkd asks which .network file systemd-networkd would apply to a port.
// Since version 256 it takes away the bridge VLANs that its file does not name.
func (h Host) networkd() report.Check {
	c := report.Check{Name: "systemd-networkd leaves veth interfaces alone", Answer: report.Yes}
	if !h.running("systemd-networkd", "run/systemd/netif/state") {
		c.Detail = "it is not running"
		return c
	}
	c.Detail = "no .network file matches them"
	for _, file := range h.networkFiles() {
		b, err := fs.ReadFile(h.Root, file)
		if err != nil {
			continue
		}
		ini := parseINI(b)
		match := matchVeth(ini["match"])
		if match == report.No {
			continue
		}
		if slices.Contains(ini["link"]["unmanaged"], "yes") || slices.Contains(ini["link"]["unmanaged"], "true") {
			if match == report.Yes {
				c.Detail = "by /" + file
				return c
			}
			continue
		}
		c.Answer, c.Detail = report.No, "/"+file+" matches them: their VLANs and their bridge may be taken away"
		if match == report.Unknown {
			c.Answer, c.Detail = report.Unknown, "/"+file+" may match them"
		}
		c.Needs = "a .network file with Name=veth* and Unmanaged=yes"
		c.Remedy = `printf '[Match]\nName=veth*\n[Link]\nUnmanaged=yes\n' > /etc/systemd/network/00-homeport.network; networkctl reload`
		return c
	}
	return c
}

// networkFiles are the .network files in the order in which networkd tries them
// (systemd.network(5)): by name, one in /etc hiding its namesakes elsewhere.
func (h Host) networkFiles() []string {
	byName := map[string]string{}
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib", "lib"} {
		files, _ := fs.Glob(h.Root, dir+"/systemd/network/*.network") // the pattern is right
		for _, f := range files {
			byName[path.Base(f)] = cmp.Or(byName[path.Base(f)], f)
		}
	}
	var files []string
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		files = append(files, byName[name])
	}
	return files
}

// matchVeth judges a [Match] section for a veth interface: all keys must match,
// and one that this code does not know makes the answer Unknown. Without any
// key a file matches every interface.
func matchVeth(match map[string][]string) report.Answer {
	answer := report.Yes
	for key, values := range match {
		var subject string
		switch key {
		case "name":
			subject = sampleVeth
		case "kind", "driver":
			subject = "veth"
		case "type":
			subject = "ether"
		default:
			answer = report.Unknown
			continue
		}
		if !matchGlobs(subject, strings.Fields(strings.Join(values, " "))) {
			return report.No
		}
	}
	return answer
}

// matchGlobs is the match of systemd.network(5): any pattern, or none of them
// if the first begins with "!".
func matchGlobs(subject string, patterns []string) bool {
	if len(patterns) == 0 {
		return true
	}
	first, inverted := strings.CutPrefix(patterns[0], "!")
	patterns = append([]string{first}, patterns[1:]...)
	found := slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, subject)
		return err == nil && ok
	})
	return found != inverted
}

// parseINI reads section -> key -> values, names in lower case.
func parseINI(b []byte) map[string]map[string][]string {
	out := map[string]map[string][]string{}
	section := ""
	for line := range bytes.Lines(b) {
		text := strings.TrimSpace(string(line))
		if text == "" || strings.ContainsAny(text[:1], "#;") {
			continue
		}
		if strings.HasPrefix(text, "[") {
			section = strings.ToLower(strings.Trim(text, "[]"))
			continue
		}
		key, value, _ := strings.Cut(text, "=")
		if out[section] == nil {
			out[section] = map[string][]string{}
		}
		key = strings.ToLower(strings.TrimSpace(key))
		out[section][key] = append(out[section][key], strings.TrimSpace(value))
	}
	return out
}
