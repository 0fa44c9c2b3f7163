package report

import (
	"strconv"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Versions are those of homeportctl and of the agent on the same node.
type Versions struct {
	wire.TypeMeta `json:",inline"`
	Client        string `json:"client"`
	Protocol      int    `json:"protocol"` // of the agent's socket, as the client speaks it
	Agent         string `json:"agent,omitempty"`
	// AgentUnknown is why Agent is empty.
	AgentUnknown string `json:"agentUnknown,omitempty"`
}

// Versions writes v.
func (p Printer) Versions(v Versions) error {
	if !p.Format.IsText() {
		return p.Document(v)
	}
	agent := say(v.Agent)
	if v.Agent == "" {
		agent = cell{"unknown: " + v.AgentUnknown, warn}
	}
	pg := p.text()
	pg.pairs(
		[2]cell{{"homeportctl", head}, say(v.Client)},
		[2]cell{{"bridge-agent", head}, agent},
		[2]cell{{"protocol", head}, say(strconv.Itoa(v.Protocol))},
	)
	return p.flush(pg)
}
