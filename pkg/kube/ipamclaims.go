package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// An IPAMClaim has the addresses that an IPAM plugin keeps for a VM's NIC over its pods (k8snetworkplumbingwg/ipamclaims). The pod names
// it, and not every cluster has the kind.
var claimVersion = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Kind: "IPAMClaim"}

// mostClaims is of how many interfaces of a pod claims are read.
const mostClaims = 32

// ipamClaim is what a claim says.
type ipamClaim struct {
	name      string
	addresses []netip.Addr
	wrong     error
}

// readClaims reads the claims that the annotations of a pod name. One that is not there, has no address yet, or has something wrong
// with it, is asked for again. Of one that cannot be read now what before, which may be nil, had of it stays.
func (r *Reporter) readClaims(ctx context.Context, namespace string, c, before *confirmation) {
	named := desired.IPAMClaims(c.annotations)
	for _, ifname := range slices.Sorted(maps.Keys(named))[:min(len(named), mostClaims)] {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(claimVersion)
		err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: named[ifname]}, o)
		var is ipamClaim
		switch {
		case apierrors.IsNotFound(err):
		case apierrors.IsForbidden(err): // rights of an older version
			is.wrong = fmt.Errorf("IPAMClaim %s may not be read: give the agent the rights of this version: %w", named[ifname], err)
		case err != nil:
			if before != nil && before.claims[ifname].name == named[ifname] {
				is = before.claims[ifname]
			}
			is.wrong = fmt.Errorf("IPAMClaim %s cannot be read now, and is read again: %w", named[ifname], err)
		default:
			is = claimOf(o)
		}
		if c.claims == nil {
			c.claims = map[string]ipamClaim{}
		}
		is.name = named[ifname]
		c.claims[ifname] = is
		c.unclaimed = c.unclaimed || len(is.addresses) == 0 || is.wrong != nil
	}
}

func claimOf(o *unstructured.Unstructured) (is ipamClaim) {
	ips, _, err := unstructured.NestedStringSlice(o.Object, "status", "ips")
	if err != nil {
		is.wrong = fmt.Errorf("IPAMClaim %s: status.ips is of another form: want a list of addresses, as 10.1.2.3/24", o.GetName())
	}
	for i, text := range ips[:min(len(ips), mostBindings)] {
		a, err := netip.ParseAddr(text)
		if p, errPrefix := netip.ParsePrefix(text); errPrefix == nil {
			a, err = p.Addr(), nil
		}
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			is.wrong = fmt.Errorf("IPAMClaim %s: status.ips[%d]: %q is no address: want one as 10.1.2.3/24 or 2001:db8::1/64", o.GetName(), i, text)
		case !slices.Contains(is.addresses, a):
			is.addresses = append(is.addresses, a)
		}
	}
	return is
}
