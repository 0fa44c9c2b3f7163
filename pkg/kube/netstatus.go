package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// Multus writes into a pod's annotation network-status what CNI plugins gave its interfaces. Who reads there which addresses
// a pod has (MultiNetworkPolicy's engines, service controllers, people) sees none of a VM whose addresses were learnt. Where
// its network wants it, the node writes them there: the ips of the port's element, and nothing else. They must not come back as
// declarations: nobody here reads them, and what a VirtualMachineInstance may have from there does not count on such a network.

// statusPath is the annotation in a JSON patch (RFC 6901: / is ~1).
var statusPath = "/metadata/annotations/" + strings.ReplaceAll(desired.NetworkStatusAnnotation, "/", "~1")

// statusElement is a member of network-status, as far as it is read here.
type statusElement struct {
	start     int // of the element in the text
	Interface string
	MAC       string
	// Where the value of ips is in the text, and what it is; the end of the element's name of its interface.
	ipsFrom, ipsTo, after int
	ips                   []string
}

// withIPs is the text of a network-status that has these addresses at an interface. All else of it stays, byte for byte. It is the
// same text if there is nothing to change, or no element of the interface yet.
func withIPs(text, ifname string, mac attach.MAC, ips []netip.Addr) (string, error) {
	elements, err := readStatus(text)
	if err != nil {
		return text, err
	}
	elements = slices.DeleteFunc(elements, func(e statusElement) bool { return e.Interface != ifname })
	if len(elements) > 1 {
		elements = slices.DeleteFunc(elements, func(e statusElement) bool { return !strings.EqualFold(e.MAC, mac.String()) })
	}
	if len(elements) != 1 {
		return text, nil
	}
	e := elements[0]
	want := make([]string, 0, len(ips)) // not nil, which is null in JSON
	for _, a := range ips {
		want = append(want, a.String())
	}
	if slices.Equal(e.ips, want) {
		return text, nil
	}
	value, err := json.Marshal(want)
	if err != nil {
		return text, err
	}
	if e.ipsTo == 0 {
		return text[:e.after] + `,"ips":` + string(value) + text[e.after:], nil
	}
	return text[:e.ipsFrom] + string(value) + text[e.ipsTo:], nil
}

// readStatus finds the elements of a network-status. What is none of an interface is left out.
func readStatus(text string) ([]statusElement, error) {
	const want = `want the list that Multus writes, [{"name": "NETWORK", "interface": "INTERFACE", "ips": ["10.1.2.3"]}]; it is left as it is`
	fail := func(what string) error {
		return fmt.Errorf("annotation %s %s: %s", desired.NetworkStatusAnnotation, what, want)
	}
	if !json.Valid([]byte(text)) {
		return nil, fail("is not JSON")
	}
	var out []statusElement
	all := json.NewDecoder(strings.NewReader(text))
	if t, err := all.Token(); err != nil || t != json.Delim('[') {
		return nil, fail("is no list")
	}
	for i := 0; all.More(); i++ {
		var raw json.RawMessage
		if err := all.Decode(&raw); err != nil {
			return nil, fail("is not JSON")
		}
		e := statusElement{start: int(all.InputOffset()) - len(raw)}
		if raw[0] != '{' {
			return nil, fail(fmt.Sprintf("[%d] is no object", i))
		}
		if !e.read(raw) {
			return nil, fail(fmt.Sprintf("[%d] is of another form", i))
		}
		if e.Interface != "" {
			out = append(out, e)
		}
	}
	return out, nil
}

// read takes what an element has; false is that a member of it is of another form.
func (e *statusElement) read(raw json.RawMessage) bool {
	members := json.NewDecoder(bytes.NewReader(raw))
	_, _ = members.Token() // {
	for members.More() {
		name, err := members.Token()
		var value json.RawMessage
		if err != nil || members.Decode(&value) != nil {
			return false
		}
		end := e.start + int(members.InputOffset())
		switch name {
		case "interface":
			e.after, err = end, json.Unmarshal(value, &e.Interface)
		case "mac":
			err = json.Unmarshal(value, &e.MAC)
		case "ips":
			e.ipsFrom, e.ipsTo, e.ips = end-len(value), end, nil
			err = json.Unmarshal(value, &e.ips)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// heldIn are the addresses of a port that belong into its pod's network-status.
func heldIn(p *wire.Port) (out []netip.Addr) {
	for i := range p.Bindings {
		if a := &p.Bindings[i]; a.State == wire.AddressHeld && a.VLAN == p.VLANs.PVID && linkLocal(a.Address) == 0 {
			out = append(out, a.Address)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare) // IPv4 first
	return out[:min(len(out), mostBindings)]
}

// networkStatusWritten says whether a port's pod has in its network-status what its network wants there; nil is that it wants nothing,
// or that Multus has written nothing yet. noted is that the port says something of it already: then the node has written there, and
// says so until what CNI plugins gave is there again, so that an agent which comes later knows, too.
func networkStatusWritten(p *wire.Port, known *confirmation, noted bool) *metav1.Condition {
	if known == nil || known.networkStatus == "" || !p.NetworkStatus && !noted {
		return nil
	}
	c := &metav1.Condition{Type: v1alpha1.ConditionNetworkStatusWritten, Status: metav1.ConditionFalse}
	back, err := withIPs(known.networkStatus, p.IfName, p.MAC, p.Addresses)
	switch {
	case !p.NetworkStatus && (err != nil || back == known.networkStatus):
		return nil
	case err != nil:
		c.Reason, c.Message = v1alpha1.ReasonNetworkStatusUnreadable, cut(err.Error())
	case known.unwritten != nil:
		c.Reason, c.Message = v1alpha1.ReasonNetworkStatusRefused, cut(known.unwritten.Error())
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonAddressesWritten, "the addresses that the NIC holds are in its pod's annotation"
	}
	return c
}

// reportStatus has the network-status of pods be as networks want it. Where a network does so no more, what CNI plugins gave is
// there again.
func (r *Reporter) reportStatus(ctx context.Context, ports []wire.Port) error {
	byPod := map[string][]*wire.Port{}
	for i := range ports {
		p := &ports[i]
		if c := r.vms[podKey(p.Pod)]; c == nil || c.networkStatus == "" || c.uid == "" || c.uid != p.Pod.UID || p.VLANs.PVID == 0 || p.State != attach.Active || !r.settled[p.Key] {
			continue
		}
		if p.NetworkStatus || noted(r.ports[portID(p)]) {
			byPod[podKey(p.Pod)] = append(byPod[podKey(p.Pod)], p)
		}
	}
	var errs []error
	for pod, list := range byPod {
		errs = append(errs, r.writeStatus(ctx, r.vms[pod], list))
	}
	return errors.Join(errs...)
}

func noted(o *v1alpha1.VMPort) bool {
	return o != nil && meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionNetworkStatusWritten) != nil
}

// writeStatus changes the annotation of a pod if that was not changed meanwhile; else that is looked at once more.
func (r *Reporter) writeStatus(ctx context.Context, c *confirmation, ports []*wire.Port) error {
	is := func(p *wire.Port) []netip.Addr {
		if p.NetworkStatus {
			return heldIn(p)
		}
		return p.Addresses
	}
	ports = slices.DeleteFunc(ports, func(p *wire.Port) bool { // as it should be, or of another form
		text, err := withIPs(c.networkStatus, p.IfName, p.MAC, is(p))
		return err != nil || text == c.networkStatus
	})
	if len(ports) == 0 {
		c.unwritten = nil
		return nil
	}
	if ports = slices.DeleteFunc(ports, func(p *wire.Port) bool { return !r.mayTell(p.Key, inStatus) }); len(ports) == 0 {
		return nil
	}
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	pod.Namespace, pod.Name = ports[0].Pod.Namespace, ports[0].Pod.Name
	for again := false; ; again = true {
		text := c.networkStatus
		for _, p := range ports {
			text, _ = withIPs(text, p.IfName, p.MAC, is(p))
		}
		var err error
		if text != c.networkStatus {
			err = r.patchStatus(ctx, pod, c, text)
		}
		switch {
		case err == nil:
			c.networkStatus, c.unwritten = text, nil
			return nil
		case apierrors.IsNotFound(err):
			return nil // the pod is gone
		case again || !apierrors.IsInvalid(err) && !apierrors.IsConflict(err):
			c.next = time.Time{} // what the pod says now may be something else
			c.unwritten = fmt.Errorf("write %s of pod %s/%s: %w", desired.NetworkStatusAnnotation, pod.Namespace, pod.Name, err)
			return c.unwritten
		}
		if err := r.client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil || string(pod.UID) != c.uid {
			return client.IgnoreNotFound(err)
		}
		c.networkStatus = pod.Annotations[desired.NetworkStatusAnnotation]
	}
}

func (r *Reporter) patchStatus(ctx context.Context, pod *metav1.PartialObjectMetadata, c *confirmation, text string) error {
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	patch, err := json.Marshal([]step{{"test", "/metadata/uid", c.uid}, {"test", statusPath, c.networkStatus}, {"replace", statusPath, text}})
	if err != nil {
		return err
	}
	// The subresource: whoever may write that can change no container.
	return r.client.Status().Patch(ctx, pod.DeepCopy(), client.RawPatch(types.JSONPatchType, patch))
}
