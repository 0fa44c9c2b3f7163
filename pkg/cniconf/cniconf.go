// Package cniconf turns what a container runtime hands to the CNI plugin (the
// config on stdin, the CNI_* variables) into a Config that cannot be wrong. All
// that is wrong is reported at once, each error with its field and its remedy.
//
// The forms are those of the CNI spec 1.1.0; vlan and vlanTrunk are written as
// for the reference bridge plugin (containernetworking/plugins,
// plugins/main/bridge). DEL needs no config at all, and for GC there is ParseGC.
package cniconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// Config is a valid CNI config of type homeport. Exactly one of Network and
// Inline is set.
type Config struct {
	CNIVersion string
	// Name is the CNI network's; garbage collection goes by it.
	Name    string
	Network string
	Inline  *attach.Inline
	// MTU in bytes; 0 takes the network's or the bridge's.
	MTU int
	// MAC that was asked for, or nil; MACField says where.
	MAC      net.HardwareAddr
	MACField string
	// ContainerDown leaves the container's end down (disableContainerInterface).
	ContainerDown bool
	// MigrationTarget says that the VM is to come by live migration.
	MigrationTarget bool
	// Pod is who the attachment is for, as CNI_ARGS says.
	Pod attach.Pod
	// DNS is passed on into the result.
	DNS types.DNS
	// IPAM names the plugin that gives out the interface's addresses (ipam.type); "" is none.
	IPAM string
	// PrevResult is what the plugin before us in a chain answered, or nil if
	// we are the main plugin.
	PrevResult json.RawMessage
}

// DecodeError says that the config is no JSON object: CNI error code 6.
type DecodeError struct {
	Err error
}

// Error implements error.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("the CNI config on stdin cannot be decoded: %v; give one JSON object", e.Err)
}

// Unwrap gives the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

// Parse reads the config on stdin and CNI_ARGS for ADD and STATUS. The
// error is a *DecodeError, an *EnvError, or a join of *attach.Error of kind
// InvalidConfig, one for everything that is wrong.
func Parse(stdin []byte, cniArgs string) (*Config, error) { return parse(stdin, cniArgs, true) }

// ParseCheck is Parse for CHECK, whose prevResult is ADD's own: it says nothing of a
// plugin before us.
func ParseCheck(stdin []byte, cniArgs string) (*Config, error) { return parse(stdin, cniArgs, false) }

func parse(stdin []byte, cniArgs string, add bool) (*Config, error) {
	o, err := decodeObject(stdin)
	if err != nil {
		return nil, &DecodeError{err}
	}
	pod, argsMAC, err := podArgs(cniArgs)
	if err != nil {
		return nil, err
	}
	p := &parser{fields: o.fields}
	c := &Config{Pod: pod}
	for _, k := range o.twice {
		p.bad(k, "is written twice", "write it once")
	}
	p.unknownKeys(o.order)
	p.standard(c)
	p.place(c)
	p.mac(c, argsMAC)
	p.capabilities(c)
	if n, ok := p.number("mtu"); ok {
		if n < attach.MinMTU || n > attach.MaxMTU {
			p.bad("mtu", fmt.Sprintf("%d is out of range", n), fmt.Sprintf("give %d to %d bytes, or leave the key out to take the network's", attach.MinMTU, attach.MaxMTU))
		}
		c.MTU = int(n)
	}
	p.into("disableContainerInterface", &c.ContainerDown, "true or false")
	chained := add && c.PrevResult != nil
	if c.ContainerDown && chained {
		p.bad("disableContainerInterface", "the plugin before this one made the interface", "set the key at that plugin")
	}
	switch {
	case c.IPAM == "":
	case chained:
		p.bad("ipam", "the plugin before this one made the interface, and its addresses are that one's to give", "set ipam at that plugin")
	case c.ContainerDown:
		p.bad("disableContainerInterface", "ipam gives the interface addresses and routes, for which it must be up", "remove the key or ipam")
	}
	if p.into("migrationTarget", &c.MigrationTarget, "true or false"); c.MigrationTarget && c.MAC == nil && c.PrevResult == nil {
		p.bad("migrationTarget", "no MAC is given, and the VM has one already", "give the VM's MAC in mac, or in any of the other ways")
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return c, nil
}

// parser collects what is wrong with the fields of one object.
type parser struct {
	prefix string
	fields map[string]json.RawMessage
	errs   []error
}

func (p *parser) bad(field, message, remedy string) {
	p.errs = append(p.errs, attach.Invalid(p.prefix+field, message, remedy))
}

// has says that a key is there and not null, which JSON people write for absent.
func (p *parser) has(k string) bool {
	v, ok := p.fields[k]
	return ok && string(v) != "null"
}

// into decodes a field, if it is there, and says whether it is there and good.
func (p *parser) into(k string, v any, want string) bool {
	if !p.has(k) {
		return false
	}
	if err := json.Unmarshal(p.fields[k], v); err != nil {
		p.bad(k, fmt.Sprintf("%s is not %s", short(p.fields[k]), want), "write "+want)
		return false
	}
	return true
}

// text decodes a string that may not be empty.
func (p *parser) text(k string) (string, bool) {
	var s string
	if !p.into(k, &s, "a JSON string") {
		return "", false
	}
	if s == "" {
		p.bad(k, "is empty", "give a name or leave the key out")
		return "", false
	}
	return s, true
}

// number decodes a whole number.
func (p *parser) number(k string) (int64, bool) {
	var n int64
	ok := p.into(k, &n, "a whole JSON number")
	return n, ok
}

func (p *parser) unknownKeys(keys []string) {
	for _, k := range keys {
		if theirKey(k) || slices.Contains(ourKeys(), k) {
			continue
		}
		remedy := bridgeKey(k)
		if remedy == "" {
			remedy = "remove it, or write one of " + strings.Join(ourKeys(), ", ")
			if n := nearest(k, ourKeys()); n != "" {
				remedy = fmt.Sprintf("did you mean %q?", n)
			}
		}
		p.bad(k, "unknown key", remedy)
	}
}

// standard reads the keys of the CNI spec.
func (p *parser) standard(c *Config) {
	p.into("cniVersion", &c.CNIVersion, "a version as \"1.0.0\"")
	if name, ok := p.text("name"); ok {
		if !validID(name) {
			p.bad("name", fmt.Sprintf("%q has invalid characters", name), "use letters, digits, and then also . _ -")
		}
		c.Name = name
	} else if !p.has("name") {
		p.bad("name", "missing", "name the CNI network")
	}
	p.ipam(c)
	p.into("dns", &c.DNS, "a JSON object as the CNI spec has it")
	if p.has("prevResult") {
		if prev := bytes.TrimSpace(p.fields["prevResult"]); prev[0] == '{' {
			c.PrevResult = prev
		} else {
			p.bad("prevResult", short(prev)+" is not a JSON object", "the runtime should pass the result of the plugin before this one")
		}
	}
}

// ipam reads who gives out addresses. What else stands there is that plugin's to
// read. An empty object is none: runtimes and people write it for a plugin of layer 2.
func (p *parser) ipam(c *Config) {
	fields := map[string]json.RawMessage{}
	if !p.into("ipam", &fields, "a JSON object") {
		return
	}
	in := &parser{prefix: p.prefix + "ipam.", fields: fields}
	in.into("type", &c.IPAM, "a JSON string")
	switch {
	case len(in.errs) > 0:
	case c.IPAM != "":
		if !validPlugin(c.IPAM) {
			in.bad("type", fmt.Sprintf("%q is no plugin's name", c.IPAM), "give the name of a program in CNI_PATH, as host-local")
		}
	case len(fields) > 1 || len(fields) == 1 && fields["type"] == nil:
		in.bad("type", "missing", "name the plugin that gives out addresses, as host-local, or remove ipam")
	}
	p.errs = append(p.errs, in.errs...)
}

// validPlugin says whether a name is one that a program in a folder can have.
func validPlugin(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// capabilities are what the runtime may hand in by runtimeConfig. One that is
// not looked at is refused, lest its value be lost silently.
func (p *parser) capabilities(c *Config) {
	caps := map[string]bool{}
	p.into("capabilities", &caps, `a JSON object as {"mac": true}`)
	for _, k := range slices.Sorted(maps.Keys(caps)) {
		switch {
		case !caps[k], k == "mac":
		case k != "ips" && k != "ipRanges":
			p.bad("capabilities."+k, "not supported", `remove it; "mac" is the one capability, and with ipam "ips" and "ipRanges"`)
		case c.IPAM == "":
			p.bad("capabilities."+k, "goes with ipam, whose plugin takes it", `remove it, or name that plugin in ipam.type`)
		}
	}
}

// mac takes the MAC by precedence: the config's own, CNI_ARGS, args.cni and
// runtimeConfig, the last one winning, as in the reference plugins. Each that
// is there must be good.
func (p *parser) mac(c *Config, argsMAC string) {
	take := func(field, s string) {
		m, err := net.ParseMAC(s)
		why := attach.MAC(m).Problem()
		if err != nil {
			why = "is no MAC address"
		}
		if why != "" {
			p.bad(field, fmt.Sprintf("%q %s", s, why), "give six bytes of one station, as 00:50:56:01:02:03")
			return
		}
		c.MAC, c.MACField = m, field
	}
	var s string
	if p.into("mac", &s, "a JSON string") {
		take("mac", s)
	}
	if argsMAC != "" {
		take("CNI_ARGS MAC", argsMAC)
	}
	var args struct {
		CNI struct {
			MAC *string `json:"mac"`
		} `json:"cni"`
	}
	if p.into("args", &args, `a JSON object as {"cni": {"mac": "..."}}`) && args.CNI.MAC != nil {
		take("args.cni.mac", *args.CNI.MAC)
	}
	var runtime struct {
		MAC *string `json:"mac"`
	}
	if p.into("runtimeConfig", &runtime, `a JSON object as {"mac": "..."}`) && runtime.MAC != nil {
		take("runtimeConfig.mac", *runtime.MAC)
	}
}
