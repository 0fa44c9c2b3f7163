package peer

import "fmt"

// Kind says what kept a Call from an answer.
type Kind string

// The kinds of Error.
const (
	// Invalid: the call could not be made as it is; nobody was asked.
	Invalid Kind = "Invalid"
	// Unreachable: nobody listens, no way leads there, the connection broke, or no
	// answer came in time. Error.Begun says whether the request may be under way.
	Unreachable Kind = "Unreachable"
	// Untrusted: one side does not take the other for the agent that it should be.
	Untrusted Kind = "Untrusted"
	// OtherVersion: the agents speak different versions of the protocol.
	OtherVersion Kind = "OtherVersion"
	// Remote: the other agent refused or failed. Error.RemoteKind tells which.
	Remote Kind = "Remote"
	// Garbled: the answer is not what this agent understands.
	Garbled Kind = "Garbled"
)

// What Error.RemoteKind may be, beside the kinds that handlers give by Refusal.
const (
	Failed      = "Failed"      // the handler's error had no kind
	Panicked    = "Panicked"    // the handler did; the other agent's log has it
	Busy        = "Busy"        // too many requests at once; another try may succeed
	Malformed   = "Malformed"   // the request is not understood
	TooLarge    = "TooLarge"    // the request, or the answer to it
	UnknownVerb = "UnknownVerb" // no handler has this verb
)

// Error is why a Call got no answer.
type Error struct {
	Kind Kind
	Peer Peer
	Verb string
	// Message is what happened: of kind Remote, in the other agent's words.
	Message string
	// Remedy is what to do next.
	Remedy string
	// RemoteKind is what the other agent calls it, if Kind is Remote.
	RemoteKind string
	// Begun says that the other agent took the request: it may have done what was
	// asked. If it is false nothing was begun.
	Begun bool
	// Err is the cause, if there is one in this process, as context.Canceled.
	Err error
}

// Error implements error: who was asked for what, what happened, remedy.
func (e *Error) Error() string {
	return fmt.Sprintf("agent of node %s at %s, asked for %s: %s; %s", e.Peer.Node, e.Peer.Address, e.Verb, e.Message, e.Remedy)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Refusal is a handler's error of a kind that callers tell apart by Error.RemoteKind.
type Refusal struct {
	Kind    string
	Message string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Message }
