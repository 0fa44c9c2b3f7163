//go:build race

package learn

// slow: a test costs many times as much with the race detector, which has little to find here.
const slow = true
