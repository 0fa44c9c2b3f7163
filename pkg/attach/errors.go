package attach

import "strings"

// ErrorKind says what sort of refusal an Error is; the plugin maps it to a CNI
// error code.
type ErrorKind string

// The kinds, with the CNI spec's codes that the plugin answers for them.
const (
	InvalidConfig ErrorKind = "InvalidConfig" // 7: the request can never work as it is
	TryAgain      ErrorKind = "TryAgain"      // 11: it may work later
	Conflict      ErrorKind = "Conflict"      // 7: the key or the MAC is in use by a living port
	Unavailable   ErrorKind = "Unavailable"   // 50 for STATUS, 11 else: this node cannot attach now
	Limited       ErrorKind = "Limited"       // 51 for STATUS: as Unavailable, and existing ports suffer
	Internal      ErrorKind = "Internal"      // 999
)

// Error is a refusal that tells people what to change. It crosses the socket.
type Error struct {
	Kind    ErrorKind `json:"kind"`
	Field   string    `json:"field,omitempty"`  // of the CNI config or manifest, as "vlanTrunk[0].id"
	Message string    `json:"message"`          // subject and cause
	Remedy  string    `json:"remedy,omitempty"` // what to do next
}

// Invalid is an Error of kind InvalidConfig.
func Invalid(field, message, remedy string) *Error {
	return &Error{Kind: InvalidConfig, Field: field, Message: message, Remedy: remedy}
}

// Error implements error: "field: message; remedy".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Message)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}
