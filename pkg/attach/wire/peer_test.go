package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// askVar has the test binary be a client of the socket that it names.
const askVar = "HOMEPORT_TEST_ASK"

func TestMain(m *testing.M) {
	if socket := os.Getenv(askVar); socket != "" {
		got, err := askOnce(socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(got)
		return
	}
	os.Exit(m.Run())
}

// askOnce asks for the status: it is answered or hung up on. Anything else, as a
// socket that cannot be reached, is an error.
func askOnce(socket string) (string, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var a Answer
	err = WriteMessage(c, Request{Version: Version, Verb: Status})
	if err == nil {
		err = ReadMessage(c, &a)
	}
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET):
		return "hung up", nil
	case err != nil:
		return "", err
	case a.Error != nil:
		return "", a.Error
	}
	return "answered", nil
}

// TestOnlyRoot: whoever can open the socket, as after a careless chmod, is hung
// up on all the same unless it is root.
func TestOnlyRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (a client of another user)")
	}
	var served atomic.Int32
	socket := newServer(t, map[Verb]Handler{Status: func(context.Context, json.RawMessage) (any, error) {
		served.Add(1)
		return nil, nil
	}})
	dir := filepath.Dir(socket)
	for path, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o711, dir: 0o711, socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		id     uint32
		want   string
		served int32
	}{{65534, "hung up", 0}, {0, "answered", 1}} {
		cmd := exec.Command("/proc/self/exe") // the file itself is in a folder for root only
		cmd.Env = []string{askVar + "=" + socket}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.id, Gid: tc.id}}
		var diag strings.Builder
		cmd.Stderr = &diag
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("uid %d: %v: %s", tc.id, err, diag.String())
		}
		if got := strings.TrimSpace(string(out)); got != tc.want || served.Load() != tc.served {
			t.Errorf("uid %d: %s, %d requests served; want %s and %d", tc.id, got, served.Load(), tc.want, tc.served)
		}
	}
}
