package kube

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// TestTrunkReady: policy on its way is nothing to say of a trunk, and neither is one
// network's policy that is refused; what is overdue is, with the reason.
func TestTrunkReady(t *testing.T) {
	since := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		change func(*wire.NodeStatus)
		want   string // status, reason and message
	}{
		"all is well": {func(*wire.NodeStatus) {}, "True Healthy: carries what it should"},
		"on its way":  {func(s *wire.NodeStatus) { s.Desired, s.Pending = 4, &wire.PendingPolicy{Since: since} }, "True Healthy: carries what it should"},
		"overdue": {func(s *wire.NodeStatus) { s.Desired, s.Pending = 4, &wire.PendingPolicy{Since: since, Overdue: true} },
			"False PolicyPending: revision 4 of policy is desired since 2026-09-01T12:00:00Z, 3 is active"},
		"failed": {func(s *wire.NodeStatus) {
			s.Desired, s.Pending = 4, &wire.PendingPolicy{Since: since, Overdue: true, Message: `the rules of network "lan" are refused`}
		}, `False PolicyPending: revision 4 of policy is desired since 2026-09-01T12:00:00Z, 3 is active: the rules of network "lan" are refused`},
		"a refused policy": {func(s *wire.NodeStatus) {
			s.Reasons = []string{`the policy of network "lan" is refused: its policy: has 129 rules`}
			s.Problems = []wire.Problem{{Kind: "VLANNetwork", Name: "lan", Message: "its policy: has 129 rules", Kept: true}}
		}, "True Healthy: carries what it should"},
	} {
		s := wire.NodeStatus{Desired: 3, Compiled: 3, Active: 3, Trunks: []wire.TrunkStatus{{Name: "t", Link: wire.LinkUp, MTU: 1500, Ready: true}}}
		tc.change(&s)
		states := trunkStates(s, nil)
		if c := states[0].ready; string(c.Status)+" "+c.Reason+": "+c.Message != tc.want || len(states) != 1 {
			t.Errorf("%s: %+v, want %s", name, states, tc.want)
		}
	}
}

// TestTrunkConditions: what a trunk's node says beside Ready goes along, with its own
// time, and what it says no more goes.
func TestTrunkConditions(t *testing.T) {
	since := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	filtered := wire.Condition{Type: v1alpha1.ConditionHostFiltered, Status: "True", Reason: v1alpha1.ReasonHostFirewall,
		LastTransitionTime: since, Message: strings.Repeat("policy of FORWARD is DROP ", 100)}
	s := wire.NodeStatus{Desired: 3, Compiled: 3, Active: 3, Trunks: []wire.TrunkStatus{{Name: "t", MTU: 1500, Ready: true, Conditions: []wire.Condition{filtered}}}}
	st := trunkStates(s, nil)[0]
	if st.ready.Reason != v1alpha1.ReasonHealthy {
		t.Errorf("the host's firewall is no reason for %+v", st.ready)
	}
	list := []metav1.Condition{st.ready}
	changed := st.setOthers(&list)
	if len(changed) != 1 || len(list) != 2 || list[1].Reason != v1alpha1.ReasonHostFirewall || len(list[1].Message) != 1024 || !list[1].LastTransitionTime.Time.Equal(since) {
		t.Errorf("changed %+v, list %+v", changed, list)
	}
	if changed := st.setOthers(&list); len(changed) != 0 {
		t.Errorf("without news: %+v", changed)
	}
	s.Trunks[0].Conditions = nil
	if changed := trunkStates(s, nil)[0].setOthers(&list); len(changed) != 0 || len(list) != 1 || list[0].Type != v1alpha1.ConditionReady {
		t.Errorf("changed %+v, left %+v", changed, list)
	}
}
