//go:build !race

package learn

const slow = false
