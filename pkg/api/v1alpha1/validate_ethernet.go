package v1alpha1

import (
	"reflect"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateEthernet refuses what a policy of category Ethernet cannot be.
func validateEthernet(spec *field.Path, s *FirewallPolicySpec) field.ErrorList {
	var errs field.ErrorList
	for i, a := range s.AppliedTo {
		if a.AddressSet != "" {
			errs = append(errs, field.Forbidden(spec.Child("appliedTo").Index(i).Child("addressSet"),
				"frames are told apart by MAC, not by IP address: want networks, VMs, or any: true"))
		}
	}
	for name, is := range map[string]*bool{"stateful": s.Stateful, "tcpStrict": s.TCPStrict} {
		if is != nil && !*is {
			errs = append(errs, field.Forbidden(spec.Child(name), "means nothing in category Ethernet, which judges frame by frame: leave it out"))
		}
	}
	if s.Sticky {
		errs = append(errs, field.Forbidden(spec.Child("sticky"), "means nothing in category Ethernet, which judges frame by frame: leave it out"))
	}
	return errs
}

// vmInFrame says why Ethernet rules have no peers by label.
const vmInFrame = "is addresses, and frames have MACs: name it by mac"

// validateFrames refuses what a rule about frames cannot say.
func validateFrames(path *field.Path, r *FirewallRule) field.ErrorList {
	var errs field.ErrorList
	if r.Action == ActionReject {
		errs = append(errs, field.Forbidden(path.Child("action"), "frames have no answer by which a sender could be told: want Drop"))
	}
	eachPeer(path, r, func(at *field.Path, p *Peer) {
		for name, is := range map[string]bool{"ip": p.IP != "", "cidr": p.CIDR != "", "range": p.Range != "", "addressSet": p.AddressSet != "", "network": p.Network != ""} {
			if is && p.MAC == "" {
				errs = append(errs, field.Forbidden(at.Child(name), "category Ethernet knows MACs alone: want mac, or a policy of another category"))
			}
		}
	})
	for i, s := range r.Services {
		if at := path.Child("services").Index(i); reflect.DeepEqual(s, Service{}) {
			errs = append(errs, field.Required(at, "want etherType, as ARP or \"0x8892\""))
		} else if s.EtherType == "" && s.ServiceSet == "" && !s.Any {
			errs = append(errs, field.Forbidden(at, "category Ethernet knows EtherTypes alone: want etherType, or a policy of another category"))
		}
	}
	return errs
}

// validateIP refuses what a rule about packets cannot say.
func validateIP(path *field.Path, r *FirewallRule) field.ErrorList {
	var errs field.ErrorList
	eachPeer(path, r, func(at *field.Path, p *Peer) {
		if p.MAC != "" {
			errs = append(errs, field.Forbidden(at.Child("mac"), "rules about MACs are of category Ethernet: want ip, cidr or the like, or a policy of that category"))
		}
	})
	for i, s := range r.Services {
		if s.EtherType != "" {
			errs = append(errs, field.Forbidden(path.Child("services").Index(i).Child("etherType"),
				"rules about EtherTypes are of category Ethernet: want protocol, or a policy of that category"))
		}
	}
	return errs
}

func eachPeer(path *field.Path, r *FirewallRule, do func(*field.Path, *Peer)) {
	for name, list := range map[string][]Peer{"sources": r.Sources, "destinations": r.Destinations} {
		for i := range list {
			do(path.Child(name).Index(i), &list[i])
		}
	}
}
