package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

var testHead = Head{Node: "n1/rack 3", Time: time.Date(2026, 9, 1, 12, 0, 0, 0, time.FixedZone("", 7200)), Version: "v0.1.0"}

// contents writes a bundle and reads it again, by name without the top folder.
func contents(t *testing.T, collect func(*Writer)) map[string]string {
	t.Helper()
	var b bytes.Buffer
	w := New(&b, testHead)
	collect(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "homeport-bundle-n1_rack_3-20260901T100000Z/")
		if _, twice := out[name]; !ok || twice || h.Mode != 0o600 {
			t.Errorf("%s (mode %o): outside the top folder, twice there, or open to others", h.Name, h.Mode)
		}
		out[name] = string(text)
	}
}

// TestNoSecretComesIn plants secrets wherever the outside can put something, and
// looks for them in all that comes out.
func TestNoSecretComesIn(t *testing.T) {
	run := t.TempDir()
	kubeconfig := filepath.Join(t.TempDir(), "admin.conf")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(kubeconfig, "token: "+plantedWord)
	write(filepath.Join(run, "a.json"), `{"version": 1, "containerID": "c0ffee", "token": "`+plantedWord+`"}`)
	write(filepath.Join(run, "b.json.corrupt-20260901T120000.000000000Z"), `{"version": 1, "containerID": "beef", "note": "`+plantedJWT+`"`)
	write(filepath.Join(run, "sound.json"), `{"version":  1}`)
	if err := os.Symlink(kubeconfig, filepath.Join(run, "c.json")); err != nil {
		t.Fatal(err)
	}
	conf := fstest.MapFS{
		"00-multus.conf":     {Data: []byte(`{"type": "multus", "kubeconfig": "` + plantedWord + `"}`)},
		"10-legacy.conflist": {Data: []byte(`{"name": "legacy-100", "plugins": [{"type": "bridge"}, {"type": "homeport", "apiKey": "` + plantedWord + `"}]}`)},
		"20-vlan.conf":       {Data: []byte(`{"type": "homeport", "network": "vlan100"}`)},
		"multus.d/kubeconf":  {Data: []byte(plantedPEM)},
		"torn.conf":          {Data: []byte(`{"type": "homeport", "token": "` + plantedWord)},
	}
	got := contents(t, func(w *Writer) {
		w.Dir(run, "attachments")
		w.CNI(conf, "/etc/cni/net.d")
		w.Host(fstest.MapFS{"proc/version": {Data: []byte("Linux 6.12")}, "proc/cmdline": {Data: []byte("x=" + plantedWord)}})
		w.Missing("agent", errors.New("401: Bearer "+plantedWord))
		w.Add("agent/log.txt", []byte("level=ERROR header=\"Authorization: Bearer "+plantedJWT+"\"\n"+plantedPEM+"\nuplink is down\n"))
	})
	for name, text := range got {
		for _, part := range leaked {
			if strings.Contains(text, part) {
				t.Errorf("%s: %q is in it:\n%s", name, part, text)
			}
		}
	}
	for name, part := range map[string]string{
		"attachments/a.json": `"containerID": "c0ffee"`,
		"attachments/b.json.corrupt-20260901T120000.000000000Z": "beef",
		"attachments/sound.json":                                `{"version":  1}`,
		"cni/listing.txt":                                       "00-multus.conf",
		"cni/10-legacy.conflist":                                "legacy-100",
		"cni/20-vlan.conf":                                      "vlan100",
		"host.txt":                                              "Linux 6.12",
		"agent/log.txt":                                         "uplink is down",
		Manifest:                                                "attachments/c.json: not followed",
	} {
		if !strings.Contains(got[name], part) {
			t.Errorf("%s lacks %q: %q", name, part, got[name])
		}
	}
	if len(got) != 9 {
		t.Errorf("%d files, want those above: %q", len(got), got[Manifest])
	}
}

// TestSizeIsBounded: neither one long file nor many of them make a bundle longer
// than it may be, and the manifest tells what is not in it.
func TestSizeIsBounded(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcde\n"), MaxFile/16+1)
	got := contents(t, func(w *Writer) {
		if w.left != MaxTotal {
			t.Errorf("%d bytes may come, want %d", w.left, MaxTotal)
		}
		w.left = 2 * MaxFile // as if others had come before
		for _, name := range []string{"a", "b", "c"} {
			w.Add(name, long)
		}
	})
	total := 0
	for _, text := range got {
		total += len(text)
	}
	if len(got["a"]) != MaxFile || total > 2*MaxFile+4096 {
		t.Errorf("a file of %d bytes, %d in all", len(got["a"]), total)
	}
	for _, part := range []string{"a: cut at 8388608 of 8388624 bytes", "b: cut at ", "c: the bundle has its 64 MiB", "NOT COLLECTED: 1"} {
		if !strings.Contains(got[Manifest], part) {
			t.Errorf("the manifest lacks %q:\n%s", part, got[Manifest])
		}
	}
}

// TestWhatIsMissingIsTold, and nothing else suffers.
func TestWhatIsMissingIsTold(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	got := contents(t, func(w *Writer) {
		w.Dir(absent, "attachments")
		w.CNI(os.DirFS(absent), absent)
		w.Pins(absent)
		w.Network(fakeNet{err: errors.New("netlink is closed")})
		w.Binaries([]string{absent})
		w.Try("doctor.txt", func() ([]byte, error) { return []byte("half"), errors.New("killed") })
	})
	for _, part := range []string{"attachments: ", "cni/listing.txt: ", "maps: nothing of ABI version", "network: netlink is closed", "doctor.txt: killed", "NOT COLLECTED: 5"} {
		if !strings.Contains(got[Manifest], part) {
			t.Errorf("the manifest lacks %q:\n%s", part, got[Manifest])
		}
	}
	if got["doctor.txt"] != "half" || !strings.Contains(got["binaries.txt"], "no such file") {
		t.Errorf("%q", got)
	}
}

// fakeNet is a node with one bridge and one port.
type fakeNet struct{ err error }

var (
	fakeBridge = bridge.Link{Index: 2, Name: "br-trunk0", Kind: "bridge", Bridge: &bridge.BridgeAttrs{VLANFiltering: true}}
	fakePort   = bridge.Link{Index: 3, Name: "veth8f2c01", Kind: "veth", MTU: 1500, Master: 2, Alias: "token=" + plantedWord}
)

func (f fakeNet) Links() ([]bridge.Link, error) { return []bridge.Link{fakeBridge, fakePort}, f.err }

func (f fakeNet) Observe(string, ...bridge.Ref) (bridge.Observed, error) {
	var v bridge.PortVLANs
	v.PVID = 100
	err := errors.Join(v.Members.Add(vlan.ID(100)), v.Untagged.Add(vlan.ID(100)))
	return bridge.Observed{Bridge: fakeBridge.Ref(), Ports: map[int]bridge.ObservedPort{3: {Ref: fakePort.Ref(), VLANs: v}}}, err
}

func (f fakeNet) FDB(bridge.Ref) ([]bridge.FDBEntry, error) {
	return []bridge.FDBEntry{{Port: 3, MAC: net.HardwareAddr{0, 0x50, 0x56, 0xaa, 0xbb, 1}, VLAN: 100}}, nil
}

func TestNetwork(t *testing.T) {
	got := contents(t, func(w *Writer) { w.Network(fakeNet{}) })
	for name, parts := range map[string][]string{
		"network/links.txt": {"veth8f2c01", "br-trunk0"},
		"network/vlans.txt": {"== br-trunk0 filtering true", "veth8f2c01  disabled  100 PVID untagged"},
		"network/fdb.txt":   {"00:50:56:aa:bb:01\tvlan 100\tveth8f2c01\tlocal false"},
	} {
		for _, part := range parts {
			if !strings.Contains(got[name], part) {
				t.Errorf("%s lacks %q:\n%s", name, part, got[name])
			}
		}
	}
	if strings.Contains(got["network/links.txt"], plantedWord) {
		t.Errorf("an alias with a password:\n%s", got["network/links.txt"])
	}
}
