// Package browser holds pages that Homeport writes against a real browser: what they are when they
// are drawn, not what their text says.
package browser
