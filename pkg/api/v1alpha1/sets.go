package v1alpha1

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AddressSet is a named list of addresses that firewall rules name as a source or a
// destination. A change of it changes all of them. Nodes keep its last good version: a
// change that is wrong is not taken, nor is its removal while a rule or another set
// names it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=aset,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=integer,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Includes",type=string,JSONPath=`.spec.includes`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AddressSetSpec `json:"spec"`

	// Status is what became of the set; Homeport writes it.
	// +optional
	Status AddressSetStatus `json:"status,omitzero"`
}

// AddressSetSpec is what a set holds: its own addresses and those of the sets
// that it includes.
type AddressSetSpec struct {
	// Addresses, each an IP, a CIDR without host bits, or a range as
	// 10.0.0.5-10.0.0.9. One set holds 10,000 at most: more are split into sets
	// that a further one includes.
	// +optional
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=91
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`

	// Includes names other AddressSets, which may include others in their turn, 16 levels
	// deep at most, but never in a circle.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Includes []string `json:"includes,omitempty"`
}

// Limits of an AddressSet, and of a ServiceSet.
const (
	MaxSetAddresses = 10000
	MaxSetServices  = 256
	MaxSetIncludes  = 256
	// MaxSetLevels is how many sets there may be from one that rules name to the last
	// one that it includes by others, both counted.
	MaxSetLevels = 16
)

// ValidateAddressSet checks a set, as far as the object alone can be judged. It names
// some of the items that are wrong, if there are many.
func ValidateAddressSet(s *AddressSet) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta)
	spec := field.NewPath("spec")
	addresses := spec.Child("addresses")
	if n := len(s.Spec.Addresses); n > MaxSetAddresses {
		errs = append(errs, field.TooMany(addresses, n, MaxSetAddresses))
		errs[len(errs)-1].Detail += ": split them into sets that a further one includes"
	}
	errs = append(errs, once(addresses, s.Spec.Addresses, func(text string) error {
		_, _, err := ParseSpan(text)
		return err
	})...)
	return append(errs, validateIncludes(spec.Child("includes"), s.Spec.Includes)...)
}

// once checks texts, none of which may be there twice.
func once(path *field.Path, list []string, check func(string) error) (errs field.ErrorList) {
	const some = 16
	first := map[string]int{}
	wrong := 0
	for i, text := range list {
		err := check(text)
		if at, twice := first[text]; err == nil && twice {
			err = fmt.Errorf("is also item %d: want it once", at)
		}
		first[text] = i
		if err == nil {
			continue
		}
		if wrong++; wrong <= some {
			errs = append(errs, field.Invalid(path.Index(i), text, err.Error()))
		}
	}
	if wrong > some {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("%d items", len(list)), fmt.Sprintf("%d more items are wrong, too", wrong-some)))
	}
	return errs
}

// validateIncludes checks the names of sets that another one includes.
func validateIncludes(path *field.Path, names []string) (errs field.ErrorList) {
	if n := len(names); n > MaxSetIncludes {
		errs = append(errs, field.TooMany(path, n, MaxSetIncludes))
		errs[len(errs)-1].Detail += ": include sets that include them"
	}
	return append(errs, once(path, names, func(string) error { return nil })...)
}

// AddressSetStatus is what became of a set.
type AddressSetStatus struct {
	// Addresses that the set has, with those of the sets that it includes.
	// +optional
	Addresses int32 `json:"addresses"`

	// Conditions of the set: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AddressSetList is a list of AddressSets.
//
// +kubebuilder:object:root=true
type AddressSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AddressSet `json:"items"`
}

// ServiceSet is a named list of services that firewall rules name, as an AddressSet is
// one of addresses.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=sset,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Services",type=integer,JSONPath=`.status.services`
// +kubebuilder:printcolumn:name="Includes",type=string,JSONPath=`.spec.includes`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ServiceSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ServiceSetSpec `json:"spec"`

	// Status is what became of the set; Homeport writes it.
	// +optional
	Status ServiceSetStatus `json:"status,omitzero"`
}

// ServiceSetSpec is what a set holds: its own services and those of the sets that it
// includes.
type ServiceSetSpec struct {
	// Services as rules have them, but for any and serviceSet.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	Services []Service `json:"services,omitempty"`

	// Includes names other ServiceSets, which may include others in their turn, 16 levels
	// deep at most, but never in a circle.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Includes []string `json:"includes,omitempty"`
}

// ServiceSetStatus is what became of a set.
type ServiceSetStatus struct {
	// Services that the set has, with those of the sets that it includes.
	// +optional
	Services int32 `json:"services"`

	// Conditions of the set: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ServiceSetList is a list of ServiceSets.
//
// +kubebuilder:object:root=true
type ServiceSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ServiceSet `json:"items"`
}

// ValidateServiceSet checks a set, as far as the object alone can be judged.
func ValidateServiceSet(s *ServiceSet) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta)
	spec := field.NewPath("spec")
	services := spec.Child("services")
	if n := len(s.Spec.Services); n > MaxSetServices {
		errs = append(errs, field.TooMany(services, n, MaxSetServices))
		errs[len(errs)-1].Detail += ": split them into sets that a further one includes"
	}
	for i := range s.Spec.Services {
		service, at := &s.Spec.Services[i], services.Index(i)
		switch {
		case service.Any:
			errs = append(errs, field.Forbidden(at.Child("any"), "every service needs no set: leave services out of the rule"))
		case service.ServiceSet != "":
			errs = append(errs, field.Forbidden(at.Child("serviceSet"), "want it in spec.includes"))
		default:
			errs = append(errs, validateService(at, service)...)
		}
	}
	errs = append(errs, validateCombinations(services, s.Spec.Services)...)
	return append(errs, validateIncludes(spec.Child("includes"), s.Spec.Includes)...)
}

// MaxCombinations is what the services of a rule, or of a set with all that it includes,
// can come to: each range of ports counts for each of its source ports.
const MaxCombinations = 1024

func validateCombinations(path *field.Path, services []Service) field.ErrorList {
	total := 0
	for i := range services {
		n := 1
		for _, text := range []string{services[i].Ports, services[i].SourcePorts} {
			n *= strings.Count(text, ",") + 1
		}
		total += max(n, len(services[i].Types), len(services[i].Codes))
	}
	if total <= MaxCombinations {
		return nil
	}
	return field.ErrorList{field.Invalid(path, fmt.Sprintf("%d items", len(services)),
		fmt.Sprintf("come to %d services, each port range counted for each of its source port ranges: want at most %d: name ranges, or split them", total, MaxCombinations))}
}

// FirewallPolicyList is a list of FirewallPolicies.
//
// +kubebuilder:object:root=true
type FirewallPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FirewallPolicy `json:"items"`
}
