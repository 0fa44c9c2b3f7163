package main

import (
	"testing"

	"github.com/homeport-cni/homeport/test/docs"
)

// TestDocumentedCommands: what any page shows can be typed.
func TestDocumentedCommands(t *testing.T) { docs.CheckCommands(t, "bridge-agent", newRoot) }
