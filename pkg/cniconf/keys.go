package cniconf

import "strings"

// ourKeys are the top-level keys of the CNI config that this plugin acts on.
func ourKeys() []string {
	return []string{"network", "bridge", "vlan", "vlanTrunk", "nativeVlan", "mtu", "mac", "migrationTarget", "disableContainerInterface", "capabilities", "ipam"}
}

// theirKey says whether a top-level key belongs to the CNI spec or is put in
// by runtimes and Multus, so that it is accepted whatever it says.
func theirKey(k string) bool {
	switch k {
	case "cniVersion", "cniVersions", "name", "type", "dns", "args", "prevResult", "runtimeConfig",
		"disableCheck", "disableGC", "loadOnlyInlinedPlugins",
		"deviceID", "pciBusID": // Multus, of device plugins
		return true
	}
	return strings.HasPrefix(k, "cni.dev/")
}

// bridgeKey gives the remedy for a key of the reference bridge plugin, which
// people bring along when they change only the type.
func bridgeKey(k string) string {
	switch k {
	case "macspoofchk":
		return "remove it: a port lets out only the VM's own MAC, always"
	case "preserveDefaultVlan":
		return "remove it: VLAN 1 is never kept; nativeVlan says which VLAN is untagged"
	case "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend", "enabledad":
		return "remove it: this plugin works on layer 2, and the gateway is a host of the VLAN"
	case "promiscMode", "hairpinMode", "portIsolation":
		return "remove it: this version has no such port setting"
	case "trunk":
		return "write vlanTrunk"
	}
	return ""
}

// nearest finds the known key that a misspelt one most likely means, or "".
func nearest(k string, known []string) string {
	best, bestDist := "", 1+max(2, len(k)/3)
	for _, c := range known {
		d := distance(strings.ToLower(k), strings.ToLower(c))
		if d < bestDist && d < len(c) {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is Levenshtein's: the least number of letters to insert, delete or
// change. Long words are not worth the work.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
