package desired

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Selector selects by labels. As text it is what kubectl takes for --selector.
// The zero Selector selects nothing.
type Selector struct{ parsed labels.Selector }

// NewSelector reads a selector of an object, and says what is wrong with it. The
// empty one selects everything.
func NewSelector(s *metav1.LabelSelector) (Selector, error) {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return Selector{}, err
	}
	var out Selector
	return out, out.UnmarshalText([]byte(parsed.String())) // one form for equal selectors
}

// Matches says whether labels are selected.
func (s Selector) Matches(set map[string]string) bool {
	return s.parsed != nil && s.parsed.Matches(labels.Set(set))
}

// String is the selector as text; "" selects everything.
func (s Selector) String() string {
	if s.parsed == nil {
		return "nothing"
	}
	return s.parsed.String()
}

// MarshalText gives what String does; it fails on one that selects nothing.
func (s Selector) MarshalText() ([]byte, error) {
	if s.parsed == nil {
		return nil, fmt.Errorf("a selector of nothing has no text")
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads what MarshalText gave.
func (s *Selector) UnmarshalText(text []byte) (err error) {
	s.parsed, err = labels.Parse(string(text))
	return err
}
